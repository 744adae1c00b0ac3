"""Checkpoints: what is saved comes back, and whatever does not fit is refused in words."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from convlstm import (
    ConvLSTM,
    EncoderForecaster,
    EncoderForecasterConfig,
    Forecaster,
    StackedForecaster,
    StackedForecasterConfig,
    load_checkpoint,
    save_checkpoint,
)
from convlstm.checkpoint import read_config


def stacked(hidden: int = 4) -> StackedForecaster:
    return StackedForecaster(StackedForecasterConfig(hidden_channels=(hidden, 3), kernel_size=3))


def encoder_forecaster() -> EncoderForecaster:
    return EncoderForecaster(EncoderForecasterConfig(hidden_channels=(4, 3), kernel_size=2))


@pytest.mark.parametrize("make", [stacked, encoder_forecaster])
def test_a_model_comes_back_whole(tmp_path: Path, make) -> None:
    model: Forecaster = make()
    save_checkpoint(tmp_path / "new", model, {"step": 7})
    loaded = load_checkpoint(tmp_path / "new")
    assert loaded.config == model.config
    assert not loaded.training
    assert read_config(tmp_path / "new")["step"] == 7
    context = torch.rand(2, 3, 1, 8, 12)
    assert_close(loaded(context, 2), model(context, 2), rtol=0, atol=0)
    assert sorted(os.listdir(tmp_path / "new")) == ["config.json", "model.safetensors"]


def test_saving_replaces_what_stood_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked())
    second = stacked()
    save_checkpoint(tmp_path, second)
    assert_close(load_checkpoint(tmp_path).state_dict(), second.state_dict(), rtol=0, atol=0)


def test_notes_cannot_hide_the_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="notes has a key 'network'"):
        save_checkpoint(tmp_path / "new", stacked(), {"network": 1})
    assert not (tmp_path / "new").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is no checkpoint: it has no config.json"):
        load_checkpoint(tmp_path / "nowhere")
    save_checkpoint(tmp_path, stacked())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        load_checkpoint(tmp_path)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("write", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))])
def test_a_pickle_is_refused_and_not_executed(tmp_path: Path, monkeypatch, write) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path, stacked())
    write(Hostile(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors is a pickle, which is never loaded"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    save_checkpoint(tmp_path, stacked())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or not safetensors"):
        load_checkpoint(tmp_path)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked(4))
    save_checkpoint(tmp_path / "other", stacked(5))
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit config.json: .*weight.* the network needs"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "third", encoder_forecaster())
    (tmp_path / "third" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is missing.*and \d+ more"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is damaged: it is not JSON"),
        ("[]", "names no network"),
        ('{"network": "StackedForecaster"}', "names no network"),
        ('{"network": {"network": "Transformer"}}', "network is 'Transformer'; it needs one of"),
        ('{"network": {"network": ["a"]}}', r"network is \['a'\]; it needs one of"),
        (
            '{"network": {"network": "StackedForecaster", "hidden_channels": [1' + "0" * 30 + "]}}",
            r"config.json does not fit",
        ),
        ('{"network": {"network": "StackedForecaster", "depth": 3}}', "has no config field depth"),
        ('{"network": {"network": "StackedForecaster", "patch_size": "4"}}', "patch_size is '4'"),
        ('{"network": {"network": "StackedForecaster", "hidden_channels": 4}}', "hidden_channels is 4"),
        ('{"network": {"network": "StackedForecaster", "cell": [1]}}', "cell is"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, config: str, message: str) -> None:
    save_checkpoint(tmp_path, stacked())
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


def test_weights_that_are_no_floating_numbers_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked())
    tensors = {name: tensor.int() for name, tensor in load_checkpoint(tmp_path).state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has type I32, the network needs one of F16, BF16, F32, F64"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = stacked()
    with torch.no_grad():
        model.cells[1].get_parameter("bias")[2] = value
    save_checkpoint(tmp_path, model)
    with pytest.raises(ValueError, match=r"values in cells.1.bias that are not finite"):
        load_checkpoint(tmp_path)


def test_a_width_beyond_the_weights_takes_no_memory(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked())
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["hidden_channels"] = [100_000, 3]  # 1.4 TB in the first cell
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cells.0.bias has shape \(16,\), the network needs \(400000,\)"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type_are_loaded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = stacked().to(dtype)
    save_checkpoint(tmp_path, model)
    loaded = load_checkpoint(tmp_path)
    assert_close(loaded.state_dict(), model.float().state_dict(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_config_is_plain_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked())
    network = json.loads((tmp_path / "config.json").read_text())["network"]
    assert network == {
        "network": "StackedForecaster",
        "cell": "lstm",
        "channels": 1,
        "hidden_channels": [4, 3],
        "kernel_size": 3,
        "patch_size": 4,
        "peephole": None,
        "output": "linear",
    }


def test_a_compiled_network_is_saved_as_the_network(tmp_path: Path) -> None:
    model = stacked()
    wrapped: Any = torch.compile(model)
    save_checkpoint(tmp_path, wrapped)
    assert_close(dict(load_checkpoint(tmp_path).state_dict()), dict(model.state_dict()))


def test_what_is_no_forecaster_is_not_saved(tmp_path: Path) -> None:
    layer: Any = ConvLSTM(1, 2, 3)
    with pytest.raises(TypeError, match="model is a ConvLSTM; it needs a forecaster"):
        save_checkpoint(tmp_path / "new", layer)
    with pytest.raises(ValueError, match="notes has a value that JSON cannot hold"):
        save_checkpoint(tmp_path / "new", stacked(), {"mse": math.nan})
    assert not (tmp_path / "new").exists()
