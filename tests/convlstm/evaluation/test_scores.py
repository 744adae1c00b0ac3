import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm.evaluation import Predict, Scores, copy_last, evaluate_all, format_scores
from convlstm.evaluation.metrics import mae, mse, psnr, ssim
from tests.convlstm.evaluation.clips import Clips, blurred


def score(predict: Predict, source: Clips, *lengths: int, **options: int) -> Scores:
    return evaluate_all({"predict": predict}, source, *lengths, **options)["predict"]


def test_scores_are_the_metrics_averaged_over_frames_and_sequences():
    clips = torch.rand(7, 9, 2, 8, 7)  # two frames more than are used
    scores = score(blurred, Clips(clips), 3, 4, batch_size=3)
    prediction, target = blurred(clips[:, :3], 4), clips[:, 3:7]
    for name, values in {
        "mse": mse(prediction, target),
        "mae": mae(prediction, target),
        "ssim": ssim(prediction, target),
        "ssim_range2": ssim(prediction, target, 2.0),
        "psnr": psnr(prediction, target),
    }.items():
        assert_close(getattr(scores, name), values.mean().item(), msg=name)
        assert_close(getattr(scores, f"{name}_per_frame"), tuple(values.mean(dim=0).tolist()), msg=name)
    assert_close(scores.mse_stderr, mse(prediction, target).mean(dim=1).std().item() / math.sqrt(7))
    assert scores.sequences == 7


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6])
def test_a_short_last_batch_weighs_by_its_sequences(batch_size: int):
    # Sequences unlike each other, so that an average of batch averages would differ.
    clips = torch.rand(5, 4, 1, 7, 8) * torch.arange(1, 6)[:, None, None, None, None] / 5
    whole = score(blurred, Clips(clips), 2, 2, batch_size=5)
    assert_close(
        score(blurred, Clips(clips), 2, 2, batch_size=batch_size).to_dict(),
        whole.to_dict(),
        rtol=1e-12,
        atol=0,
    )


def test_by_hand():
    # Sequence n is 0 in the context and n / 2 after it: copying is off by 0, 0.5 and 1 in all 56 values.
    clips = torch.zeros(3, 5, 1, 8, 7)
    clips[:, 2:] = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None, None]
    scores = score(copy_last, Clips(clips), 2, 3)
    assert_close(scores.mse, 56 * (0 + 0.25 + 1) / 3)
    assert_close(scores.mae, 56 * (0 + 0.5 + 1) / 3)
    assert_close(scores.psnr, (100 - 10 * math.log10(0.25) + 0) / 3)
    assert_close(scores.ssim, (1 + 1e-4 / (0.25 + 1e-4) + 1e-4 / (1 + 1e-4)) / 3)
    assert_close(scores.ssim_range2, (1 + 4e-4 / (0.25 + 4e-4) + 4e-4 / (1 + 4e-4)) / 3)
    errors = [0.0, 14.0, 56.0]
    mean = sum(errors) / 3
    deviation = math.sqrt(sum((e - mean) ** 2 for e in errors) / 2)
    assert_close(scores.mse_stderr, deviation / math.sqrt(3))
    assert_close(scores.mse_per_frame, (mean,) * 3)


def test_a_perfect_predictor():
    clips = torch.rand(1, 1, 1, 8, 8).expand(3, 6, 1, 8, 8)
    scores = score(copy_last, Clips(clips), 2, 4)
    found = (scores.mse, scores.mse_stderr, scores.mae, scores.ssim, scores.ssim_range2, scores.psnr)
    assert_close(found, (0.0, 0.0, 0.0, 1.0, 1.0, 100.0))


def test_the_first_sequences_once_for_all_predictors_with_progress():
    source = Clips(torch.rand(9, 4, 1, 7, 7))
    done: list[int] = []
    scores = evaluate_all(
        {"copy": copy_last, "blurred": blurred}, source, 3, 1, sequences=7, batch_size=3, progress=done.append
    )
    assert source.asked == list(range(7))
    assert done == [3, 3, 1]
    assert list(scores) == ["copy", "blurred"]
    first = Clips(source.clips[:7])
    assert scores["copy"] == score(copy_last, first, 3, 1, batch_size=3)
    assert scores["blurred"] == score(blurred, first, 3, 1, batch_size=3)
    assert scores["copy"].mse != scores["blurred"].mse


