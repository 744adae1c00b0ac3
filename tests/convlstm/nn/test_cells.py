"""The cells: parameters and their beginnings, one step, gradients, and arguments that do not fit."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from convlstm import ConvGRUCell, ConvLSTMCell, ConvRNNCell, SpatiotemporalLSTMCell
from convlstm.nn.base import ConvCell
from convlstm.ops.functional import conv_gru_step, conv_lstm_step, conv_rnn_step, spatiotemporal_lstm_step

B, C_IN, C = 2, 3, 4
FRAMES = {1: (7,), 2: (7, 5), 3: (2, 3, 5)}
CELLS: dict[str, tuple[type[ConvCell], dict[str, Any]]] = {
    "tanh": (ConvRNNCell, {}),
    "relu": (ConvRNNCell, {"nonlinearity": "relu"}),
    "lstm": (ConvLSTMCell, {}),
    "lstm peephole": (ConvLSTMCell, {"peephole": "channel"}),
    "gru": (ConvGRUCell, {}),
    "gru reset before": (ConvGRUCell, {"reset_after": False}),
    "st-lstm": (SpatiotemporalLSTMCell, {}),
}
KINDS = [ConvRNNCell, ConvLSTMCell, ConvGRUCell, SpatiotemporalLSTMCell]


def make(name: str, kernel: int | tuple[int, ...] = 3, **options: Any) -> ConvCell:
    """Make a cell of a name in CELLS; peepholes, which begin at zero, are drawn."""
    kind, own = CELLS[name]
    cell = kind(options.pop("input_channels", C_IN), C, kernel, **own, **options)
    if name == "lstm peephole":
        torch.nn.init.normal_(cell.get_parameter("weight_ch"))
    return cell


def states_of(cell: ConvCell, *shape: int) -> Any:
    """Draw a state as the cell takes it: a tensor, or several."""
    states = [torch.randn(shape) for _ in cell.states]
    return tuple(states) if len(states) > 1 else states[0]


def as_list(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def written_out(cell: ConvCell, x: Tensor, hx: Any) -> Any:
    """One step by the function of the cell's kind, given each of the cell's tensors by its name."""
    shared = {"weight_ih": cell.weight_ih, "weight_hh": cell.weight_hh, "bias": cell.bias}
    if isinstance(cell, ConvRNNCell):
        return conv_rnn_step(x, hx, **shared, nonlinearity=cell.nonlinearity)
    if isinstance(cell, ConvGRUCell):
        return conv_gru_step(x, hx, **shared, bias_hn=cell.bias_hn, reset_after=cell.reset_after)
    if isinstance(cell, SpatiotemporalLSTMCell):
        own = {name: cell.get_parameter(name) for name in ("weight_mm", "weight_co", "weight_last")}
        return spatiotemporal_lstm_step(x, *hx, **shared, **own)
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
    from_zeros = cell(x[None], zeros if isinstance(hx, Tensor) else (zeros,) * len(hx))
    assert_close(cell(x[None]), from_zeros)
    assert_close(as_list(cell(x)), [s[0] for s in as_list(from_zeros)])


@pytest.mark.parametrize("name", CELLS)
def test_names_and_shapes_of_the_parameters(name: str) -> None:
    kind, own = CELLS[name]
    rows = {ConvRNNCell: 1, ConvGRUCell: 3, ConvLSTMCell: 4, SpatiotemporalLSTMCell: 7}[kind] * C
    expected = {"weight_ih": (rows, C_IN, 2, 3), "weight_hh": (rows, C, 2, 3), "bias": (rows,)}
    if name == "st-lstm":
        expected |= {"weight_hh": (4 * C, C, 2, 3), "weight_mm": (3 * C, C, 2, 3)}
        expected |= {"weight_co": (C, 2 * C, 2, 3), "weight_last": (C, 2 * C, 1, 1)}
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


def test_beginnings_of_the_spatiotemporal_lstm() -> None:
    hidden = 16
    cell = SpatiotemporalLSTMCell(2, hidden, 3, forget_bias=2.5)
    i, f, g, o, i_m, f_m, g_m = cell.get_parameter("bias").detach().split(hidden)
    for rows in (i, f - 2.5, g, o, i_m, f_m - 2.5, g_m):
        assert 0 < rows.abs().max() <= 1 / math.sqrt(hidden * 9) + 1e-6
    for name, taps in {"weight_co": 9, "weight_last": 1}.items():  # they read 2C channels
        largest = cell.get_parameter(name).abs().max() * math.sqrt(2 * hidden * taps)
        assert 0.9 < largest <= 1 + 1e-6


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
        (SpatiotemporalLSTMCell(3, 4, 3, False), "SpatiotemporalLSTMCell(3, 4, kernel_size=3, bias=False)"),
    ],
)
def test_repr_shows_what_differs_from_the_defaults(cell: ConvCell, expected: str) -> None:
    assert repr(cell).removeprefix("Conv") == expected


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
        cell(x, (wrong,) * len(cell.states) if len(cell.states) > 1 else wrong)
    batched = torch.randn(1, C, 7, 5)
    with pytest.raises(ValueError, match=r"h0 has shape \(1, 4, 7, 5\); it needs \(4, 7, 5\)"):
        cell(x[0], (batched,) * len(cell.states) if len(cell.states) > 1 else batched)
    with pytest.raises(TypeError, match=r"input is a ndarray; it needs a tensor"):
        cell(x.numpy())
    with pytest.raises(ValueError, match=r"hx is a (dict|str); .* state is"):
        cell(x, {"h": wrong})


def test_states_of_the_spatiotemporal_lstm_that_do_not_fit() -> None:
    cell, x, h = SpatiotemporalLSTMCell(C_IN, C, 3), torch.randn(B, C_IN, 7, 5), torch.randn(B, C, 7, 5)
    with pytest.raises(ValueError, match=r"hx is a tuple of 2; .* 3 tensors \(h, c, m\)"):
        cell(x, (h, h))  # pyright: ignore[reportArgumentType] (the mistake)
    with pytest.raises(ValueError, match=r"m0 has shape \(2, 4, 5, 7\); it needs \(2, 4, 7, 5\)"):
        cell(x, (h, h, h.mT))


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve, padded to keep the frame size; an even kernel's extra column goes to the end."""
    sides = [side for k in weight.shape[:1:-1] for side in ((k - 1) // 2, k // 2)]
    return {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()](F.pad(x, sides), weight)


def step_of_the_original(
    weights: dict[str, Tensor], x: Tensor, h: Tensor, c: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a step as PredRNN's code does, from its weights: with o last, and 1 as the forget bias."""
    i_x, f_x, g_x, i_xm, f_xm, g_xm, o_x = convolve(x, weights["conv_x"]).chunk(7, dim=1)
    i_h, f_h, g_h, o_h = convolve(h, weights["conv_h"]).chunk(4, dim=1)
    i_m, f_m, g_m = convolve(m, weights["conv_m"]).chunk(3, dim=1)
    new_c = torch.sigmoid(f_x + f_h + 1.0) * c + torch.sigmoid(i_x + i_h) * torch.tanh(g_x + g_h)
    new_m = torch.sigmoid(f_xm + f_m + 1.0) * m + torch.sigmoid(i_xm + i_m) * torch.tanh(g_xm + g_m)
    both = torch.cat((new_c, new_m), 1)
    o = torch.sigmoid(o_x + o_h + convolve(both, weights["conv_o"]))
    return o * torch.tanh(convolve(both, weights["conv_last"])), new_c, new_m


def as_original(cell: SpatiotemporalLSTMCell) -> dict[str, Tensor]:
    """Return a cell's weights in PredRNN's layout."""
    rows = cell.get_parameter("weight_ih").chunk(7)
    return {
        "conv_x": torch.cat([rows[n] for n in (0, 1, 2, 4, 5, 6, 3)]),
        "conv_h": cell.weight_hh,
        "conv_m": cell.weight_mm,
        "conv_o": cell.weight_co,
        "conv_last": cell.weight_last,
    }


def spatiotemporal_cell(kernel: tuple[int, ...], **options: Any) -> SpatiotemporalLSTMCell:
    """Make a cell whose bias is the original's constant."""
    cell = SpatiotemporalLSTMCell(C_IN, C, kernel, spatial_dims=len(kernel), **options)
    cell.get_parameter("bias").data = torch.tensor([0.0, 1, 0, 0, 0, 1, 0]).repeat_interleave(C)
    return cell


@pytest.mark.parametrize("kernel", [(3,), (4,), (5, 3), (2, 3), (3, 1, 2)])
@pytest.mark.parametrize("recompute", [False, True])
def test_spatiotemporal_lstm_against_the_original(kernel: tuple[int, ...], recompute: bool) -> None:
    """Sequences of different length, whose frames past the end are not read; all gradients."""
    cell, T, lengths = spatiotemporal_cell(kernel, recompute=recompute).double(), 3, torch.tensor([3, 2])
    frame = FRAMES[len(kernel)]
    x = torch.randn(T, B, C_IN, *frame, dtype=torch.float64)
    x[2, 1] = math.nan
    states = [torch.randn(B, C, *frame, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    output, *last = cell.sequence(x, *states, lengths=lengths)

    weights, ends = as_original(cell), []
    expected = torch.zeros_like(output)
    for b, length in enumerate(lengths):
        new = tuple(state[b : b + 1] for state in states)
        for t in range(length):
            new = step_of_the_original(weights, x[t, b : b + 1], *new)
            expected[t, b] = new[0][0]
        ends.append(new)
    wanted = [torch.cat(end) for end in zip(*ends, strict=True)]
    assert_close([output, *last], [expected, *wanted])
    # The original has no bias.
    leaves = [*states, *(p for name, p in cell.named_parameters() if name != "bias")]
    cotangents = [torch.randn_like(value) for value in (output, *last)]
    assert_close(
        torch.autograd.grad([output, *last], leaves, cotangents),
        torch.autograd.grad([expected, *wanted], leaves, cotangents),
    )


@pytest.mark.parametrize("given", [None, torch.bfloat16, torch.float32])
def test_spatiotemporal_lstm_under_autocast(given: torch.dtype | None) -> None:
    cell, x = spatiotemporal_cell((3, 3)), torch.randn(4, B, C_IN, 7, 5)
    states = [None if given is None else torch.randn(B, C, 7, 5).to(given) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        actual = cell.sequence(x, *states)
    assert [value.dtype for value in actual] == [torch.bfloat16] * 2 + [torch.float32] * 2
    exact = cell.sequence(x, *states)
    for value, wanted in zip(actual, exact, strict=True):
        assert_close(value.float(), wanted, rtol=0, atol=0.05)
