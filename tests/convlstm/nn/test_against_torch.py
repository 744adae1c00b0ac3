"""torch.nn.RNN, LSTM, GRU and their cells, converted, against themselves: values, states, all gradients."""

from itertools import product
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from convlstm.importers import from_torch
from convlstm.nn import layers
from convlstm.nn.base import ConvCell

T, B, C_IN, C = 4, 3, 3, 2
KINDS = ["tanh", "relu", "LSTM", "GRU"]


def make(kind: str, cell: bool = False, **options: Any) -> nn.RNNBase | nn.RNNCellBase:
    """Make a torch module in float64; the RNN's kind is its nonlinearity."""
    name = kind
    if kind in ("tanh", "relu"):
        name, options = "RNN", {**options, "nonlinearity": kind}
    return getattr(nn, name + "Cell" * cell)(C_IN, C, dtype=torch.float64, **options)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def copy_as(pattern: str, frames: Tensor, spatial: int) -> Tensor:
    """Make a leaf of a copy in which every pixel is a sequence of its own: the last axes join the batch."""
    flat = frames.detach().flatten(frames.dim() - spatial)
    return rearrange(flat, pattern).clone().requires_grad_()


def assert_equal(actual: Tensor | None, expected: Tensor | None) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def flatten(result: Any) -> list[Tensor]:
    """List the tensors of (output, h), (output, (h, c)), (h, c) or h."""
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flatten(part)]


def assert_parameter_gradients(module: nn.Module, cell: nn.Module, end: str = "") -> None:
    """Compare one cell's gradients with those of the torch parameters whose names end so."""
    assert isinstance(cell, ConvCell)
    theirs = {name: p.grad for name, p in module.named_parameters()}
    for name in ("weight_ih", "weight_hh"):
        assert_equal(getattr(cell, name).grad.flatten(1), theirs[name + end])
    if cell.bias is None:
        assert "bias_ih" + end not in theirs
        assert [name for name, _ in cell.named_parameters()] == ["weight_ih", "weight_hh"]
        return
    inside = theirs["bias_hh" + end]
    assert inside is not None
    grad = cell.bias.grad
    assert_equal(grad, theirs["bias_ih" + end])
    if "bias_hn" in dict(cell.named_parameters()):
        grad_hn = cell.get_parameter("bias_hn").grad
        assert grad is not None
        assert grad_hn is not None
        grad = torch.cat([grad[: 2 * C], grad_hn])  # rows r, z, n
    assert_equal(grad, inside)


