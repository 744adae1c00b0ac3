"""State dicts of torch.nn.RNN, LSTM, GRU and their cells, as they stand in files, against torch.nn itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.torch_rnn import SOURCE
from convlstm.nn.base import ConvRecurrent

T, B, C_IN, C = 4, 3, 3, 2
KINDS = ["tanh", "relu", "LSTM", "GRU"]


def make(kind: str, cell: bool = False, **options: Any) -> nn.Module:
    """Make a torch module in float64; the RNN's kind is its nonlinearity."""
    name = kind
    if kind in ("tanh", "relu"):
        name, options = "RNN", {"nonlinearity": kind, **options}
    return getattr(nn, name + "Cell" * cell)(C_IN, C, **{"dtype": torch.float64, **options})


def convert(module: nn.Module, kind: str = "", **options: Any) -> Imported:
    """Convert the module's state dict alone; of an RNN, the kind is its nonlinearity."""
    if kind in ("tanh", "relu"):
        options["nonlinearity"] = kind
    foreign = Foreign(dict(module.state_dict()), options)
    assert SOURCE.recognizes(foreign)
    assert options.keys() <= SOURCE.options.keys()
    return SOURCE.convert(foreign)


def flatten(result: Any) -> list[Tensor]:
    """List the tensors of (output, h), (output, (h, c)), (h, c) or h."""
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flatten(part)]


def compare(module: nn.Module, kind: str, x: Tensor, hx: list[Tensor], imported: Imported, dims: int) -> None:
    """Compare outputs and states: vectors are frames of one pixel."""

    def call(network: nn.Module, x: Tensor, hx: list[Tensor]) -> list[Tensor]:
        return flatten(network(x, *pair(kind, hx)) if hx else network(x))

    def lift(vectors: Tensor) -> Tensor:
        return vectors[(..., *(None,) * dims)]

    theirs = call(module, x, hx)
    ours = call(imported.model, lift(x), [lift(h) for h in hx])
    assert len(ours) == len(theirs)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, lift(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "bias"), [(3, False, True), (1, True, False), (2, True, True)]
)
def test_layers(kind: str, num_layers: int, bidirectional: bool, bias: bool) -> None:
    module = make(kind, num_layers=num_layers, bidirectional=bidirectional, bias=bias, batch_first=True)
    imported = convert(module, kind)
    assert isinstance(imported.model, ConvRecurrent)
    assert imported.model.batch_first
    assert not imported.model.training
    assert imported.input_layout == imported.output_layout == "b t c"
    assert len(imported.layers) == num_layers
    depth = num_layers * (1 + bidirectional)
    hx = [torch.randn(depth, B, C, dtype=torch.float64) for _ in range(1 + (kind == "LSTM"))]
    x = torch.randn(B, T, C_IN, dtype=torch.float64)
    for states in ([], hx):
        compare(module, kind, x, states, imported, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind: str, bias: bool) -> None:
    module = make(kind, cell=True, bias=bias)
    layer = convert(module, kind).model
    hx = [torch.randn(B, C, dtype=torch.float64) for _ in range(1 + (kind == "LSTM"))]
    x = torch.randn(B, C_IN, dtype=torch.float64)
    lifted = [state[None, ..., None, None] for state in hx]  # (1, B, C, 1, 1)
    expected, (_, *found) = (
        module(x, *pair(kind, hx)),
        flatten(layer(x[:, None, :, None, None], *pair(kind, lifted))),
    )
    for one, other in zip(found, flatten(expected), strict=True):
        torch.testing.assert_close(one[0, ..., 0, 0], other, rtol=0, atol=1e-12)