def test_one_sequence_has_no_standard_error():
    assert math.isnan(score(copy_last, Clips(torch.rand(1, 3, 1, 7, 7)), 2, 1).mse_stderr)


def test_no_gradients():
    weight = torch.ones((), requires_grad=True)
    seen: list[bool] = []

    def predict(context: Tensor, horizon: int) -> Tensor:
        prediction = weight * copy_last(context, horizon)
        seen.append(prediction.requires_grad)
        return prediction

    score(predict, Clips(torch.rand(1, 3, 1, 7, 7)), 1, 2)
    assert seen == [False]
    assert torch.is_grad_enabled()


def test_to_dict_is_json():
    scores = score(blurred, Clips(torch.rand(3, 4, 1, 7, 7)), 2, 2)
    fields = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert scores.cross_entropy is None  # these are no probabilities, and it is left out
    assert list(fields) == [name for name in Scores.__dataclass_fields__ if name != "cross_entropy"]
    for name, value in fields.items():
        expected = getattr(scores, name)
        assert value == (list(expected) if name.endswith("_per_frame") else expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 0}, "context is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sequences": 0}, "sequences is 0"),
        ({"sequences": 5}, "sequences is 5; the source has 4"),
        (
            {"context": 3, "horizon": 2},
            r"shape \(4, 4, 1, 7, 7\); a context of 3 and a horizon of 2 need .* 5 or",
        ),
    ],
)
def test_arguments_out_of_bounds(arguments: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        score(copy_last, Clips(torch.rand(4, 4, 1, 7, 7)), **{"context": 2, "horizon": 2, **arguments})  # pyright: ignore[reportArgumentType]


def test_other_errors():
    source = Clips(torch.rand(2, 4, 1, 7, 7))
    with pytest.raises(
        ValueError, match=r"predictor 'short' gave shape \(2, 1, 1, 7, 7\); .* \(2, 2, 1, 7, 7\)"
    ):
        evaluate_all({"short": lambda context, horizon: copy_last(context, horizon - 1)}, source, 2, 2)
    with pytest.raises(ValueError, match="predictors is empty"):
        evaluate_all({}, source, 2, 2)
    with pytest.raises(ValueError, match="source has no sequences"):
        score(copy_last, Clips(torch.rand(0, 4, 1, 7, 7)), 2, 2)


def test_table():
    clips = torch.rand(3, 4, 1, 8, 8)
    scores = evaluate_all({"copy last frame": copy_last, "mean": blurred}, Clips(clips), 2, 2)
    header, *rows, note = format_scores(scores).splitlines()
    assert header.split("  ")[-1].strip() == "PSNR (dB)"
    assert len(rows) == 2
    assert len({len(line) for line in (header, *rows)}) == 1
    for (name, s), row in zip(scores.items(), rows, strict=True):
        assert row.startswith(name)
        numbers = row[len(name) :].replace("±", "").split()
        shown = (s.mse, s.mse_stderr, s.mae, s.ssim, s.ssim_range2, s.psnr)
        assert_close([float(n) for n in numbers], list(shown), rtol=0, atol=0.0051)
    assert "2 frames of 3 sequences" in note


def test_a_table_of_probabilities_has_their_cross_entropy():
    scores = score(copy_last, Clips(torch.rand(2, 4, 1, 8, 8)), 2, 2)
    table = format_scores({"ours": replace(scores, cross_entropy=250.25), "copy": scores})
    heads, ours, copy, _, note = table.splitlines()
    assert heads.endswith("PSNR (dB)    nats")
    assert ours.endswith("  250.25")
    assert copy.endswith(" " * 8)
    assert note.startswith("nats: cross-entropy per frame")


def test_a_table_of_one_sequence_has_no_standard_error():
    scores = score(copy_last, Clips(torch.rand(1, 4, 1, 8, 8)), 2, 2)
    table = format_scores({"copy last frame": scores})
    assert "±" not in table
    assert "nan" not in table
    assert "2 frames of one sequence;" in table


def test_table_errors():
    one, two = (score(copy_last, Clips(torch.rand(n, 3, 1, 7, 7)), 2, 1) for n in (1, 2))
    with pytest.raises(ValueError, match=r"\[\(1, 1\), \(2, 1\)\]"):
        format_scores({"one": one, "two": two})
    with pytest.raises(ValueError, match="needs scores"):
        format_scores({})
