"""The compiled pointwise kernels against those in torch's own operations, which are their definition."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from convlstm.ops.kernels import kernels_for, plain

N, C = 301, 19
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def compiled(dtype: torch.dtype) -> ModuleType:
    module = kernels_for(torch.device("cpu"), dtype)
    if module is None:
        pytest.skip("numba is not installed")
    return module


class Arrays:
    """Random rows, the same for each instance; with more bytes from row to row than a row has."""

    def __init__(self, dtype: torch.dtype, rows: int = N):
        self._generator = torch.Generator().manual_seed(0)
        self._dtype, self._rows = dtype, rows
        self.made: list[Tensor] = []

    def __call__(self, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(self._rows, channels + 3, generator=self._generator)
        self.made.append(values.to(dtype or self._dtype)[:, :channels])
        return self.made[-1]


def assert_same(
    step: Callable[[ModuleType, Arrays], None], compiled: ModuleType, dtype: torch.dtype, rows: int = N
) -> None:
    """Compare all that a step was given after it has run."""
    actual, expected = Arrays(dtype, rows), Arrays(dtype, rows)
    step(compiled, actual)
    step(plain, expected)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7  # of bfloat16: one unit in the last place
    for one, other in zip(actual.made, expected.made, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("copies", [0, 2])
def test_gru_forward(keep: bool, copies: int, compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        bias = rows(C)[0].contiguous()
        saved = rows(4 * C) if keep else None
        kernels.gru_forward(rows(3 * C), rows(3 * C), bias, rows(C), saved, [rows(C) for _ in range(copies)])

    assert_same(step, compiled, dtype)
    assert_same(step, compiled, dtype, rows=3001)  # several threads' worth


def test_gru_forward_reads_one_row_for_all(compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        of_x, of_h = (rows(3 * C)[:1].expand(N, -1) for _ in range(2))
        kernels.gru_forward(of_x, of_h, rows(C)[0].contiguous(), rows(C), None, [])

    assert_same(step, compiled, dtype)


@pytest.mark.parametrize("parts", [0, 1, 3, 4])
def test_gru_backward(parts: int, compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        dh, carried = [rows(C).round_() for _ in range(parts)], rows(C, torch.float32)
        kernels.gru_backward(rows(4 * C).sigmoid_(), rows(C), dh, carried, rows(3 * C), rows(3 * C))

    assert_same(step, compiled, dtype)


@pytest.mark.parametrize("keep", [False, True])
def test_gru_gates_forward(keep: bool, compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        kernels.gru_gates_forward(rows(2 * C), rows(C), rows(3 * C)[:, : 2 * C] if keep else None, rows(C))

    assert_same(step, compiled, dtype)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("copies", [0, 2])
def test_gru_new_forward(keep: bool, copies: int, compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        new = rows(C)
        saved = rows(3 * C)[:, 2 * C :] if keep else None
        kernels.gru_new_forward(
            new, rows(2 * C).sigmoid_()[:, C:], rows(C), saved, [rows(C) for _ in range(copies)]
        )
        new.zero_()  # whatever is left there

    assert_same(step, compiled, dtype)


@pytest.mark.parametrize("parts", [0, 1, 3, 4])
def test_gru_new_backward(parts: int, compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        dh, carried = [rows(C).round_() for _ in range(parts)], rows(C, torch.float32)
        kernels.gru_new_backward(rows(3 * C).sigmoid_(), rows(C), dh, carried, rows(2 * C)[:, C:], rows(C))

    assert_same(step, compiled, dtype)


def test_gru_gates_backward(compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        saved, carried = rows(3 * C).sigmoid_(), rows(C, torch.float32)
        kernels.gru_gates_backward(saved, rows(C), rows(C), carried, rows(2 * C)[:, :C], rows(C))

    assert_same(step, compiled, dtype)


@pytest.mark.parametrize("period", [None, 1, 7])
@pytest.mark.parametrize(("keep", "copies"), [(False, 0), (True, 0), (True, 3)])
def test_lstm_forward(
    keep: bool, copies: int, period: int | None, compiled: ModuleType, dtype: torch.dtype
) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        gates, c = rows(4 * C), rows(C, torch.float32)
        weight_ch = None if period is None else rows(3 * C, torch.float32)[:period].contiguous()
        c_new = rows(C, torch.float32) if keep else c
        short = rows(C) if keep and dtype != torch.float32 else None
        h = [rows(C) for _ in range(1 + copies)]
        kernels.lstm_forward(gates, c, weight_ch, keep, c_new, short, h)
        if not keep:
            gates.zero_()  # whatever is left there

    assert_same(step, compiled, dtype, rows=43 * 7)


@pytest.mark.parametrize("period", [None, 1, 7])
@pytest.mark.parametrize("parts", [0, 1, 3, 4])
def test_lstm_backward(parts: int, period: int | None, compiled: ModuleType, dtype: torch.dtype) -> None:
    def step(kernels: ModuleType, rows: Arrays) -> None:
        dh, cells = [rows(C).round_() for _ in range(parts)], [rows(C) for _ in range(2)]
        dc = rows(C, torch.float32)
        weight_ch = None if period is None else rows(3 * C, torch.float32)[:period].contiguous()
        kernels.lstm_backward(rows(4 * C).sigmoid_(), *cells, weight_ch, dh, dc, rows(4 * C))

    assert_same(step, compiled, dtype)


def test_tanh_keeps_its_digits_near_zero(compiled: ModuleType) -> None:
    x = torch.logspace(-8, 0.5, 256)
    gates = torch.tensor([50.0, 50.0, 0.0, 50.0]).repeat(len(x), 1)  # i, f and o are 1, g is 0
    h = torch.empty(len(x), 1)
    if compiled is not kernels_for(torch.device("cpu"), torch.float32):
        pytest.skip("of float32")
    compiled.lstm_forward(gates, x[:, None].contiguous(), None, False, torch.empty(len(x), 1), None, [h])
    torch.testing.assert_close(h[:, 0], x.tanh(), rtol=1e-6, atol=0)


def test_nan_stays(compiled: ModuleType, dtype: torch.dtype) -> None:
    rows = Arrays(dtype)
    of_x, of_h, h, saved, bias = rows(3 * C), rows(3 * C), rows(C), rows(4 * C), rows(C)[0].contiguous()
    of_x[7, 1] = of_h[8, 2 * C + 2] = h[9, 3] = math.nan  # r, n and h
    compiled.gru_forward(of_x, of_h, bias, h, saved, [])
    assert h.isnan().nonzero().tolist() == [[7, 1], [8, 2], [9, 3]]
    assert saved.isnan().any(dim=1).nonzero().flatten().tolist() == [7, 8]