def pair(kind: str, states: list[Tensor]) -> list[Any]:
    return [tuple(states)] if kind == "LSTM" else states


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spatial_dims(dims: int) -> None:
    module = make("GRU", batch_first=True)
    imported = convert(module, spatial_dims=dims)
    assert imported.layers == (f"ConvGRU 3 -> 2, {'x'.join('1' * dims)}",)
    compare(module, "GRU", torch.randn(B, T, C_IN, dtype=torch.float64), [], imported, dims)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_type_of_the_file_is_kept(dtype: torch.dtype) -> None:
    assert {p.dtype for p in convert(make("LSTM", dtype=dtype)).model.parameters()} == {dtype}


def test_what_is_said_of_a_file() -> None:
    imported = convert(make("LSTM", num_layers=2, bidirectional=True))
    assert imported.source == "torch.nn.LSTM"
    assert imported.gates == "i, f, g, o"
    assert imported.layers == tuple(f"ConvLSTM {n} -> 2, 1x1, both directions, concat" for n in (3, 4))
    assert imported.guesses == ("the input has its batch first",)
    time_first = convert(make("LSTM"), batch_first=False)
    assert time_first.input_layout == time_first.output_layout == "t b c"
    assert time_first.guesses == ()


def test_what_the_file_does_not_say_and_what_cannot_be_expressed() -> None:
    for cell in (False, True):
        with pytest.raises(ValueError, match=r"nonlinearity is not in the file: .*'tanh' or .*'relu'"):
            convert(make("tanh", cell))
    with pytest.raises(ValueError, match="weight_hr_l0 is in the file: an LSTM with a proj_size cannot"):
        convert(make("LSTM", proj_size=1))
    for dims in (0, "2"):
        with pytest.raises(ValueError, match=f"spatial_dims is {dims!r}; it needs 1, 2 or 3"):
            convert(make("LSTM"), spatial_dims=dims)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_hh_l0": torch.zeros(4, 2)}, r"weight_hh_l0 \(4, 2\); they need .* 4 \(LSTM\)"),
        ({"weight_hh_l0": torch.zeros(9, 2)}, r"weight_hh_l0 \(9, 2\); they need"),
        ({"weight_hh_l0": torch.zeros(8, 0)}, r"weight_hh_l0 \(8, 0\); they need"),
        ({"weight_ih_l0": torch.zeros(8, 0)}, r"weight_ih_l0 has shape \(8, 0\)"),
        ({"weight_ih_l0": torch.zeros(7, 3)}, r"weight_ih_l0 has shape \(7, 3\), it needs \(8, 3\)"),
        ({"bias_hh_l1": None}, "bias_hh_l1 is missing"),
        ({"weight_ih_l3": torch.zeros(8, 2)}, "weight_ih_l3 is not in the model"),
        ({"fc.weight": torch.zeros(1, 2)}, r"fc\.weight is not in the model"),
        ({"bias_ih_l0": torch.full((8,), torch.nan)}, "bias_ih_l0 has values that are not finite"),
        ({"bias_ih_l0": torch.zeros(8).double()}, r"of torch\.float32, torch\.float64; they need one"),
        ({"bias_ih_l0": torch.zeros(8).int()}, r"of torch\.float32, torch\.int32; they need one"),
    ],
)
def test_files_that_hold_no_whole_module_are_refused(changes: dict[str, Any], message: str) -> None:
    tensors = {**make("LSTM", num_layers=2, dtype=torch.float32).state_dict(), **changes}
    with pytest.raises(ValueError, match=message):
        SOURCE.convert(Foreign({name: tensor for name, tensor in tensors.items() if tensor is not None}))


@pytest.mark.parametrize("shape", [(8, 3, 1, 1), (8,)])
def test_other_tensors_are_not_taken_for_a_module(shape: tuple[int, ...]) -> None:
    for end in ("", "_l0"):
        tensors = {f"weight_ih{end}": torch.zeros(shape), f"weight_hh{end}": torch.zeros(shape)}
        assert not SOURCE.recognizes(Foreign(tensors))
        with pytest.raises(ValueError, match="weight_ih_l0 and weight_hh_l0 are missing, or a cell's"):
            SOURCE.convert(Foreign(tensors))
