"""The cells: parameters and their beginnings, one step, gradients, and arguments that do not fit."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from convlstm.nn.base import ConvCell
from convlstm.ops.functional import conv_gru_step, conv_lstm_step, conv_rnn_step

B, C_IN, C = 2, 3, 4
FRAMES = {1: (7,), 2: (7, 5), 3: (2, 3, 5)}
CELLS: dict[str, tuple[type[ConvCell], dict[str, Any]]] = {
    "tanh": (ConvRNNCell, {}),
    "relu": (ConvRNNCell, {"nonlinearity": "relu"}),
    "lstm": (ConvLSTMCell, {}),
    "lstm peephole": (ConvLSTMCell, {"peephole": "channel"}),
    "gru": (ConvGRUCell, {}),
    "gru reset before": (ConvGRUCell, {"reset_after": False}),
}
KINDS = [ConvRNNCell, ConvLSTMCell, ConvGRUCell]


def make(name: str, kernel: int | tuple[int, ...] = 3, **options: Any) -> ConvCell:
    """Make a cell of a name in CELLS; peepholes, which begin at zero, are drawn."""
    kind, own = CELLS[name]
    cell = kind(options.pop("input_channels", C_IN), C, kernel, **own, **options)
    if name == "lstm peephole":
        torch.nn.init.normal_(cell.get_parameter("weight_ch"))
    return cell


def states_of(cell: ConvCell, *shape: int) -> Any:
    """Draw a state as the cell takes it: a tensor, or a pair of them."""
    states = tuple(torch.randn(shape) for _ in cell.states)
    return states if len(states) == 2 else states[0]


def as_list(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def written_out(cell: ConvCell, x: Tensor, hx: Any) -> Any:
    """One step by the function of the cell's kind, given each of the cell's tensors by its name."""
    shared = {"weight_ih": cell.weight_ih, "weight_hh": cell.weight_hh, "bias": cell.bias}
    if isinstance(cell, ConvRNNCell):
        return conv_rnn_step(x, hx, **shared, nonlinearity=cell.nonlinearity)
    if isinstance(cell, ConvGRUCell):
        return conv_gru_step(x, hx, **shared, bias_hn=cell.bias_hn, reset_after=cell.reset_after)
    assert isinstance(cell, ConvLSTMCell)
    return conv_lstm_step(x, *hx, **shared, weight_ch=cell.weight_ch)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize(("kernel_size", "input_channels"), [(1, C_IN), (2, 0), (3, C_IN)])
def test_step_is_the_function(name: str, spatial_dims: int, kernel_size: int, input_channels: int) -> None:
    cell = make(name, kernel_size, spatial_dims=spatial_dims, input_channels=input_channels)
    frame = FRAMES[spatial_dims]
    x, hx = torch.randn(B, input_channels, *frame), states_of(cell, B, C, *frame)
    assert_close(cell(x, hx), written_out(cell, x, hx))


@pytest.mark.parametrize("name", CELLS)
def test_unbatched_and_default_states(name: str) -> None:
    cell = make(name)
    x, hx = torch.randn(C_IN, 7, 5), states_of(cell, C, 7, 5)
    batched = cell(x[None], hx[None] if isinstance(hx, Tensor) else tuple(s[None] for s in hx))
    assert_close(as_list(cell(x, hx)), [s[0] for s in as_list(batched)])
    zeros = torch.zeros(1, C, 7, 5)
    from_zeros = cell(x[None], zeros if isinstance(hx, Tensor) else (zeros, zeros))
    assert_close(cell(x[None]), from_zeros)
    assert_close(as_list(cell(x)), [s[0] for s in as_list(from_zeros)])


@pytest.mark.parametrize("name", CELLS)
def test_names_and_shapes_of_the_parameters(name: str) -> None:
    kind, own = CELLS[name]
    rows = {ConvRNNCell: 1, ConvGRUCell: 3, ConvLSTMCell: 4}[kind] * C
    expected = {"weight_ih": (rows, C_IN, 2, 3), "weight_hh": (rows, C, 2, 3), "bias": (rows,)}
    expected |= {"weight_ch": (3 * C, 1, 1)} if name == "lstm peephole" else {}
    expected |= {"bias_hn": (C,)} if name == "gru" else {}
    state = kind(C_IN, C, (2, 3), **own).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    if name == "lstm peephole":
        assert ConvLSTMCell(C_IN, C, 3, peephole=(7, 5)).get_parameter("weight_ch").shape == (3 * C, 7, 5)
    less = kind(0, C, (2, 3), bias=False, **own).state_dict()
    assert set(less) == set(expected) - {"weight_ih", "bias", "bias_hn"}


@pytest.mark.parametrize(("kernel", "taps"), [(1, 1), ((2, 5), 10)])
def test_initial_values_fill_their_bounds(kernel: int | tuple[int, int], taps: int) -> None:
    hidden = 32
    bound = 1 / math.sqrt(hidden * taps)
    for cell in (
        ConvRNNCell(2, hidden, kernel),
        ConvLSTMCell(2, hidden, kernel, forget_bias=0.0),
        ConvGRUCell(2, hidden, kernel),
    ):
        for parameter in cell.parameters():
            assert -bound <= parameter.min() < -0.75 * bound
            assert 0.75 * bound < parameter.max() <= bound


@pytest.mark.parametrize(("options", "added"), [({}, 1.0), ({"forget_bias": 2.5}, 2.5)])
def test_forget_bias_lands_in_the_rows_of_f_and_peepholes_start_at_zero(options: dict, added: float) -> None:
    hidden = 16
    cell = ConvLSTMCell(2, hidden, 3, peephole="channel", **options)
    i, f, g, o = cell.get_parameter("bias").detach().split(hidden)
    for rows in (i, f - added, g, o):
        assert 0 < rows.abs().max() <= 1 / math.sqrt(hidden * 9) + 1e-6
    assert not cell.get_parameter("weight_ch").any()


@pytest.mark.parametrize("name", CELLS)
def test_device_and_dtype(name: str) -> None:
    on_meta = make(name, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in on_meta.parameters()} == {("meta", torch.float64)}
    x = torch.empty(B, C_IN, 7, 5, device="meta", dtype=torch.float64)
    assert as_list(on_meta(x))[0].shape == (B, C, 7, 5)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (ConvRNNCell(3, 4, (3, 3), nonlinearity="relu"), "RNNCell(3, 4, kernel_size=3, nonlinearity='relu')"),
        (ConvGRUCell(0, 4, (2, 5), bias=False), "GRUCell(0, 4, kernel_size=(2, 5), bias=False)"),
        (ConvGRUCell(3, 4, 3, reset_after=False), "GRUCell(3, 4, kernel_size=3, reset_after=False)"),
        (ConvLSTMCell(3, 4, 1, spatial_dims=3), "LSTMCell(3, 4, kernel_size=1, spatial_dims=3)"),
        (ConvLSTMCell(3, 4, 3, forget_bias=0.0), "LSTMCell(3, 4, kernel_size=3, forget_bias=0.0)"),
    ],
)
def test_repr_shows_what_differs_from_the_defaults(cell: ConvCell, expected: str) -> None:
    assert repr(cell) == f"Conv{expected}"


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((-1, 4, 3), {}, r"input_channels is -1; it needs a whole number of 0 or more"),
        ((3, 0, 3), {}, r"hidden_channels is 0; it needs a whole number of 1 or more"),
        ((3, 4.0, 3), {}, r"hidden_channels is 4\.0; it needs a whole number"),
        ((3, 4, (3, 0)), {}, r"kernel_size is 0; it needs a whole number of 1 or more"),
        ((3, 4, (3, 3, 3)), {}, r"kernel_size \(3, 3, 3\) has 3 axes; it needs 2"),
        ((3, 4, (3, 3)), {"spatial_dims": 3}, r"kernel_size \(3, 3\) has 2 axes; it needs 3"),
        ((3, 4, 3), {"spatial_dims": 4}, r"spatial_dims is 4; it needs 1, 2 or 3"),
        ((3, 4, 3), {"dtype": torch.int64}, r"dtype is torch.int64; it needs a real floating type"),
    ],
)
def test_sizes_that_do_not_fit(arguments: Any, options: dict[str, Any], match: str) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=match):
            kind(*arguments, **options)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (ConvLSTMCell, {"peephole": "pixel"}, r"peephole is 'pixel'; it needs None, 'channel' or a frame"),
        (ConvLSTMCell, {"peephole": (7,)}, r"peephole is \(7,\); it needs None, 'channel' or a frame size"),
        (ConvLSTMCell, {"peephole": (7, 0)}, "peephole is 0; it needs a whole number of 1 or more"),
        (ConvRNNCell, {"nonlinearity": "gelu"}, r"nonlinearity is 'gelu'; it needs one of \('tanh', 'relu'"),
    ],
)
def test_options_that_do_not_fit(kind: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kind(3, 4, 3, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_input_and_state_that_do_not_fit(kind: Any) -> None:
    cell = kind(C_IN, C, 3)
    x = torch.randn(B, C_IN, 7, 5)
    with pytest.raises(ValueError, match=r"input has 2 dimensions, shape \(7, 5\); it needs 4 .*, 3 \(I"):
        cell(x[0, 0])
    with pytest.raises(ValueError, match=r"input has 2 channels, .*; it needs 3"):
        cell(x[:, :2])
    wrong = torch.randn(B, C, 5, 7)
    with pytest.raises(ValueError, match=r"h0 has shape \(2, 4, 5, 7\); it needs \(2, 4, 7, 5\)"):
        cell(x, (wrong, wrong) if kind is ConvLSTMCell else wrong)
    batched = torch.randn(1, C, 7, 5)
    with pytest.raises(ValueError, match=r"h0 has shape \(1, 4, 7, 5\); it needs \(4, 7, 5\)"):
        cell(x[0], (batched, batched) if kind is ConvLSTMCell else batched)
    with pytest.raises(TypeError, match=r"input is a ndarray; it needs a tensor"):
        cell(x.numpy())
    with pytest.raises(ValueError, match=r"hx is a (dict|str); .* state is"):
        cell(x, {"h": wrong})
