"""benchmarks/gpu.sh without a GPU: bash parses it, and its usage and options are those of its scripts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
BASH = shutil.which("bash")
CALLS = re.findall(r"python (\S+\.py|-m \S+) (.*)", SCRIPT.read_text())

pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


def bash(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BASH), *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_stage_is_in_its_usage() -> None:
    assert bash("-n", str(SCRIPT)).returncode == 0
    done = bash(str(SCRIPT))
    assert done.returncode == 2
    stages = re.findall(r"^([a-z |]+)\)$", SCRIPT.read_text(), re.MULTILINE)
    assert len(stages) > 5
    for stage in (name.strip() for names in stages for name in names.split("|")):
        assert f"benchmarks/gpu.sh {stage}" in done.stderr


def test_its_scripts_know_the_options_that_they_get() -> None:
    assert len(CALLS) > 8
    for script, arguments in CALLS:
        if script in ("train.py", "-m pytest"):
            continue
        path = {"-m convlstm": "convlstm/cli/evaluate.py", "-m datasets": "datasets/__main__.py"}.get(script)
        source = (ROOT / (path or script)).read_text()
        shared = {"add_train(": "studies/study.py", "add_write(": "benchmarks/timing.py"}
        source += "".join((ROOT / file).read_text() for call, file in shared.items() if call in source)
        for option in re.findall(r"--[a-z-]+", arguments):
            assert f'"{option}"' in source, f"{script} {option}"
