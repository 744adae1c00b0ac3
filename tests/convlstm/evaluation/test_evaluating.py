import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

from convlstm import ConvLSTM, StackedForecaster, StackedForecasterConfig, evaluate, rollout
from convlstm.evaluation import (
    TRAINING,
    Evaluation,
    copy_last,
    format_evaluation,
    measure,
    summarize,
)
from convlstm.evaluation.metrics import contingency, cross_entropy, mae, mse, psnr, ssim
from convlstm.evaluation.sources import gives_probabilities
from convlstm.models.imported.network import ImportedConfig, ImportedNetwork
from convlstm.models.imported.stages import Activation, Convolution, Patches
from tests.convlstm.evaluation.clips import Clips, blurred


def small(**options) -> StackedForecaster:
    return StackedForecaster(StackedForecasterConfig(hidden_channels=(2,), kernel_size=3, **options))


def test_every_metric_is_the_mean_of_its_definition():
    clips = torch.rand(7, 9, 2, 8, 7)  # two frames more than are used
    found = evaluate(blurred, clips, 3, 4, batch_size=3)
    pair = blurred(clips[:, :3], 4), clips[:, 3:7]
    expected = {}
    for end, options in (
        ("", {}),
        ("_clipped", {"clipped": True}),
        ("_pixel", {"per_pixel": True}),
        ("_pixel_clipped", {"clipped": True, "per_pixel": True}),
    ):
        expected |= {f"mse{end}": mse(*pair, **options), f"mae{end}": mae(*pair, **options)}
    expected |= {"ssim": ssim(*pair), "ssim_range2": ssim(*pair, 2.0), "psnr": psnr(*pair)}
    assert list(found.model.metrics) == list(expected)
    for name, values in expected.items():
        score = found.model[name]
        assert_close(score.mean, values.mean().item(), msg=name)
        assert_close(score.per_frame, tuple(values.mean(dim=0).tolist()), msg=name)
        assert_close(score.stderr, values.mean(dim=1).std().item() / math.sqrt(7), msg=name)
        assert score.low < score.mean < score.high
    order = expected["mse"].mean(dim=1).argsort().tolist()
    examples = found.examples
    assert [examples.best, examples.median, examples.worst] == [order[0], order[3], order[6]]


def test_a_perfect_predictor_and_baselines_on_what_stands_still():
    clips = torch.rand(3, 1, 1, 8, 8).expand(3, 6, 1, 8, 8)
    found = evaluate(copy_last, clips, 2, 4, thresholds=(0.5,))
    assert [baseline.name for baseline in found.baselines] == ["copy last frame", "mean frame", "translation"]
    for predictor in (found.model, *found.baselines):
        assert_close(predictor["mse"].mean, 0.0)
        assert_close(predictor["mae_clipped"].mean, 0.0, rtol=0, atol=1e-5)
        assert_close(predictor["ssim"].mean, 1.0)
        assert_close(predictor["psnr"].mean, 100.0)
        [at] = predictor.thresholds
        assert (at.csi.mean, at.pod.mean, at.far.mean, at.bias.mean) == (1, 1, 0, 1)
        assert at.hits == int((clips[:, 2:] >= 0.5).sum())


def test_errors_and_thresholds_are_physical_where_the_source_names_a_unit():
    clips = torch.rand(6, 5, 1, 8, 9) * torch.arange(6)[:, None, None, None, None] / 5  # the first is dry
    source = Clips(clips, (-10.0, 30.0), "mm/h")
    found = evaluate(blurred, source, 2, 3, thresholds=[2, 18], batch_size=4)
    assert (found.value_range, found.unit) == ((-10.0, 30.0), "mm/h")
    prediction, target = (40 * x.double() - 10 for x in (blurred(clips[:, :2], 3), clips[:, 2:]))
    for name, metric in (("mse_physical", mse), ("mae_physical", mae)):
        values, score = metric(prediction, target, per_pixel=True), found.model[name]
        assert_close(score.mean, values.mean().item())
        assert_close(score.per_frame, tuple(values.mean(dim=0).tolist()))
        assert score.low < score.mean < score.high
    table = format_evaluation(found)
    assert "\nMSE per pixel in (mm/h)² " in table
    assert "\nMAE per pixel in mm/h " in table
    for threshold, at in zip((2, 18), found.model.thresholds, strict=True):
        # Ratios are those of summed counts.
        counts = contingency(prediction, target, [threshold])
        hits, misses, false_alarms = (int(count.sum()) for count in counts)
        assert (at.hits, at.misses, at.false_alarms) == (hits, misses, false_alarms)
        assert_close(at.csi.mean, hits / (hits + misses + false_alarms))
        assert_close(at.pod.mean, hits / (hits + misses))
        assert_close(at.far.mean, false_alarms / (hits + false_alarms))
        assert_close(at.bias.mean, (hits + false_alarms) / (hits + misses))
        assert at.csi.low <= at.csi.mean <= at.csi.high
        assert math.isnan(at.csi.stderr)
        assert_close(at.csi.per_frame, tuple(type(counts)(*(c.sum(dim=1) for c in counts)).csi()[0].tolist()))
    assert "mse_physical" not in evaluate(blurred, Clips(clips, (0, 255)), 2, 3).model.metrics


