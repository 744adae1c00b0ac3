"""The CUDA kernels against the plain ones: on a GPU, or in triton's interpreter, in a process of its own.

The interpreter replaces parts of triton, for good, when TRITON_INTERPRET=1 is set before its first import.
"""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm.ops import kernels
from convlstm.ops.kernels import plain_lstm, plain_st_lstm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# The interpreter cuts bfloat16 off where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}

if INTERPRETED:
    on_devices = pytest.mark.parametrize("device", ["cpu"])
else:
    on_devices = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])

    @pytest.mark.slow
    def test_in_the_interpreter() -> None:
        pytest.importorskip("triton")
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_without_triton_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("cuda_lstm", "cuda_language"):
            monkeypatch.delitem(sys.modules, f"convlstm.ops.kernels.{name}", raising=False)
        monkeypatch.setitem(sys.modules, "triton", None)
        assert kernels._load.__wrapped__("cuda_lstm") is None

    def test_which_types_they_are_for() -> None:
        pytest.importorskip("triton")
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for cell in ("lstm", "st-lstm"):
                found = kernels.kernels_for(cell, torch.device("cuda"), dtype)
                assert found.__name__ == f"convlstm.ops.kernels.cuda_{cell.replace('-', '_')}"
        for cell, dtype in (("lstm", torch.float64), ("gru", torch.float32)):
            assert kernels.compiled_kernels(cell, torch.device("cuda"), dtype) is None

    @pytest.mark.parametrize(
        ("dtype", "missing"),
        [
            ("fp32", "weight_ch|short_c|h[1-3]|dh.|copy.|dm_part"),
            ("bf16", ""),
            ("fp16", ""),
        ],
    )
    @pytest.mark.parametrize(
        ("module", "name", "wide"),
        [
            # Forward kernels have wide states; for the others they are kept in the type of the gates.
            ("cuda_lstm", "_lstm_forward", ("c", "c_new", "weight_ch")),
            ("cuda_lstm", "_lstm_backward", ("dc", "weight_ch")),
            ("cuda_st_lstm", "_st_lstm_forward", ("c", "m")),
            ("cuda_st_lstm", "_st_lstm_output", ()),
            ("cuda_st_lstm", "_st_lstm_output_backward", ()),
            ("cuda_st_lstm", "_st_lstm_backward", ("dc", "dm")),
        ],
    )
    def test_they_compile(
        module: str,
        name: str,
        wide: tuple[str, ...],
        missing: str,
        dtype: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        triton = pytest.importorskip("triton")
        if "nvidia" not in triton.backends.backends:
            pytest.skip("a triton for other devices")
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        kernel = getattr(importlib.import_module(f"convlstm.ops.kernels.{module}"), name)
        constants = {"C": 17, "P": 35, "BLOCK": 512, "KEEP": not missing}
        constants |= {argument: None for argument in kernel.arg_names if re.fullmatch(missing, argument)}
        signature = {
            argument: "constexpr"
            if argument in constants
            else "i32"
            if argument == "N" or argument.endswith("_stride")
            else f"*{'fp32' if argument in wide else dtype}"
            for argument in kernel.arg_names
        }
        source = triton.compiler.ASTSource(
            kernel, signature, {key: value for key, value in constants.items() if key in signature}
        )
        target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
        compiled = triton.compile(source, target=target, options={"enable_fp_fusion": True})
        if dtype == "bf16":
            assert "cvt.rn.bf16" in compiled.asm["ptx"]


def random_rows(N: int, C: int, dtype: torch.dtype, device: str, pad: int = 0, scale: float = 1) -> Tensor:
    """(N, C) of numbers, in the middle of rows of C + pad."""
    return (scale * torch.randn(N, C + pad, device=device)).to(dtype)[:, pad // 2 : pad // 2 + C]


def twin(*arrays: Tensor) -> list[Tensor]:
    """Copies that keep the strides."""
    return [
        torch.empty_strided(array.shape, array.stride(), dtype=array.dtype, device=array.device).copy_(array)
        for array in arrays
    ]


def forward_agrees(gates: Tensor, c: Tensor, weight_ch: Tensor | None, keep: bool, pads: list[int]) -> None:
    """Compare with the plain kernel; without `keep` the gates are lost and c is written over."""
    from convlstm.ops.kernels import cuda_lstm

    N, C = c.shape
    results = []
    for module in (plain_lstm, cuda_lstm):
        own_gates, own_c = twin(gates, c)
        c_new = torch.zeros_like(c) if keep else own_c
        short = torch.zeros_like(c, dtype=gates.dtype) if keep and gates.dtype != c.dtype else None
        wide = [gates.new_zeros(N, C + pad) for pad in pads]
        places = [array[:, pad // 2 : pad // 2 + C] for array, pad in zip(wide, pads, strict=True)]
        module.lstm_forward(own_gates, own_c, weight_ch, keep, c_new, short, places)
        kept = [own_gates, own_c] if keep else []
        results.append([c_new, *wide, *kept, *([] if short is None else [short])])
    for ours, theirs in zip(*reversed(results), strict=True):
        tolerance = TOLERANCE[ours.dtype]
        assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def backward_agrees(gates: Tensor, c: Tensor, weight_ch: Tensor | None, sources: list[Tensor]) -> None:
    from convlstm.ops.kernels import cuda_lstm

    dc = twin(c)[0]
    c = c.to(gates.dtype)
    c_new = twin(c)[0]
    c_new.normal_()
    dc.normal_()
    results = []
    for module in (plain_lstm, cuda_lstm):
        own_dc, d_gates = twin(dc, gates)
        module.lstm_backward(gates, c, c_new, weight_ch, sources, own_dc, d_gates)
        results.append([own_dc, d_gates])
    for ours, theirs in zip(*reversed(results), strict=True):
        tolerance = 4 * TOLERANCE[ours.dtype]
        assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


SIZES = [(36, 5), (60, 17), (24, 64), (1, 1), (3, 700)]


@on_devices
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("N", "C"), SIZES)
def test_forward(N: int, C: int, keep: bool, dtype: torch.dtype, device: str) -> None:
    for pads, period in (([0], None), ([6, 0], 1), ([0, 2, 5, 4], N // 3 or 1)):
        gates = random_rows(N, 4 * C, dtype, device, pad=sum(pads), scale=3)
        c = random_rows(N, C, torch.float32, device, pad=len(pads) - 1)
        weight_ch = None if period is None else random_rows(period, 3 * C, torch.float32, device)
        forward_agrees(gates, c, weight_ch, keep, pads)


@on_devices
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("N", "C"), SIZES)
def test_backward(N: int, C: int, dtype: torch.dtype, device: str) -> None:
    for pads, period in (([0], None), ([6, 0], 1), ([0, 2, 5], N // 3 or 1)):
        gates = random_rows(N, 4 * C, dtype, device, pad=sum(pads)).sigmoid_()
        c = random_rows(N, C, torch.float32, device, pad=len(pads) - 1)
        weight_ch = None if period is None else random_rows(period, 3 * C, torch.float32, device)
        backward_agrees(gates, c, weight_ch, [random_rows(N, C, dtype, device, pad) for pad in pads])


@on_devices
def test_no_gradient_of_h_is_one_of_zeros(device: str) -> None:
    from convlstm.ops.kernels import cuda_lstm

    gates, c, dc = (random_rows(7, width, torch.float32, device) for width in (20, 5, 5))
    results = []
    for sources in ([], [torch.zeros_like(c)]):
        own_dc, d_gates = twin(dc, gates)
        cuda_lstm.lstm_backward(gates, c, c, None, sources, own_dc, d_gates)
        results.append((own_dc, d_gates))
    assert_close(*results, rtol=0, atol=0)


@on_devices
@pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered:RuntimeWarning"
)  # of the interpreter
def test_large_numbers_and_nans(device: str) -> None:
    numbers = torch.tensor(
        [-torch.inf, -1e4, -100, -20, -1e-3, 0, 1e-6, 1e-3, 20, 100, 1e4, torch.inf, torch.nan]
    )
    N, numbers = len(numbers), numbers.to(device)
    # Without peepholes the plain kernel multiplies by zeros, which makes NaNs of what is not finite.
    zeros = torch.zeros(1, 3, device=device)
    for gate in range(4):
        gates = torch.full((N, 4), 0.5, device=device)
        gates[:, gate] = numbers
        forward_agrees(gates, torch.full((N, 1), -0.3, device=device), zeros, True, [0])
    forward_agrees(torch.full((N, 4), 0.5, device=device), numbers[:, None], zeros, True, [0])
    for gradient in (numbers, numbers.nan_to_num(0, 9, -9)):
        backward_agrees(
            torch.rand(N, 4, device=device), torch.ones(N, 1, device=device), zeros, [gradient[:, None]]
        )


def st_lstm_agrees(
    step: Callable[..., None],
    N: int,
    dtype: torch.dtype,
    device: str,
    widths: list[int],
    wide: tuple[int, ...] = (),
) -> None:
    """Compare all arrays that a step was given after it has run.

    Args:
        step: called with the kernels and the arrays.
        N: their rows.
        dtype: of the arrays.
        device: of the arrays.
        widths: their channels.
        wide: which are in float32 whatever the type.
    """
    from convlstm.ops.kernels import cuda_st_lstm

    arrays = [
        random_rows(N, width, torch.float32 if number in wide else dtype, device, pad=number)
        for number, width in enumerate(widths)
    ]
    results = []
    for module in (cuda_st_lstm, plain_st_lstm):
        results.append(twin(*arrays))
        step(module, *results[-1])
    for ours, theirs in zip(*results, strict=True):
        tolerance = 4 * TOLERANCE[ours.dtype]
        assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@on_devices
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("N", "C"), SIZES)
def test_st_lstm_forward(N: int, C: int, keep: bool, dtype: torch.dtype, device: str) -> None:
    def step(kernels: ModuleType, gates: Tensor, m_gates: Tensor, c: Tensor, m: Tensor, *cm: Tensor) -> None:
        kernels.st_lstm_forward(gates, m_gates, c, m, keep, cm[0], list(cm[1:]))
        if not keep:
            gates[:, : 3 * C] = m_gates[:] = 0  # whatever is left there

    def output(kernels: ModuleType, gates: Tensor, o_part: Tensor, l: Tensor, *h: Tensor) -> None:
        kernels.st_lstm_output(gates, o_part, l, keep, list(h))
        if not keep:
            gates[:, 3 * C :] = l[:] = 0

    for places in range(3):
        widths = [4 * C, 3 * C, C, C, 2 * C, *[C] * places]
        st_lstm_agrees(step, N, dtype, device, widths, wide=(2, 3))
    for places in range(1, 5):
        st_lstm_agrees(output, N, dtype, device, [4 * C, C, C, *[C] * places])


@on_devices
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("N", "C"), SIZES)
def test_st_lstm_backward(N: int, C: int, dtype: torch.dtype, device: str) -> None:
    def output(
        kernels: ModuleType, gates: Tensor, l: Tensor, d_gates: Tensor, d_o: Tensor, d_l: Tensor, *dh: Tensor
    ) -> None:
        kernels.st_lstm_output_backward(gates.sigmoid_(), l.tanh_(), list(dh), d_gates, d_o, d_l)

    def step(kernels: ModuleType, gates: Tensor, m_gates: Tensor, *others: Tensor | None) -> None:
        kernels.st_lstm_backward(gates.sigmoid_(), m_gates.sigmoid_(), *others)

    def step_without_part(kernels: ModuleType, gates: Tensor, m_gates: Tensor, *others: Tensor) -> None:
        step(kernels, gates, m_gates, *others[:5], None, *others[6:])

    for parts in (0, 1, 4, 6):
        st_lstm_agrees(output, N, dtype, device, [4 * C, C, 4 * C, C, C, *[C] * parts])
    widths = [4 * C, 3 * C, C, C, 2 * C, C, C, C, 4 * C, 3 * C]
    for function in (step, step_without_part):
        st_lstm_agrees(function, N, dtype, device, widths, wide=(5, 6))
