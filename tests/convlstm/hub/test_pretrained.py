"""Networks by name, with fresh weights and with shipped ones, also from an installed wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import train
from convlstm import create_model, from_pretrained, list_models
from convlstm.__main__ import main
from convlstm.hub import pretrained
from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import config_from_dict
from convlstm.models.stacked import StackedForecaster

ROOT = Path(__file__).parents[3]
TINY = "moving_mnist_tiny"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackedForecaster:
    """Ship weights of the tiny network, in bfloat16; return it."""
    monkeypatch.setattr(pretrained, "_folder", lambda name: tmp_path / "weights" / name)
    model = create_model(TINY).bfloat16()
    model.save_pretrained(tmp_path / "weights" / TINY)
    assert isinstance(model, StackedForecaster)
    return model


def test_every_name_is_built() -> None:
    counts = {}
    for name in list_models():
        model = create_model(name, device="meta")
        assert model.config == pretrained.ARCHITECTURES[name]
        assert model.training
        counts[name] = sum(p.numel() for p in model.parameters())
    assert list(counts.values()) == sorted(counts.values())
    assert counts["moving_mnist_mini"] == 565_136
    assert counts["moving_mnist_paper"] == 7_585_296


def test_the_presets_of_the_training_script_have_names() -> None:
    names = {"default": "mini", "fully-connected": "fully_connected"}
    for preset, config in train.PRESETS.items():
        assert config.model == pretrained.ARCHITECTURES[f"moving_mnist_{names.get(preset, preset)}"]


def test_what_is_shipped_is_what_its_name_says() -> None:
    for name in list_models(pretrained=True):
        assert (
            config_from_dict(read_config(pretrained._folder(name))["network"])
            == pretrained.ARCHITECTURES[name]
        )
        assert not create_model(name, pretrained=True).training
    folders = {path.name for path in (ROOT / "convlstm" / "weights").iterdir() if path.is_dir()}
    assert folders == set(list_models(pretrained=True))


def test_shipped_weights_are_loaded_exactly(shipped: StackedForecaster) -> None:
    assert list_models(pretrained=True) == [TINY]
    for model in (create_model(TINY, pretrained=True), from_pretrained(TINY)):
        assert not model.training
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, shipped.state_dict()[name].float())


def test_a_directory_comes_before_a_name(
    shipped: StackedForecaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = create_model(TINY)
    mine.save_pretrained(TINY)
    assert_close(from_pretrained(TINY).state_dict(), mine.state_dict(), rtol=0, atol=0)
    assert not torch.equal(mine.get_parameter("head.weight"), shipped.head.weight.float())


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "moving_mnist_tny"}, r"_tny', none of the names .*\(did you mean moving_mnist_tiny\?"),
        ({"name": "../x"}, r"name is '../x', none of the names moving_mnist_tiny, .*fully_connected$"),
        ({"name": "moving_mnist_paper", "pretrained": True}, f"not shipped; shipped: {TINY}$"),
        ({"name": TINY, "pretrained": True, "channels": 3}, "channels given with pretrained=True"),
        (
            {"name": TINY, "depth": 3},
            "StackedForecaster has no config field depth; it has channels, output, ",
        ),
        ({"name": TINY, "channels": 0}, "channels is 0; it needs"),
        ({"name": TINY, "device": "abacus"}, "device is 'abacus'; it needs one of this machine"),
        ({"name": TINY, "device": "meta", "pretrained": True}, "device is 'meta'; it needs one of this mach"),
    ],
)
def test_what_create_model_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**options)


def test_without_shipped_weights_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_folder", lambda name: tmp_path / name)
    assert list_models(pretrained=True) == []
    for load in (lambda: create_model(TINY, pretrained=True), lambda: from_pretrained(TINY)):
        with pytest.raises(ValueError, match="not shipped; shipped: none"):
            load()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "../x",
            FileNotFoundError,
            "no folder ../x, and none of the names moving_mnist_mini, moving_mnist_small$",
        ),
        ("", FileNotFoundError, "no folder ''"),
        ("moving_mnist", FileNotFoundError, r"\(did you mean moving_mnist_mini\?\)"),
        (3, TypeError, "name_or_directory is a int; it needs a string or a path"),
        (Path("empty"), FileNotFoundError, "empty is no checkpoint: it has no config.json"),
        ("file", ValueError, "file is a file; it needs the directory that has config.json and model.safete"),
    ],
)
def test_what_from_pretrained_refuses(
    name: Any, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    with pytest.raises(error, match=message):
        from_pretrained(name)
    with pytest.raises(ValueError, match=r"revision is 'v1', but only hf:// addresses have one; .* is none"):
        from_pretrained(tmp_path, revision="v1")


@pytest.mark.usefixtures("shipped")
def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *list_models()]
    assert lines[1].split() == [TINY, "11,856", "shipped"]
    assert lines[2].split() == ["moving_mnist_mini", "565,136", "not", "shipped"]


@pytest.mark.slow
def test_weights_are_found_in_an_installed_wheel(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "convlstm", source / "convlstm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    create_model(TINY).bfloat16().save_pretrained(source / "convlstm" / "weights" / TINY)
    (source / "convlstm" / "weights" / TINY / "rollout.gif").write_bytes(b"GIF89a")  # the wheel is kept small
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    weights = site / "convlstm" / "weights"
    assert sorted(os.listdir(weights / TINY)) == ["README.md", "config.json", "model.safetensors"]
    assert {"canvas.js", "style.css"} <= set(os.listdir(site / "convlstm" / "demo"))
    assert (weights / "README.md").exists()
    code = f"""
import convlstm
assert {TINY!r} in convlstm.list_models(pretrained=True)
convlstm.ConvLSTM(1, 1, 1).save_pretrained("saved")  # with a card, whose template is a file
print(convlstm.__file__, convlstm.create_model({TINY!r}, pretrained=True).head.bias.tolist())"""
    environment = os.environ | {"PYTHONPATH": str(site)}
    output = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    bias = from_pretrained(weights / TINY).get_parameter("head.bias").tolist()
    assert output == f"{site / 'convlstm' / '__init__.py'} {bias}\n"
