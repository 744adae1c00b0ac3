"""The equations of one step against the same equations written out, one gate and one kernel tap at a time."""

from itertools import product

import pytest
import torch
from torch import Tensor

from convlstm.ops.functional import (
    conv_gru_step,
    conv_lstm_step,
    conv_rnn_step,
    conv_same,
    spatiotemporal_lstm_step,
)

B, C_IN, C = 2, 3, 2
KERNELS = [(1,), (4,), (3, 3), (2, 4), (5, 2), (6, 7), (2, 3, 1)]
SIZES = {1: (7,), 2: (7, 5), 3: (2, 3, 4)}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Sum, for every pixel and kernel tap, weight times the pixel it falls on; nothing outside the frame."""
    sizes, kernel = x.shape[2:], weight.shape[2:]
    result = x.new_zeros(x.shape[0], weight.shape[0], *sizes)
    for pixel, tap in product(product(*map(range, sizes)), product(*map(range, kernel))):
        # The centre of an odd kernel; of an even one, the tap before the middle.
        source = tuple(p + t - (k - 1) // 2 for p, t, k in zip(pixel, tap, kernel, strict=True))
        if all(0 <= s < n for s, n in zip(source, sizes, strict=True)):
            result[:, :, *pixel] += x[:, :, *source] @ weight[:, :, *tap].T
    return result


def column(bias: Tensor, like: Tensor) -> Tensor:
    return bias.reshape(1, -1, *[1] * (like.dim() - 2))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def tanh(x: Tensor) -> Tensor:
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


class Gates:
    """Random weights of some gates, each gate on its own, and stacked in the order of the names."""

    def __init__(self, names: str, kernel: tuple[int, ...], input: bool = True, bias: bool = True):
        self.w_i = {name: draw(C, C_IN, *kernel) for name in names}
        self.w_h = {name: draw(C, C, *kernel) for name in names}
        self.b = {name: draw(C) if bias else torch.zeros(C, dtype=torch.float64) for name in names}
        self.input = input
        self.weight_ih = torch.cat(list(self.w_i.values())) if input else None
        self.weight_hh = torch.cat(list(self.w_h.values()))
        self.bias = torch.cat(list(self.b.values())) if bias else None

    def from_input(self, name: str, x: Tensor) -> Tensor:
        return (convolve(x, self.w_i[name]) if self.input else 0) + column(self.b[name], x)

    def total(self, name: str, x: Tensor, h: Tensor) -> Tensor:
        return self.from_input(name, x) + convolve(h, self.w_h[name])


def frames_of(kernel: tuple[int, ...], input: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Random x, h and c; x has no channels without an input convolution."""
    sizes = SIZES[len(kernel)]
    return draw(B, C_IN if input else 0, *sizes), draw(B, C, *sizes), draw(B, C, *sizes)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_conv_same_is_the_sum_over_taps(kernel: tuple[int, ...], bias: bool) -> None:
    x = draw(B, C_IN, *SIZES[len(kernel)])
    weight, b = draw(4, C_IN, *kernel), draw(4)
    expected = convolve(x, weight) + (column(b, x) if bias else 0)
    assert_equal(conv_same(x, weight, b if bias else None), expected)


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("input", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_step(kernel: tuple[int, ...], input: bool, bias: bool, nonlinearity: str) -> None:
    gates = Gates("a", kernel, input, bias)
    x, h, _ = frames_of(kernel, input)
    total = gates.total("a", x, h)
    expected = tanh(total) if nonlinearity == "tanh" else total * (total > 0)
    actual = conv_rnn_step(x, h, gates.weight_ih, gates.weight_hh, gates.bias, nonlinearity)
    assert_equal(actual, expected)


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("input", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("peephole", [None, "channel", "pixel"])
def test_lstm_step(kernel: tuple[int, ...], input: bool, bias: bool, peephole: str | None) -> None:
    gates = Gates("ifgo", kernel, input, bias)
    x, h, c = frames_of(kernel, input)
    sizes = SIZES[len(kernel)]
    w_c = {name: torch.zeros((), dtype=torch.float64) for name in "ifo"}
    weight_ch = None
    if peephole is not None:
        w_c = {name: draw(C, *(sizes if peephole == "pixel" else [1] * len(sizes))) for name in "ifo"}
        weight_ch = torch.cat(list(w_c.values()))

    i = sigmoid(gates.total("i", x, h) + w_c["i"] * c)
    f = sigmoid(gates.total("f", x, h) + w_c["f"] * c)
    g = tanh(gates.total("g", x, h))
    new_c = f * c + i * g
    o = sigmoid(gates.total("o", x, h) + w_c["o"] * new_c)

    actual_h, actual_c = conv_lstm_step(x, h, c, gates.weight_ih, gates.weight_hh, gates.bias, weight_ch)
    assert_equal(actual_c, new_c)
    assert_equal(actual_h, o * tanh(new_c))


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("input", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_spatiotemporal_lstm_step(kernel: tuple[int, ...], input: bool, bias: bool) -> None:
    own, memory = Gates("ifgo", kernel, input, bias), Gates("ifg", kernel, input, bias)
    x, h, c = frames_of(kernel, input)
    m = draw(*c.shape)
    w_co, w_mo = draw(C, C, *kernel), draw(C, C, *kernel)
    w_cl, w_ml = draw(C, C), draw(C, C)

    i, f, g = (own.total(name, x, h) for name in "ifg")
    new_c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    i, f, g = (memory.total(name, x, m) for name in "ifg")
    new_m = sigmoid(f) * m + sigmoid(i) * tanh(g)
    o = sigmoid(own.total("o", x, h) + convolve(new_c, w_co) + convolve(new_m, w_mo))
    last = torch.einsum("oc,bc...->bo...", w_cl, new_c) + torch.einsum("oc,bc...->bo...", w_ml, new_m)

    weight_ih = torch.cat([*own.w_i.values(), *memory.w_i.values()]) if input else None
    b = torch.cat([*own.b.values(), *memory.b.values()]) if bias else None
    weight_co = torch.cat([w_co, w_mo], dim=1)
    weight_last = torch.cat([w_cl, w_ml], dim=1).reshape(C, 2 * C, *[1] * len(kernel))
    weights = (weight_ih, own.weight_hh, b, memory.weight_hh, weight_co, weight_last)
    for actual, expected in zip(
        spatiotemporal_lstm_step(x, h, c, m, *weights), (o * tanh(last), new_c, new_m), strict=True
    ):
        assert_equal(actual, expected)


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("input", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_step(kernel: tuple[int, ...], input: bool, bias: bool, reset_after: bool) -> None:
    gates = Gates("rzn", kernel, input, bias)
    x, h, _ = frames_of(kernel, input)
    bias_hn = draw(C) if bias and reset_after else None

    r = sigmoid(gates.total("r", x, h))
    z = sigmoid(gates.total("z", x, h))
    if reset_after:
        inner = convolve(h, gates.w_h["n"]) + (0 if bias_hn is None else column(bias_hn, h))
        n = tanh(gates.from_input("n", x) + r * inner)
    else:
        n = tanh(gates.from_input("n", x) + convolve(r * h, gates.w_h["n"]))

    actual = conv_gru_step(x, h, gates.weight_ih, gates.weight_hh, gates.bias, bias_hn, reset_after)
    assert_equal(actual, (1 - z) * n + z * h)


@pytest.mark.parametrize("peephole", [False, True])
def test_lstm_step_keeps_the_wider_type_of_the_cell_state(peephole: bool) -> None:
    x, h = torch.randn(B, C_IN, 7, 5).bfloat16(), torch.randn(B, C, 7, 5).bfloat16()
    c = torch.full((B, C, 7, 5), 100.0)
    weight_ih, weight_hh = torch.zeros(4 * C, C_IN, 3, 3).bfloat16(), torch.zeros(4 * C, C, 3, 3).bfloat16()
    # The gates are i = 0.5, f = 1, g = tanh(0.5), o = 0.5: a sum of 100 and 0.23, which bfloat16 would lose.
    bias = torch.tensor([0.0, 50.0, 0.5, 0.0]).repeat_interleave(C).bfloat16()
    weight_ch = torch.zeros(3 * C, 1, 1).bfloat16() if peephole else None
    new_h, new_c = conv_lstm_step(x, h, c, weight_ih, weight_hh, bias, weight_ch)
    assert new_h.dtype == torch.bfloat16
    expected = 100 + 0.5 * torch.tanh(torch.tensor(0.5))
    torch.testing.assert_close(new_c, expected.expand_as(new_c), rtol=0, atol=2e-3)
