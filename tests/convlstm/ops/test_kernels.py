"""The kernels compiled by numba against the plain ones, which define them; the ST-LSTM's against autograd."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm.ops.kernels import plain_gru, plain_lstm, plain_st_lstm

cpu_lstm: ModuleType = pytest.importorskip("convlstm.ops.kernels.cpu_lstm")
cpu_gru: ModuleType = pytest.importorskip("convlstm.ops.kernels.cpu_gru")
cpu_st_lstm: ModuleType = pytest.importorskip("convlstm.ops.kernels.cpu_st_lstm")
KERNELS = {
    "test_gru": (cpu_gru, plain_gru),
    "test_lstm": (cpu_lstm, plain_lstm),
    "test_st_lstm": (cpu_st_lstm, plain_st_lstm),
}
N, C = 301, 19
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


class Arrays:
    """Random rows, the same for each instance; with more bytes from row to row than a row has."""

    def __init__(self, dtype: torch.dtype, rows: int):
        self._generator = torch.Generator().manual_seed(0)
        self._dtype, self._rows = dtype, rows
        self.made: list[Tensor] = []

    def __call__(self, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(self._rows, channels + 3, generator=self._generator)
        self.made.append(values.to(dtype or self._dtype)[:, :channels])
        return self.made[-1]


def assert_same(step: Callable[[ModuleType, Arrays], None], dtype: torch.dtype, rows: int = N) -> None:
    """Compare all that a step was given after it has run."""
    pair = next(pair for test, pair in KERNELS.items() if step.__qualname__.startswith(test))
    arrays = [Arrays(dtype, rows) for _ in pair]
    for kernels, own in zip(pair, arrays, strict=True):
        step(kernels, own)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7  # of bfloat16: one unit in the last place
    for compiled, plain in zip(*(own.made for own in arrays), strict=True):
        assert_close(compiled, plain, rtol=tolerance, atol=1e-5)


@each_dtype
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("copies", [0, 2])
def test_gru_forward(keep: bool, copies: int, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        bias = rows(C)[0].contiguous()
        saved = rows(4 * C) if keep else None
        kernels.gru_forward(rows(3 * C), rows(3 * C), bias, rows(C), saved, [rows(C) for _ in range(copies)])

    def step_on_one_row_for_all(kernels: ModuleType, rows: Arrays) -> None:
        x_gates, h_gates = (rows(3 * C)[:1].expand(N, -1) for _ in range(2))
        kernels.gru_forward(x_gates, h_gates, rows(C)[0].contiguous(), rows(C), None, [])

    assert_same(step, dtype)
    assert_same(step, dtype, rows=3001)  # several threads' worth
    assert_same(step_on_one_row_for_all, dtype)


@each_dtype
@pytest.mark.parametrize("parts", [0, 1, 4])
def test_gru_backward(parts: int, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        dh, carried = [rows(C).round_() for _ in range(parts)], rows(C, torch.float32)
        kernels.gru_backward(rows(4 * C).sigmoid_(), rows(C), dh, carried, rows(3 * C), rows(3 * C))

    assert_same(step, dtype)


@each_dtype
@pytest.mark.parametrize("period", [None, 1, 7])
@pytest.mark.parametrize(("keep", "copies"), [(False, 0), (True, 3)])
def test_lstm_forward(keep: bool, copies: int, period: int | None, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        gates, c = rows(4 * C), rows(C, torch.float32)
        weight_ch = None if period is None else rows(3 * C, torch.float32)[:period].contiguous()
        c_new = rows(C, torch.float32) if keep else c
        short = rows(C) if keep and dtype != torch.float32 else None
        h = [rows(C) for _ in range(1 + copies)]
        kernels.lstm_forward(gates, c, weight_ch, keep, c_new, short, h)
        if not keep:
            gates.zero_()  # whatever is left there

    assert_same(step, dtype, rows=43 * 7)


@each_dtype
@pytest.mark.parametrize("period", [None, 1, 7])
@pytest.mark.parametrize("parts", [0, 1, 4])
def test_lstm_backward(parts: int, period: int | None, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        dh, cells = [rows(C).round_() for _ in range(parts)], [rows(C) for _ in range(2)]
        dc = rows(C, torch.float32)
        weight_ch = None if period is None else rows(3 * C, torch.float32)[:period].contiguous()
        kernels.lstm_backward(rows(4 * C).sigmoid_(), *cells, weight_ch, dh, dc, rows(4 * C))

    assert_same(step, dtype, rows=43 * 7)


def test_tanh_keeps_its_digits_near_zero() -> None:
    x = torch.logspace(-8, 0.5, 256)
    gates = torch.tensor([50.0, 50.0, 0.0, 50.0]).repeat(len(x), 1)  # i, f and o are 1, g is 0
    h = torch.empty(len(x), 1)
    cpu_lstm.lstm_forward(gates, x[:, None].contiguous(), None, False, torch.empty(len(x), 1), None, [h])
    assert_close(h[:, 0], x.tanh(), rtol=1e-6, atol=0)


@each_dtype
def test_nan_stays(dtype: torch.dtype) -> None:
    rows = Arrays(dtype, N)
    x_gates, h_gates, h, saved = rows(3 * C), rows(3 * C), rows(C), rows(4 * C)
    x_gates[7, 1] = h_gates[8, 2 * C + 2] = h[9, 3] = math.nan  # r, n and h
    cpu_gru.gru_forward(x_gates, h_gates, rows(C)[0].contiguous(), h, saved, [])
    assert h.isnan().nonzero().tolist() == [[7, 1], [8, 2], [9, 3]]
    assert saved.isnan().any(dim=1).nonzero().flatten().tolist() == [7, 8]


@each_dtype
@pytest.mark.parametrize(("keep", "copies"), [(False, 0), (True, 2)])
def test_st_lstm_forward(keep: bool, copies: int, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        gates, m_gates, c, m = rows(4 * C), rows(3 * C), rows(C, torch.float32), rows(C, torch.float32)
        kernels.st_lstm_forward(gates, m_gates, c, m, keep, rows(2 * C), [rows(C) for _ in range(copies)])
        if not keep:
            gates[:, : 3 * C] = m_gates[:] = 0  # whatever is left there

    assert_same(step, dtype)
    assert_same(step, dtype, rows=3001)  # several threads' worth


@each_dtype
@pytest.mark.parametrize(("keep", "copies"), [(False, 0), (True, 3)])
def test_st_lstm_output(keep: bool, copies: int, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        gates, l = rows(4 * C), rows(C)
        kernels.st_lstm_output(gates, rows(C), l, keep, [rows(C) for _ in range(1 + copies)])
        if not keep:
            gates[:, 3 * C :] = l[:] = 0  # whatever is left there

    assert_same(step, dtype)


@each_dtype
@pytest.mark.parametrize("parts", [0, 1, 4, 5])
def test_st_lstm_output_backward(parts: int, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        gates, l, dh = rows(4 * C).sigmoid_(), rows(C).tanh_(), [rows(C).round_() for _ in range(parts)]
        kernels.st_lstm_output_backward(gates, l, dh, rows(4 * C), rows(C), rows(C))

    assert_same(step, dtype)


@each_dtype
@pytest.mark.parametrize("with_part", [False, True])
def test_st_lstm_backward(with_part: bool, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        kept, states = [rows(4 * C).sigmoid_(), rows(3 * C).sigmoid_()], [rows(C), rows(C)]
        carried, part = [rows(C, torch.float32) for _ in range(2)], rows(C) if with_part else None
        kernels.st_lstm_backward(*kept, *states, rows(2 * C), *carried, part, rows(4 * C), rows(3 * C))

    assert_same(step, dtype)


@pytest.mark.parametrize("with_part", [False, True])
def test_plain_st_lstm_against_autograd(with_part: bool) -> None:
    """With matrices where a step has convolutions of the new states."""
    rows = Arrays(torch.float64, rows=11)
    to_o, to_l = (torch.randn(2 * C, C, dtype=torch.float64) for _ in range(2))
    before = [rows(channels).requires_grad_() for channels in (4 * C, 3 * C, C, C)]
    gates, m_gates, c, m = before
    i, f, g, o = gates.chunk(4, dim=1)
    new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    i, f, g = m_gates.chunk(3, dim=1)
    new_m = f.sigmoid() * m + i.sigmoid() * g.tanh()
    both = torch.cat([new_c, new_m], dim=1)
    o_part, l = both @ to_o, both @ to_l
    new_h = (o + o_part).sigmoid() * l.tanh()
    dh, dc, dm, dm_part = [rows(C) for _ in range(3)], rows(C), rows(C), rows(C) if with_part else None
    gradients = [sum(dh), dc, dm if dm_part is None else dm + dm_part]
    wanted = torch.autograd.grad([new_h, new_c, new_m], [*before, o_part, l], gradients)

    gates, m_gates, c, m = (x.detach().clone() for x in before)
    cm, copies, h = rows(2 * C), [rows(C) for _ in range(2)], [rows(C) for _ in range(3)]
    plain_st_lstm.st_lstm_forward(gates, m_gates, c, m, True, cm, copies)
    assert_close([cm, c, m, *copies], [both, new_c, *[new_m] * 3])
    l = cm @ to_l
    plain_st_lstm.st_lstm_output(gates, cm @ to_o, l, True, h)
    assert_close(h, [new_h] * 3)
    d_gates, d_m_gates, d_o, d_l = rows(4 * C), rows(3 * C), rows(C), rows(C)
    plain_st_lstm.st_lstm_output_backward(gates, l, dh, d_gates, d_o, d_l)
    d_cm = d_o @ to_o.t() + d_l @ to_l.t()
    c, m = (x.detach() for x in before[2:])
    plain_st_lstm.st_lstm_backward(gates, m_gates, c, m, d_cm, dc, dm, dm_part, d_gates, d_m_gates)
    assert_close((d_gates, d_m_gates, dc, dm, d_o, d_l), wanted)
