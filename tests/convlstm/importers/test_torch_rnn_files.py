"""State dicts of torch.nn.RNN, LSTM, GRU and their cells, as they stand in files, against torch.nn itself."""

from typing import Any

import pytest
import torch
from torch import nn

from convlstm.importers.checking import check
from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.torch_rnn import SOURCE
from convlstm.nn.base import ConvRecurrent

KINDS = [("RNN", {"nonlinearity": "tanh"}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {}), ("GRU", {})]
X = torch.linspace(-1, 1, 36, dtype=torch.float64).sin().reshape(3, 4, 3)  # (B, T, I)


def convert(module: nn.Module, **options: Any) -> Imported:
    """Convert the module's state dict alone."""
    foreign = Foreign(dict(module.state_dict()), options)
    assert SOURCE.recognizes(foreign)
    assert options.keys() <= SOURCE.options.keys()
    return SOURCE.convert(foreign)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize(
    ("layers", "bias", "bidirectional"), [(3, True, False), (1, False, True), (2, True, True)]
)
def test_layers(kind: str, options: dict[str, Any], layers: int, bias: bool, bidirectional: bool) -> None:
    both = {"batch_first": True, "bidirectional": bidirectional, "dtype": torch.float64}
    module = getattr(nn, kind)(3, 2, num_layers=layers, bias=bias, **both, **options)
    imported = convert(module, **options)
    assert isinstance(imported.model, ConvRecurrent)
    assert imported.model.batch_first
    assert not imported.model.training
    assert check(imported, X.numpy(), module(X)[0].detach().numpy()) < 1e-12


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind: str, options: dict[str, Any], bias: bool) -> None:
    module = getattr(nn, f"{kind}Cell")(3, 2, bias, dtype=torch.float64, **options)
    state, outputs = None, []
    for x in X.unbind(1):
        state = module(x, state)
        outputs.append(state[0] if kind == "LSTM" else state)
    output = torch.stack(outputs, dim=1).detach()
    assert check(convert(module, **options), X.numpy(), output.numpy()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_type_of_the_file_is_kept(dtype: torch.dtype) -> None:
    assert {p.dtype for p in convert(nn.LSTM(3, 2, dtype=dtype)).model.parameters()} == {dtype}


def test_what_is_said_of_a_file() -> None:
    imported = convert(nn.LSTM(3, 2, 2, bidirectional=True))
    assert (imported.source, imported.gates) == ("torch.nn.LSTM", "i, f, g, o")
    assert imported.layers == ("ConvLSTM 3 -> 2, num_layers=2, batch_first=True, bidirectional=True",)
    assert imported.guesses == ("the input has its batch first",)
    assert not convert(nn.LSTM(3, 2), batch_first=False).guesses


def test_what_the_file_does_not_say_and_what_cannot_be_expressed() -> None:
    for module in (nn.RNN(3, 2), nn.RNNCell(3, 2)):
        with pytest.raises(ValueError, match=r"nonlinearity is not in the file: .*'tanh' or .*'relu'"):
            convert(module)
    with pytest.raises(ValueError, match="weight_hr_l0 is in the file: an LSTM with a proj_size cannot"):
        convert(nn.LSTM(3, 2, proj_size=1))
    for dims in (0, "2"):
        with pytest.raises(ValueError, match=f"spatial_dims is {dims!r}; it needs 1, 2 or 3"):
            convert(nn.LSTM(3, 2), spatial_dims=dims)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_hh_l0": torch.zeros(4, 2)}, r"weight_hh_l0 \(4, 2\); they need .* 4 \(LSTM\)"),
        ({"weight_hh_l0": torch.zeros(8, 0)}, r"weight_hh_l0 \(8, 0\); they need"),
        ({"weight_ih_l0": torch.zeros(8, 0)}, r"weight_ih_l0 has shape \(8, 0\)"),
        ({"weight_ih_l0": torch.zeros(7, 3)}, r"weight_ih_l0 has shape \(7, 3\), the network needs \(8, 3\)"),
        ({"bias_hh_l1": None}, "bias_hh_l1 is missing"),
        ({"weight_ih_l3": torch.zeros(8, 2)}, "weight_ih_l3 is not in the network"),
        ({"fc.weight": torch.zeros(1, 2)}, r"fc\.weight is not in the network"),
        ({"bias_ih_l0": torch.full((8,), torch.nan)}, "bias_ih_l0 has values that are not finite"),
        ({"bias_ih_l0": torch.zeros(8).double()}, r"of torch\.float32, torch\.float64; they need one"),
        ({"bias_ih_l0": torch.zeros(8).int()}, r"of torch\.float32, torch\.int32; they need one"),
    ],
)
def test_files_that_hold_no_whole_module_are_refused(changes: dict[str, Any], message: str) -> None:
    tensors = {**nn.LSTM(3, 2, 2).state_dict(), **changes}
    with pytest.raises(ValueError, match=message):
        SOURCE.convert(Foreign({name: tensor for name, tensor in tensors.items() if tensor is not None}))


@pytest.mark.parametrize("shape", [(8, 3, 1, 1), (8,)])
def test_other_tensors_are_not_taken_for_a_module(shape: tuple[int, ...]) -> None:
    for end in ("", "_l0"):
        tensors = {f"weight_ih{end}": torch.zeros(shape), f"weight_hh{end}": torch.zeros(shape)}
        assert not SOURCE.recognizes(Foreign(tensors))
        with pytest.raises(ValueError, match="weight_ih_l0 and weight_hh_l0 are missing, or a cell's"):
            SOURCE.convert(Foreign(tensors))
