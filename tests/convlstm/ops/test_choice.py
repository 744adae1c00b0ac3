"""Which implementation runs, and what says so."""

import pytest
import torch

from convlstm import ConvLSTM, ops
from convlstm.ops import choice, fused, kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "compiled"), [(torch.float32, True), (torch.bfloat16, True), (torch.float64, False)]
)
def test_auto_takes_the_fused_op_where_it_is_compiled(dtype, compiled, monkeypatch) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    pytest.importorskip("numba")
    assert ops.is_fused(None, CPU, dtype) is ops.is_fused("auto", CPU, dtype) is compiled
    assert not ops.is_fused(None, torch.device("meta"), dtype)


def test_argument_and_variable_force_either(monkeypatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "reference")
    assert not ops.is_fused(None, CPU, torch.float32)
    assert ops.is_fused("fused", CPU, torch.float64)
    monkeypatch.setenv(choice.VARIABLE, "fused")
    assert ops.is_fused(None, CPU, torch.float64)
    assert not ops.is_fused("reference", CPU, torch.float32)


def test_the_reference_only_whatever_the_environment_says(monkeypatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "fused")
    with ops.reference_only():
        assert not ops.is_fused(None, CPU, torch.float32)
        assert ops.is_fused("fused", CPU, torch.float32)
    assert ops.is_fused(None, CPU, torch.float32)


def test_another_name_is_refused(monkeypatch) -> None:
    with pytest.raises(ValueError, match="implementation is 'fast'; it needs one of auto, reference, fused"):
        ops.is_fused("fast", CPU, torch.float32)
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(ValueError, match="variable CONVLSTM_OPS is 'fast'"):
        ops.is_fused(None, CPU, torch.float32)


def test_without_numba_the_reference_runs(monkeypatch) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    monkeypatch.setattr(fused, "run", None)  # a call would fail
    assert ConvLSTM(1, 2, 3)(torch.rand(3, 1, 1, 4, 4))[0].shape == (3, 1, 2, 4, 4)