def test_ratios_without_a_denominator_are_nan_and_null():
    dry = torch.zeros(3, 4, 1, 8, 8)
    found = evaluate(copy_last, dry, 2, 2, thresholds=(0.5,))
    [at] = found.model.thresholds
    for ratio in (at.csi, at.pod, at.far, at.bias):
        assert math.isnan(ratio.mean)
        assert math.isnan(ratio.low)
    assert found.to_dict()["model"]["thresholds"][0]["csi"]["per_frame"] == [None, None]
    alone = evaluate(blurred, torch.rand(1, 4, 1, 8, 8), 2, 2, thresholds=(0.5,))  # no interval of one
    assert math.isnan(alone.model["mse"].low)
    assert math.isnan(alone.model.thresholds[0].csi.high)
    assert alone.to_dict()["model"]["metrics"]["mse"]["stderr"] is None
    # Something forecast where nothing was observed: no bias, all false.
    [at] = evaluate(lambda context, _: context + 1, dry, 2, 2, thresholds=(0.5,)).model.thresholds
    assert math.isnan(at.bias.mean)
    assert (at.csi.mean, at.far.mean) == (0, 1)


def test_a_short_last_batch_weighs_by_its_sequences():
    clips = torch.rand(5, 4, 1, 7, 8) * torch.arange(1, 6)[:, None, None, None, None] / 5
    whole, *parts = (
        evaluate(blurred, clips, 2, 2, batch_size=size, thresholds=(0.3,)).model for size in (5, 1, 3, 4)
    )
    for part in parts:
        for name, score in whole.metrics.items():
            assert_close(vars(part[name]), vars(score), rtol=1e-12, atol=1e-15)
        assert str(part.thresholds) == str(whole.thresholds)


def test_a_network_is_rolled_out_in_evaluation_mode_and_left_as_it_was():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.inner = nn.Dropout(0.5), small()

        def forward(self, context: Tensor, horizon: int) -> Tensor:
            return self.inner(self.dropout(context), horizon)

    model, clips = Noisy().train(), torch.rand(3, 5, 1, 8, 8)
    found = evaluate(model, clips, 3, 2)
    assert model.dropout.training
    assert found.model.name == "Noisy"
    assert_close(found.model["mse"].mean, mse(rollout(model, clips[:, :3], 2), clips[:, 3:]).mean().item())
    assert evaluate(partial(rollout, model), clips, 3, 2).model.metrics == found.model.metrics


def test_cross_entropy_of_probabilities_only():
    clips = torch.rand(3, 5, 1, 8, 8)
    model = small(output="sigmoid")
    found = evaluate(model, clips, 3, 2)
    expected = cross_entropy(rollout(model, clips[:, :3], 2), clips[:, 3:])
    assert_close(found.model["cross_entropy"].mean, expected.mean().item())
    assert not any("cross_entropy" in baseline.metrics for baseline in found.baselines)
    assert "cross_entropy" not in evaluate(small(), clips, 3, 2).model.metrics


def test_which_imported_networks_give_probabilities():
    def network(*stages) -> ImportedNetwork:
        first = Convolution(input_channels=1, output_channels=4, kernel_size=(3, 3))
        return ImportedNetwork(ImportedConfig(channels=1, stages=(first, *stages)))

    sigmoid, back = Activation(name="sigmoid"), Patches(size=2, inverse=True)
    assert gives_probabilities(network(back, sigmoid))
    assert gives_probabilities(network(sigmoid, back))
    assert not gives_probabilities(network(sigmoid, Activation(name="relu"), back))
    assert not gives_probabilities(network(back))
    assert gives_probabilities(AveragedModel(network(sigmoid)))


