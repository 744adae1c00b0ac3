"""python -m convlstm evaluate: from a checkpoint and clips to a table and JSON, or one line on stderr."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.testing import assert_close

from convlstm import StackedForecaster, StackedForecasterConfig, evaluate
from convlstm.__main__ import main
from convlstm.clips import read_clips, write_clip
from convlstm.core.saving import save_checkpoint
from convlstm.evaluation import Evaluation
from convlstm.hub.checkpoint import load_checkpoint


@pytest.fixture(autouse=True)
def _a_checkpoint_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = StackedForecasterConfig(hidden_channels=(3,), kernel_size=3, output="sigmoid")
    save_checkpoint("run", StackedForecaster(config))
    clips = np.random.default_rng(0).integers(0, 256, (14, 4, 16, 12), dtype=np.uint8)  # (T, N, H, W)
    np.save("clips.npy", clips)
    write_clip("clip.gif", clips[:, 0], 5)


def test_the_table_and_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "clips.npy", "--horizon", "4", "--thresholds", "0.25", "0.5", "--json", "out.json"]
    assert main(["evaluate", *arguments]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "clips.npy: 4 clips, read as TNHW; if its axes are others, give --layout." in out
    assert "Protocol strict: 4 sequences, 4 frames from 10." in out
    values = json.loads(Path("out.json").read_text())
    found = Evaluation.from_dict(values)
    expected = evaluate(load_checkpoint("run"), read_clips("clips.npy"), 10, 4, thresholds=(0.25, 0.5))
    for name, score in expected.model.metrics.items():
        assert_close(vars(found.model[name]), vars(score))
    assert found.checkpoint == "run"
    assert found.clips == "clips.npy"
    assert found.command == f"python -m convlstm evaluate {' '.join(arguments)}"
    assert found.versions.keys() == {"python", "torch", "numpy"}
    # Every mean of the table is one of the JSON's.
    mse = next(line for line in out.splitlines() if line.startswith("MSE "))
    means = [found.model["mse"].mean, *(baseline["mse"].mean for baseline in found.baselines)]
    assert [float(word) for word in mse.split()[1:] if "[" not in word and "]" not in word] == [
        round(mean, 2) for mean in means
    ]
    rows = [line for line in out.splitlines() if line.startswith(("CSI at 0.25 ", "bias at 0.5 "))]
    assert len(rows) == 3  # one of them heads a block of curves


def test_a_long_horizon_is_thinned_out_and_one_sequence_has_no_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save("long.npy", np.random.default_rng(0).random((1, 30, 1, 16, 12), dtype=np.float32))
    lengths = ["--context", "1", "--horizon", "29"]
    assert main(["evaluate", "run", "long.npy", "--protocol", "openstl", *lengths]) == 0
    out = capsys.readouterr().out
    assert "SSIM (range 2)" in out
    assert "SSIM (range 1)" not in out
    heads = next(line for line in out.splitlines() if line.startswith("MSE in frame"))
    assert [int(word) for word in heads.split()[3:]] == [1, 4, 7, 10, 13, 17, 20, 23, 26, 29]
    assert "one sequence, 29 frames from 1." in out
    assert "[95%" not in out
    assert "nan" not in out


def test_without_tqdm_there_is_no_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["evaluate", "run", "clips.npy", "--horizon", "2"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "clips.npy", "--horizon", "0"], "horizon is 0; it needs a whole number of 1 or more"),
        (
            ["run", "clips.npy", "--horizon", "2", "--batch-size", "-1"],
            "batch_size is -1; it needs a",
        ),
        (
            ["run", "clips.npy"],
            "clips.npy has 14 frames a clip, read as TNHW; it needs 20 or more, or another layout",
        ),
        (["run", "clips.npy", "--horizon", "2", "--sequences", "5"], "sequences is 5; the source has 4"),
        (
            ["run", "clips.npy", "--horizon", "2", "--thresholds", "5"],
            "thresholds has 5, but values go from 0",
        ),
        (
            ["run", "clips.npy", "--horizon", "2", "--value-range", "0", "1e6", "--thresholds", "0.5"],
            "thresholds has 0.5, but values go from 0 to 1e+06; it needs numbers above 0 (by more",
        ),
        (["run", "clip.gif", "--layout", "THW"], "layout and variable are of arrays, and clip.gif is none"),
        (["run", "clips.npy", "--horizon", "2", "--json", "no/out.json"], "no is no directory"),
        (["run", "nowhere.npy"], "nowhere.npy is no file"),
        (["nowhere", "clips.npy"], "nowhere is no checkpoint"),
        (["run", "clips.npy", "--device", "abacus"], "abacus"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir())
    assert main(["evaluate", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == before
