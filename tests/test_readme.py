"""The README keeps its word: its Python runs, its commands run, its pictures exist."""

import contextlib
import dataclasses
import hashlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from convlstm.__main__ import main as convlstm_main
from convlstm.clips import write_clip
from datasets import CanonicalMovingMNIST
from datasets.__main__ import main as datasets_main
from tests.convlstm.importers.foreign_models import OpenSTL

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README speaks of: runs/NAME, a GIF, a checkpoint of OpenSTL."""
    path = tmp_path_factory.mktemp("readme")
    with contextlib.chdir(path):
        sizes = {"steps": 1, "validation_sequences": 2, "test_sequences": 2, "validations": 1}
        train.main(dataclasses.replace(train.PRESETS["tiny"], name="NAME", **sizes))
        write_clip(Path("clip.gif"), np.zeros((12, 64, 64), np.uint8), 5)
        openstl = OpenSTL(1, [3], 4, None, old=False)
        frames = torch.rand(1, 3, 1, 16, 16)
        np.save("input.npy", frames.numpy())
        np.save("output.npy", openstl(frames, 2).detach().numpy())
        tensors = {f"model.{name}": tensor for name, tensor in openstl.state_dict().items()}
        torch.save({"state_dict": tensors, "hyper_parameters": {"patch_size": 4}}, "best.ckpt")
    return path


@pytest.fixture
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


@pytest.mark.usefixtures("in_the_folder")
def test_the_python_runs_and_the_shapes_in_its_comments_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict = {}
    # Two sequences stand for the test file that is published.
    np.save("mnist_test_seq.npy", np.zeros((20, 2, 64, 64), np.uint8))
    md5 = hashlib.md5(Path("mnist_test_seq.npy").read_bytes()).hexdigest()
    monkeypatch.setattr(CanonicalMovingMNIST.__init__, "__defaults__", (md5,))
    for block in blocks("python"):
        block = block.replace("sequences=1000", "sequences=2")
        for line in block.splitlines():
            # A line that assigns and is commented with a shape in numbers must give it.
            match = re.search(r"^(\w+).* = .*# \(([\d, ]+)\)", line)
            if match:
                wanted = tuple(int(n) for n in match[2].split(","))
                block = block.replace(line, f"{line}\nassert tuple({match[1]}.shape) == {wanted}")
        exec(compile(block, "README.md", "exec"), names)
    assert names["frames"].shape == (4, 20, 1, 64, 64)


@pytest.mark.usefixtures("in_the_folder")
def test_the_rollout_commands_run() -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("python -m")]
    assert len(lines) >= 2
    for line in lines:
        line = line.replace("--sequences 1000", "--sequences 2").replace("--horizon 90", "--horizon 12")
        module, *arguments = shlex.split(line)[2:]
        assert {"datasets": datasets_main, "convlstm": convlstm_main}[module](arguments) in (0, None)
    assert Path("out.gif").exists()


@pytest.mark.usefixtures("in_the_folder")
def test_the_training_commands_are_understood() -> None:
    lines = [
        line for block in blocks("") for line in block.splitlines() if line.startswith("python train.py")
    ]
    assert len(lines) >= 5
    for line in lines:
        assert isinstance(train.parse(shlex.split(line, comments=True)[2:]), train.Config)


def test_what_the_readme_shows_is_there() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / path).exists(), path
