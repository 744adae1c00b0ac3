"""The pass over a source: what it keeps, and that chunks of frames change nothing."""

import gc
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from convlstm.evaluation import copy_last, evaluate, rows
from convlstm.evaluation.rows import measure
from tests.convlstm.evaluation.clips import Clips, blurred


def test_a_predictor_may_change_its_context_and_makes_no_gradients():
    clips, weight = torch.rand(3, 4, 1, 8, 8), torch.ones((), requires_grad=True)

    def predict(context: torch.Tensor, horizon: int) -> torch.Tensor:
        assert not (weight * context).requires_grad
        return context.zero_()[:, :horizon]

    alone = evaluate(copy_last, clips, 3, 1).model["mse"].mean
    assert evaluate(predict, clips, 3, 1).baselines[0]["mse"].mean == alone


def test_memory_grows_by_rows_alone():
    def held(sequences: int) -> int:
        """Return the bytes that all tensors take when the last batch is done."""
        source = Clips(torch.rand(1, 4, 1, 16, 16).expand(sequences, 4, 1, 16, 16))
        counted = done = 0

        def count(batch: int) -> None:
            nonlocal counted, done
            done += batch
            if done == sequences:
                # No fakes, which torch.compile may have left behind: they have no storage.
                tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
                storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors}
                counted = sum(storage.nbytes() for storage in storages.values())

        measure({"copy": copy_last}, source, 2, 2, batch_size=2, thresholds=(0.5,), progress=count)
        return counted

    held(2)
    few, many = held(4), held(40)
    values = 2 * (7 + 3)  # of a sequence: two frames, seven metrics, three counts
    assert many - few <= 36 * 8 * values


def test_neither_chunks_of_frames_nor_compiled_metrics_change_anything(monkeypatch: pytest.MonkeyPatch):
    source, predictors = Clips(torch.rand(3, 5, 2, 9, 8)), {"copy": copy_last, "blurred": blurred}
    whole = measure(predictors, source, 2, 3, thresholds=(0.3, 0.6), probabilities={"copy"})
    assert whole["copy"].names == (*whole["blurred"].names, "cross_entropy")
    for cached, ops in ((1, "auto"), (200, "auto"), (2**20, "auto"), (2**20, "reference")):
        monkeypatch.setattr(rows, "CACHED", cached)
        monkeypatch.setenv("CONVLSTM_OPS", ops)
        parts = measure(predictors, source, 2, 3, thresholds=(0.3, 0.6), probabilities={"copy"})
        for name, found in whole.items():
            assert_close(parts[name].metrics, found.metrics, rtol=1e-12, atol=1e-12)
            assert_close(parts[name].counts, found.counts)


def test_the_first_sequences_once_for_all_predictors_with_progress():
    source = Clips(torch.rand(9, 4, 1, 7, 7))
    done: list[int] = []
    predictors = {"copy": copy_last, "blurred": blurred}
    found = measure(predictors, source, 3, 1, sequences=7, batch_size=3, progress=done.append)
    assert source.asked == list(range(7))
    assert done == [3, 3, 1]
    for name, predict in predictors.items():
        [alone] = measure({name: predict}, Clips(source.clips[:7]), 3, 1, batch_size=3).values()
        assert_close(found[name].metrics, alone.metrics, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sequences": 0}, "sequences is 0"),
        ({"sequences": 5}, "sequences is 5; the source has 4"),
        ({"context": 3}, r"shape \(4, 4, 1, 7, 7\); a context of 3 and a horizon of 2 need .* 5 or"),
        ({"source": Clips(torch.rand(0, 4, 1, 7, 7))}, "sequences is 0"),
        (
            {"predictors": {"short": lambda context, horizon: copy_last(context, horizon - 1)}},
            r"a predictor gave shape \(4, 1, 1, 7, 7\); .* \(4, 2, 1, 7, 7\)",
        ),
    ],
)
def test_what_cannot_be_measured(options: dict[str, Any], message: str):
    plain = {"predictors": {"copy": copy_last}, "source": Clips(torch.rand(4, 4, 1, 7, 7))}
    arguments: dict[str, Any] = plain | {"context": 2, "horizon": 2} | options
    with pytest.raises(ValueError, match=message):
        measure(**arguments)