def test_openstl_reports_its_columns_and_nothing_else():
    clips = torch.rand(4, 5, 1, 8, 8)
    found = evaluate(blurred, clips, 2, 3, protocol="openstl")
    # As OpenSTL writes them: means over sequences and frames, then the sum over pixels.
    difference = (blurred(clips[:, :2], 3) - clips[:, 2:]).double().numpy()
    assert_close(found.model["mse"].mean, float(np.mean(difference**2, axis=(0, 1)).sum()))
    assert_close(found.model["mae"].mean, float(np.mean(np.abs(difference), axis=(0, 1)).sum()))
    assert list(found.model.metrics) == ["mse", "mae", "ssim_range2", "psnr"]


def test_json_and_back():
    clips, options = torch.rand(3, 5, 1, 8, 8), {"protocol": "openstl", "thresholds": (0.1, 0.5)}
    found = evaluate(small(), clips, 3, 2, **options)
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Evaluation.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.protocol == found.protocol
    assert again.model.metrics == found.model.metrics
    with pytest.raises(ValueError, match="schema is 99; this version reads 1"):
        Evaluation.from_dict({**found.to_dict(), "schema": 99})
    unknown = {**dataclasses.asdict(found.protocol), "columns": [{"name": "lpips"}]}
    for broken in ({"model": {}}, {"extra": 1}, {"protocol": unknown}):
        with pytest.raises(ValueError, match="evaluation has wrong or missing fields"):
            Evaluation.from_dict({**found.to_dict(), **broken})
    # Files of earlier versions have another name for the cross-entropy.
    found = evaluate(small(output="sigmoid"), clips, 3, 2).to_dict()
    old = json.dumps(found).replace('"cross_entropy"', '"bce"')
    assert Evaluation.from_dict(json.loads(old)).to_dict() == found


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clips": "clips.npy"}, TypeError, "clips is a str; it needs an array"),
        ({"clips": torch.rand(3, 5, 8, 8)}, ValueError, r"clips have shape \(3, 5, 8, 8\)"),
        ({"clips": np.full((3, 5, 1, 8, 8), 9, np.uint8)}, ValueError, "clips have values from 9 to 9; they"),
        ({"model": 3}, TypeError, "model is a int; it needs a network or a function"),
        ({"model": ConvLSTM(1, 2, 3)}, ValueError, "model is a ConvLSTM layer"),
        ({"protocol": "lax"}, ValueError, r"protocol is 'lax'; it needs one of \('strict', 'openstl'\)"),
        ({"thresholds": (0.5, 1.5)}, ValueError, "thresholds is 1.5; it needs a .* above 0, at most 1"),
        ({"thresholds": ("wet",)}, ValueError, "thresholds is 'wet'; it needs a finite number"),
        ({"device": "abacus"}, ValueError, "device is 'abacus'"),
    ],
)
def test_what_does_not_fit_is_said(options: dict, error: type[Exception], message: str):
    arguments = {"model": copy_last, "clips": torch.rand(3, 5, 1, 8, 8), "context": 3, "horizon": 2}
    with pytest.raises(error, match=message):
        evaluate(**(arguments | options))


def test_a_run_keeps_a_summary_without_intervals():
    clips = torch.rand(5, 5, 1, 8, 8)
    rows = measure(
        {"ours": blurred, "copy last frame": copy_last}, Clips(clips), 3, 2, probabilities={"ours"}
    )
    found, full = summarize(rows, 3, TRAINING, resamples=0), evaluate(blurred, clips, 3, 2).model
    assert math.isnan(found.model["mse"].low)
    assert "interval" not in format_evaluation(found)
    expected = {}
    for name in ("mse", "mae", "ssim", "ssim_range2", "psnr"):
        expected |= {name: full[name].mean, f"{name}_per_frame": list(full[name].per_frame)}
    [copied] = found.baselines
    assert copied.summary().keys() == {*expected, "mse_stderr"}
    kept = json.loads(json.dumps(found.model.summary(), allow_nan=False))
    assert kept.keys() == {*copied.summary(), "cross_entropy", "cross_entropy_per_frame"}
    assert expected.items() <= kept.items()
    assert kept["mse_stderr"] == full["mse"].stderr
