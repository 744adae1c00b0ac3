"""The short form of tests/chaos/chaos.py: each kind of fault to one process, once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.timing import read_measured
from tests.chaos.disturbed import differences


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the faults are made as Linux has them")
def test_no_fault_loses_anything() -> None:
    # In a process of its own: it sets the environment and the rights of the processes that it starts.
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--faults", "12"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout
    assert read_measured("reliability").splitlines()[0] in done.stdout
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", done.stdout, re.MULTILINE)
    assert {lost for *_, lost in rows} == {"0"}
    assert rows[-1][:2] == ("all", "12")
    assert len(rows) >= 12  # without the read-only directory where root cannot be kept from writing
    steps = {name: int(lost) for name, _, _, lost, _ in rows}
    assert steps["SIGTERM"] == steps["SIGINT (Ctrl-C)"] == steps["SIGUSR1"] == 0


def test_differences_are_named() -> None:
    one = {"a": [torch.zeros(2), 1.0], "b": {"c": (1, 2)}}
    assert not differences(one, {"a": [torch.zeros(2), 1.0], "b": {"c": (1, 2)}})
    other = {"a": [torch.tensor([0.0, -0.0]), 1.5], "b": {"c": (1, 2, 3)}}
    assert differences(other, one) == ["a 0", "a 1", "b c"]
