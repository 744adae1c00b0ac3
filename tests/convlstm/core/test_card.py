"""save_pretrained: its files, and the model card."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from torch.testing import assert_close

import train
from convlstm import ConvLSTM, Forecaster, StackedForecaster, evaluate, from_pretrained
from convlstm.hub.checkpoint import read_config, read_evaluations
from convlstm.training.settings import provenance

WEIGHTS = Path(__file__).parents[3] / "convlstm" / "weights"
FILES = ["README.md", "config.json", "model.safetensors"]
SCORES = {"sequences": 200, "mse": 89.123, "mae": 213.2, "ssim": 0.655, "ssim_range2": 0.7342, "psnr": 17.0}


def stacked() -> StackedForecaster:
    return StackedForecaster(hidden_channels=(3,), kernel_size=3)


def sections(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("#")]


def test_evaluations_are_shown_and_kept_in_a_file_of_their_own(tmp_path: Path) -> None:
    model = stacked()
    found = evaluate(model, torch.rand(3, 4, 1, 8, 8).numpy(), 2, 2).to_dict()
    model.save_pretrained(tmp_path, {"step": 1}, [found])
    assert read_config(tmp_path).keys() == {"network", "step"}
    assert read_evaluations(tmp_path) == [found]
    card = (tmp_path / "README.md").read_text()
    assert sections(card) == ["# StackedForecaster", "## Use", "## Scores", "## Limits"]
    mse = found["model"]["metrics"]["mse"]
    assert f"| MSE | {mse['mean']:.2f} | {mse['low']:.2f} to {mse['high']:.2f} |" in card
    curve = " | ".join(f"{value:.2f}" for value in mse["per_frame"])
    assert f"| frame | 1 | 2 |\n| --- | ---: | ---: |\n| MSE | {curve} |" in card
    (tmp_path / "evaluation.json").write_text(json.dumps(found))  # as `convlstm evaluate --json` writes one
    assert read_evaluations(tmp_path) == [found]
    stacked().save_pretrained(tmp_path)  # other weights, of which nothing is known
    assert sorted(os.listdir(tmp_path)) == FILES
    assert read_evaluations(tmp_path) == []
    (tmp_path / "evaluation.json").write_text("[3]")
    with pytest.raises(ValueError, match="is damaged, or no evaluation"):
        read_evaluations(tmp_path)


def test_the_card_of_a_run_says_what_it_is(tmp_path: Path) -> None:
    model = stacked()
    config = train.Config(seed=5, model=model.config)
    notes = provenance(config) | {"step": 40, "validation": SCORES, "resumed": [{"step": 7}, {"step": 9}]}
    model.save_pretrained(tmp_path, notes | {"license": "mit", "source": "a note"})
    card = (tmp_path / "README.md").read_text()
    count = sum(parameter.numel() for parameter in model.parameters())
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": "convlstm",
        "tags": ["convlstm", "video-prediction"],
        "pipeline_tag": "video-to-video",
        "license": "mit",
    }
    assert sections(card) == ["# StackedForecaster", "## Use", "## Validation", "## Training"]
    for line in (
        "A stack of recurrent cells that predicts the next frame from each frame, autoregressively.",
        f"`StackedForecaster` of the library convlstm, with {count:,} parameters; its arguments",
        "mse 89.123, mae 213.2, ssim 0.655, ssim\\_range2 0.7342, psnr 17",
        f"```sh\n{notes['command']}\n```",
        "Run: step 40.",
    ):
        assert line in card, line


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (stacked, {"context": torch.rand(1, 2, 1, 8, 8)}),
        (lambda: ConvLSTM(2, 3, 3), {"frames": torch.rand(4, 1, 2, 8, 8)}),
    ],
)
def test_without_notes_the_card_says_how_to_load(tmp_path: Path, make: Any, names: dict[str, Any]) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert sections(card) == [f"# {type(model).__name__}", "## Use"]
    assert ("pipeline_tag" in card) == isinstance(model, Forecaster)
    assert "license" not in card
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("PATH", str(tmp_path)), names)
    assert isinstance(names["model"], type(model))
    assert "frames" in names


@pytest.mark.parametrize("folder", sorted(WEIGHTS.glob("*/")), ids=lambda folder: folder.name)
def test_the_shipped_cards_are_those_that_are_made_of_their_files(folder: Path, tmp_path: Path) -> None:
    """After a change of the card, copy what this makes over the README.md of each."""
    model, notes, evaluations = from_pretrained(folder), read_config(folder), read_evaluations(folder)
    model.bfloat16().save_pretrained(tmp_path, notes, evaluations)
    for file in (*FILES, "evaluation.json"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file
    front: Any = ModelCard.load(tmp_path / "README.md").data
    assert len((tmp_path / "README.md").read_text().splitlines()) < 80
    assert front.pipeline_tag == "video-to-video"
    results = {result.metric_type: result for result in front.eval_results}
    assert list(results) == ["mse", "mae", "ssim", "ssim_range2", "psnr"]
    mse = evaluations[0]["model"]["metrics"]["mse"]["mean"]
    assert results["mse"].metric_value == pytest.approx(mse, abs=0.005)
    assert results["mse"].dataset_name.startswith(evaluations[0]["clips"])


def test_what_is_measured_of_one_set_of_clips_stands_together(tmp_path: Path) -> None:
    """Of two protocols, and of twenty frames; a metric may be without a value."""
    clips = torch.rand(3, 22, 1, 8, 8).numpy()
    strict, openstl = (
        evaluate(stacked(), clips, 2, 20, protocol=protocol).to_dict() for protocol in ("strict", "openstl")
    )
    strict["model"]["metrics"]["psnr"]["mean"] = None
    del openstl["model"]["metrics"]["psnr"]
    for predictor in (strict["model"], *strict["baselines"]):
        del predictor["metrics"]["ssim_range2"]  # only the second protocol has it
    names = {"checkpoint": "runs/x", "clips": "/home/me/Test 🌧.npy"}
    other = strict | {"clips": r"C:\data\x.npy"}
    found = [*(of | names for of in (strict, openstl)), other, strict | {"clips": "/other/x.npy"}]
    stacked().save_pretrained(tmp_path, evaluations=found)
    card = (tmp_path / "README.md").read_text()
    assert sections(card) == ["# x", "## Use", "## Scores", "## Limits"]
    (entry,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert entry["name"] == "x"
    assert [result["dataset"] for result in entry["results"]] == [
        {"type": "test-npy", "name": "Test 🌧.npy: 3 sequences, 20 frames from 2"},
        *[{"type": "x-npy", "name": "x.npy: 3 sequences, 20 frames from 2"}] * 2,
    ]
    metrics = [[metric["type"] for metric in result["metrics"]] for result in entry["results"]]
    assert metrics == [["mse", "mae", "ssim", "ssim_range2"], *[["mse", "mae", "ssim"]] * 2]
    assert card.count("| frame | 1 | 3 | 5 | 7 | 9 | 12 | 14 | 16 | 18 | 20 |") == 3
    curve = strict["model"]["metrics"]["mse"]["per_frame"]
    shown = " | ".join(f"{curve[t - 1]:.2f}" for t in (1, 3, 5, 7, 9, 12, 14, 16, 18, 20))
    assert f"| MSE | {shown} |" in card
    (first,) = re.findall(r"^\| SSIM \(range 2\) \|.*", card, re.MULTILINE)
    baselines = [f"{of['metrics']['ssim_range2']['mean']:.4f}" for of in openstl["baselines"]]
    assert first.endswith(f" | {' | '.join(baselines)} |")
    assert "/home" not in card
    assert "data\\" not in card


def test_without_a_score_there_is_no_model_index(tmp_path: Path) -> None:
    found = evaluate(stacked(), torch.rand(3, 4, 1, 8, 8).numpy(), 2, 2).to_dict()
    for score in found["model"]["metrics"].values():
        score["mean"] = None
    stacked().save_pretrained(tmp_path, evaluations=[found])
    card = (tmp_path / "README.md").read_text()
    assert "model-index" not in card
    assert "## Scores" in card


@pytest.mark.parametrize("license", ["no", "1.0", "null", "a: b", "mit"])
def test_a_license_is_text(license: str, tmp_path: Path) -> None:
    stacked().save_pretrained(tmp_path, {"license": license})
    assert yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])["license"] == license


def test_a_card_that_was_edited_is_kept(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    stacked().save_pretrained(tmp_path)
    stacked().save_pretrained(tmp_path, {"step": 1, "command": "new"})  # as it was written: replaced
    assert "new" in card.read_text()
    seal = hashlib.sha256(b"# As once written\n\n").hexdigest()
    card.write_text(f"# As once written\n\n<!-- written by convlstm, sha256 {seal} -->\n")
    stacked().save_pretrained(tmp_path)  # by an earlier version: replaced
    assert "As once" not in card.read_text()
    for mine in ("# My own words\n\n" + card.read_text(), "", "# A card from elsewhere"):
        card.write_text(mine)
        model = stacked()
        with pytest.warns(UserWarning, match=r"README.md was not written by save_pretrained, or .* is kept"):
            model.save_pretrained(tmp_path)
        assert card.read_text() == mine
        assert_close(from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_notes_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    hostile = "```\n---\n# not mine\n<script>|{{ 1 }}"
    notes = {"command": hostile, "step": hostile, "validation": {"mse": hostile}, "rollout": hostile}
    model = stacked()
    found = evaluate(model, torch.rand(3, 4, 1, 8, 8).numpy(), 2, 2).to_dict()
    for evaluations in ([], [found | {"clips": hostile, "checkpoint": hostile, "command": hostile}]):
        model.save_pretrained(tmp_path, notes, evaluations)
        card = (tmp_path / "README.md").read_text()
        assert f"````sh\n{hostile}\n````" in card
        _, front, rest = card.split("---\n", 2)
        if evaluations:
            (entry,) = yaml.safe_load(front)["model-index"]
            assert entry["results"][0]["dataset"]["name"].startswith(hostile)
        outside = rest.replace(f"````sh\n{hostile}\n````", "")
        assert "\n# not mine" not in outside
        assert "<script" not in outside.replace("\\<script", "")
