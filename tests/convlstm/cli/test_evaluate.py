"""python -m convlstm evaluate: from a checkpoint and clips to a table and JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch.testing import assert_close

from convlstm import evaluate
from convlstm.__main__ import main
from convlstm.clips import read_clips
from convlstm.evaluation import Evaluation
from convlstm.hub.checkpoint import load_checkpoint


def test_the_table_and_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    command = "evaluate run clips.npy --horizon 4 --thresholds 0.25 0.5 --json out.json"
    assert main([*command.split()]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    assert "clips.npy: 4 clips, read as TNHW; if its axes are others, give --layout." in out
    assert "Protocol strict: 4 sequences, 4 frames from 10." in out
    found = Evaluation.from_dict(json.loads(Path("out.json").read_text()))
    expected = evaluate(load_checkpoint("run"), read_clips("clips.npy"), 10, 4, thresholds=(0.25, 0.5))
    for name, score in expected.model.metrics.items():
        assert_close(vars(found.model[name]), vars(score))
    assert (found.checkpoint, found.clips) == ("run", "clips.npy")
    assert found.command == f"python -m convlstm {command}"
    assert found.versions.keys() == {"python", "torch", "numpy"}
    # Every mean of the table is one of the JSON's.
    mse = next(line for line in out.splitlines() if line.startswith("MSE "))
    means = [found.model["mse"].mean, *(baseline["mse"].mean for baseline in found.baselines)]
    printed = [float(word) for word in mse.split()[1:] if "[" not in word and "]" not in word]
    assert printed == [round(mean, 2) for mean in means]
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
