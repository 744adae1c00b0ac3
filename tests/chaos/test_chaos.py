"""The short version of tests/chaos/chaos.py: each kind of fault once, but those of several processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.chaos.disturbed import differences

SCRIPT = Path(__file__).parents[2] / "tests" / "chaos" / "chaos.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the faults are made as Linux has them")
def test_no_fault_loses_anything() -> None:
    # A process of its own, which forks the runs: this one has run operations, and their threads do not fork.
    command = [sys.executable, str(SCRIPT), "--fork", "--faults", "12"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", done.stdout, re.MULTILINE)
    assert {lost for *_, lost in rows} == {"0"}
    assert all(times == "1" for name, times, *_ in rows if name != "all")
    assert len(rows) >= 12  # root may have no way to a directory that it cannot write into
    again = {name: int(steps) for name, _, _, steps, _ in rows}
    assert again["SIGTERM"] == again["SIGINT (Ctrl-C)"] == again["SIGUSR1"] == 0


def test_what_differs_is_named() -> None:
    one = {"a": [torch.zeros(2), 1.0], "b": {"c": (1, 2)}}
    assert not differences(one, {"a": [torch.zeros(2), 1.0], "b": {"c": (1, 2)}})
    other = {"a": [torch.tensor([0.0, -0.0]), 1.5], "b": {"c": (1, 2, 3)}}
    assert differences(other, one) == ["a 0", "a 1", "b c"]