def compare(module: nn.RNNBase | nn.RNNCellBase, spatial: int, frame: tuple[int, ...], given: bool) -> None:
    """Run a torch module on every pixel and its conversion on the frames, and compare everything."""
    converted = from_torch(module, spatial_dims=spatial)
    states = 2 if isinstance(module, nn.LSTM | nn.LSTMCell) else 1
    if isinstance(module, nn.RNNBase):
        pattern = "b t c s -> (b s) t c" if module.batch_first else "t b c s -> t (b s) c"
        state_pattern = "l b c s -> l (b s) c"
        x = leaf(*((B, T) if module.batch_first else (T, B)), C_IN, *frame)
        depth = module.num_layers * (1 + module.bidirectional)
        hx = [leaf(depth, B, C, *frame) for _ in range(states)] if given else []
        patterns = [pattern] + [state_pattern] * states
    else:
        pattern = state_pattern = "b c s -> (b s) c"
        x = leaf(B, C_IN, *frame)
        hx = [leaf(B, C, *frame) for _ in range(states)] if given else []
        patterns = [pattern] * states
    input_patterns = [pattern] + [state_pattern] * len(hx)
    x_torch = copy_as(pattern, x, spatial)
    hx_torch = [copy_as(state_pattern, s, spatial) for s in hx]

    def call(network: nn.Module, x: Tensor, hx: list[Tensor]) -> list[Tensor]:
        return flatten(network(x, *([tuple(hx)] if states == 2 else hx)) if hx else network(x))

    ours, theirs = call(converted, x, hx), call(module, x_torch, hx_torch)
    assert len(ours) == len(theirs) == len(patterns)
    cotangents = [torch.randn_like(t) for t in ours]
    theirs_cotangents = [copy_as(p, t, spatial).detach() for p, t in zip(patterns, cotangents, strict=True)]
    torch.autograd.backward(ours, cotangents)
    torch.autograd.backward(theirs, theirs_cotangents)

    for p, actual, expected in zip(patterns, ours, theirs, strict=True):
        assert_equal(copy_as(p, actual, spatial), expected)
    for p, actual, expected in zip(input_patterns, [x, *hx], [x_torch, *hx_torch], strict=True):
        assert actual.grad is not None
        assert_equal(copy_as(p, actual.grad, spatial), expected.grad)
    if isinstance(module, nn.RNNBase):
        assert isinstance(converted, layers.ConvRecurrent)
        suffixes = ["", "_reverse"] if module.bidirectional else [""]
        ends = [f"_l{n}{suffix}" for n, suffix in product(range(module.num_layers), suffixes)]
        for cell, end in zip(converted.cells, ends, strict=True):
            assert_parameter_gradients(module, cell, end)
    else:
        assert_parameter_gradients(module, converted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "frame"),
    [
        ({"num_layers": 3, "bidirectional": True}, (1, 1)),
        ({"num_layers": 3, "bias": False, "batch_first": True}, (1, 1)),
        ({"bidirectional": True, "bias": False, "batch_first": True}, (7, 5)),
        ({"num_layers": 2, "bidirectional": True, "batch_first": True}, (7,)),
        ({"num_layers": 2, "bidirectional": True}, (2, 3, 5)),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_layer_on_frames_is_the_module_on_every_pixel(
    kind: str, options: dict[str, Any], frame: tuple[int, ...], given: bool
) -> None:
    compare(make(kind, **options), len(frame), frame, given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frame", [(1, 1), (7,), (7, 5), (2, 3, 5)])
@pytest.mark.parametrize("given", [False, True])
def test_cell(kind: str, bias: bool, frame: tuple[int, ...], given: bool) -> None:
    compare(make(kind, cell=True, bias=bias), len(frame), frame, given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", [False, True])
def test_carries_over_the_rest(kind: str, cell: bool) -> None:
    module = make(kind, cell, **({} if cell else {"num_layers": 2, "dropout": 0.25}))
    module.to("meta", torch.float16)
    converted = from_torch(module.eval())
    assert not any(part.training for part in converted.modules())
    assert all(part.training for part in from_torch(module.train()).modules())
    assert {(p.dtype, p.device.type) for p in converted.parameters()} == {(torch.float16, "meta")}
    if not cell:
        assert converted.dropout == 0.25


def test_weights_are_copied() -> None:
    module = make("LSTM")
    converted = from_torch(module)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    assert all(p.abs().min() > 0 for p in converted.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [[], ["weight_hh"], ["bias_ih"], ["bias_hh"], ["bias_ih", "bias_hh"]])
def test_frozen_weights_stay_frozen(kind: str, frozen: list[str]) -> None:
    module = make(kind, True)
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    expected = {"weight_ih": True, "weight_hh": "weight_hh" not in frozen, "bias": len(frozen) < 2}
    if kind == "GRU":
        expected["bias_hn"] = "bias_hh" not in frozen
    assert {name: p.requires_grad for name, p in from_torch(module).named_parameters()} == expected


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_hh_l0"])
def test_weights_computed_from_others_are_refused(name: str) -> None:
    module = make("LSTM")
    if name.startswith("bias"):
        torch.nn.utils.parametrize.register_parametrization(module, name, nn.Identity())
    else:
        torch.nn.utils.parametrizations.weight_norm(module, name)
    with pytest.raises(ValueError, match=rf"no parameter {name}, .*remove_parametrizations\(module, '{name}"):
        from_torch(module)


def test_projections_and_other_modules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"module has proj_size=1.*use proj_size=0"):
        from_torch(nn.LSTM(C_IN, C, proj_size=1))
    other: Any = layers.ConvLSTM(2, 3, 1)
    with pytest.raises(TypeError, match=r"module is a ConvLSTM; from_torch converts .*torch.nn.LSTMCell"):
        from_torch(other)
