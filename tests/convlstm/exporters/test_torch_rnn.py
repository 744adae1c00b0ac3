"""Stacks and cells exported to torch.nn, which loads them strictly and computes the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convlstm
from convlstm import export
from convlstm.importers.foreign import Foreign
from convlstm.importers.torch_rnn import SOURCE
from convlstm.nn.base import ConvCell

T, B, C_IN, C = 4, 3, 3, 2
KINDS = ["tanh", "relu", "LSTM", "GRU"]


def make(kind: str, cell: bool = False, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Make one of our modules with a 1x1 kernel, and torch's of the same sizes, in float64."""
    name, options = kind, {"dtype": torch.float64, **options}
    if kind in ("tanh", "relu"):
        name, options = "RNN", {"nonlinearity": kind, **options}
    name += "Cell" * cell
    return getattr(convlstm, f"Conv{name}")(C_IN, C, 1, **options), getattr(nn, name)(C_IN, C, **options)


def flatten(result: Any) -> list[Tensor]:
    """List the tensors of (output, h), (output, (h, c)), (h, c) or h."""
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flatten(part)]


def compare(ours: nn.Module, theirs: nn.Module, x: Tensor, kind: str, path: Path) -> None:
    """Export, load strictly, run; import again, bit-equal."""
    export(ours, path)
    tensors = torch.load(path, weights_only=True)
    theirs.load_state_dict(tensors)
    for actual, expected in zip(flatten(theirs(x)), flatten(ours(x[..., None, None])), strict=True):
        torch.testing.assert_close(actual[..., None, None], expected, rtol=0, atol=1e-12)
    options = {"nonlinearity": kind} if kind in ("tanh", "relu") else {}
    again: Any = SOURCE.convert(Foreign(tensors, options)).model
    again = again.cells[0] if isinstance(ours, ConvCell) else again  # a cell comes back as a layer of one
    assert type(again) is type(ours)
    torch.testing.assert_close(again.state_dict(), ours.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "sizes", [{"cell": True}, {}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}], ids=str
)
def test_layers_and_cells(kind: str, bias: bool, sizes: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = make(kind, bias=bias, **sizes)
    x = torch.randn(*([] if "cell" in sizes else [T]), B, C_IN, dtype=torch.float64)
    compare(ours, theirs, x, kind, tmp_path / "model.pth")


def test_the_type_is_kept_through_the_wrapper_of_compile(tmp_path: Path) -> None:
    model: Any = torch.compile(convlstm.ConvLSTM(C_IN, C, 1, spatial_dims=3, dtype=torch.bfloat16))
    export(model, tmp_path / "model.pt")
    tensors = torch.load(tmp_path / "model.pt", weights_only=True)
    nn.LSTM(C_IN, C, dtype=torch.bfloat16).load_state_dict(tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (convlstm.ConvLSTM(C_IN, C, (1, 3)), "model has a kernel of 1x3; .* need a kernel of 1"),
        (convlstm.ConvLSTM(C_IN, C, 1, peephole="channel"), "model has peepholes; torch.nn.LSTM has none"),
        (convlstm.ConvGRU(C_IN, C, 1, reset_after=False), "model has reset_after=False; torch.nn.GRU"),
        (nn.LSTM(C_IN, C), r"model is a LSTM; torch\.nn has layers for a ConvRNN, ConvLSTM"),
        (convlstm.ConvRNN(0, C, 1), "model has input_channels=0; .* need an input"),
    ],
)
def test_what_torch_has_no_layers_for_is_refused(model: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []
