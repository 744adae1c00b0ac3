"""Which implementation runs, and what says so."""

import pytest
import torch
from torch.testing import assert_close

from convlstm import ConvGRU, ConvLSTM, ops
from convlstm.ops import choice, fused, kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "compiled"), [(torch.float32, True), (torch.bfloat16, True), (torch.float64, False)]
)
def test_auto_takes_the_fused_op_where_it_is_compiled(dtype, compiled, monkeypatch) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    pytest.importorskip("numba")
    assert ops.is_fused(CPU, dtype) is compiled
    assert not ops.is_fused(torch.device("meta"), dtype)


def test_the_variable_chooses_and_use_implementation_overrides_it(monkeypatch) -> None:
    for variable, other in (("reference", "fused"), ("fused", "reference")):
        monkeypatch.setenv(choice.VARIABLE, variable)
        assert ops.is_fused(CPU, torch.float64) is (variable == "fused")
        with ops.use_implementation(other):
            assert ops.is_fused(CPU, torch.float64) is (other == "fused")
        assert ops.is_fused(CPU, torch.float64) is (variable == "fused")


def test_another_name_is_refused(monkeypatch) -> None:
    needs = "it needs one of auto, reference, fused"
    with (
        ops.use_implementation("fast"),
        pytest.raises(ValueError, match=f"implementation is 'fast'; {needs}"),
    ):
        ops.is_fused(CPU, torch.float32)
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(ValueError, match=f"variable CONVLSTM_OPS is 'fast'; {needs}"):
        ops.is_fused(CPU, torch.float32)


@pytest.mark.slow
def test_the_choice_is_a_constant_to_the_compiler(monkeypatch) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    layer, frames = ConvLSTM(1, 2, 3), torch.rand(3, 1, 1, 4, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")  # a choice that is traced would break it
    assert_close(compiled(frames)[0], layer(frames)[0])


def test_the_reference_runs_without_numba_and_where_there_is_no_fused_op(monkeypatch) -> None:
    monkeypatch.setattr(fused, "_run", None)  # a call would fail
    frames = torch.rand(3, 1, 1, 4, 4)
    with ops.use_implementation("fused"):
        assert ConvGRU(1, 2, 3, 2, reset_after=False)(frames)[0].shape == (3, 1, 2, 4, 4)
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    assert ConvLSTM(1, 2, 3)(frames)[0].shape == (3, 1, 2, 4, 4)
