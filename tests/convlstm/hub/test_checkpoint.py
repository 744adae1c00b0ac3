"""Checkpoints: what is saved comes back, and whatever does not fit is refused in words."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import DataParallel
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvRNN,
    EncoderForecaster,
    EncoderForecasterConfig,
    Forecaster,
    StackedForecaster,
    StackedForecasterConfig,
    load_checkpoint,
    rollout,
    save_checkpoint,
)
from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import as_forecaster


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
        "residual": False,
        "norm": None,
        "head": "all",
    }


def test_a_compiled_network_is_saved_as_the_network(tmp_path: Path) -> None:
    model = stacked()
    wrapped: Any = torch.compile(model)
    save_checkpoint(tmp_path, wrapped)
    assert_close(dict(load_checkpoint(tmp_path).state_dict()), dict(model.state_dict()))


class Own(ConvLSTM):
    """A user's own class, which nothing could build when it is loaded."""


def tied() -> StackedForecaster:
    model = StackedForecaster(StackedForecasterConfig(hidden_channels=(3, 3, 3), kernel_size=3))
    model.cells[2].weight_ih = model.cells[1].get_parameter("weight_ih")
    return model


def parametrized() -> StackedForecaster:
    model = stacked()
    torch.nn.utils.parametrizations.weight_norm(model.cells[0], "weight_hh")
    return model


def compiled_inside() -> StackedForecaster:
    model = stacked()
    model.cells[0] = torch.compile(model.cells[0])  # pyright: ignore[reportArgumentType]
    return model


@pytest.mark.parametrize(
    ("make", "notes", "error", "message"),
    [
        (lambda: nn.Linear(1, 2), {}, TypeError, "model is a Linear; it needs one of StackedForecaster, "),
        (
            lambda: Own(1, 2, 3),
            {},
            TypeError,
            "model is a Own, .* could not build; it needs a ConvLSTM itself",
        ),
        (stacked, {"mse": math.nan}, ValueError, "notes has a value that JSON cannot hold"),
        (stacked, {"mse": torch.ones(1)}, ValueError, "notes has a value that JSON cannot hold"),
        (stacked, {(1, 2): 3}, ValueError, "notes has a value that JSON cannot hold"),
        (stacked, ["mse"], TypeError, "notes is a list; it needs a mapping"),
        (lambda: stacked().to("meta"), {}, ValueError, "model has no values in cells.0.*on the meta device"),
        (lambda: stacked().to(torch.complex64), {}, ValueError, "model has cells.0.bias of another kind"),
        (parametrized, {}, ValueError, "model has cells.0.parametrizations.* of another kind than a Stacked"),
        (compiled_inside, {}, ValueError, "model has cells.0._orig_mod.bias of another kind than a Stacked"),
    ],
)
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_what_could_not_be_loaded_is_not_saved(
    tmp_path: Path, make: Any, notes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path / "new", make(), notes)
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for directory, message in (
        (tmp_path / "file", "file', which is a file; it needs a directory"),
        (tmp_path / "file" / "below", "where a file is in the way"),
        ("", "directory is ''; it needs the path of a directory"),
        (3, "directory is 3; it needs the path of a directory"),
    ):
        given: Any = directory
        with pytest.raises(ValueError, match=message):
            save_checkpoint(given, stacked())
    assert (tmp_path / "file").read_text() == "kept"
    assert os.listdir(tmp_path) == ["file"]


def test_tied_weights_are_written_one_by_one(tmp_path: Path) -> None:
    model = tied()
    save_checkpoint(tmp_path, model)
    assert_close(load_checkpoint(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrapper",
    [DataParallel, AveragedModel, lambda model: AveragedModel(cast(nn.Module, torch.compile(model)))],
)
def test_a_wrapped_network_is_saved_as_the_network(tmp_path: Path, wrapper: Any) -> None:
    model = stacked()
    save_checkpoint(tmp_path, wrapper(model))
    assert_close(load_checkpoint(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


LAYERS = [
    lambda: ConvRNN(2, 3, 3, nonlinearity="relu", spatial_dims=1),
    lambda: ConvLSTM(2, 3, (2, 3), num_layers=2, bidirectional=True, batch_first=True, peephole=(5, 4)),
    lambda: ConvLSTM(0, 3, 1, bias=False, peephole="channel", forget_bias=0.5, recompute=True),
    lambda: ConvGRU(2, 3, 3, num_layers=2, dropout=0.25, reset_after=False, spatial_dims=3),
]


@pytest.mark.parametrize("make", LAYERS)
def test_a_layer_comes_back_whole(tmp_path: Path, make: Any) -> None:
    layer = make().eval()
    save_checkpoint(tmp_path, layer)
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is type(layer)
    assert repr(loaded) == repr(layer)
    frames = torch.rand(2, 3, layer.input_channels, *(5, 4, 3)[: layer.arguments()["spatial_dims"]])
    assert_close(loaded(frames), layer(frames), rtol=0, atol=0)
    with pytest.raises(
        ValueError, match=f"here is a {type(layer).__name__} layer, which forecasts no frames"
    ):
        as_forecaster(loaded, "here")
    with pytest.raises(
        ValueError, match=f"model is a {type(layer).__name__} layer, which forecasts no frames"
    ):
        rollout(layer, frames, 2)


def test_a_layer_is_loaded_without_its_old_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="does nothing with num_layers=1"):
        layer = ConvGRU(1, 2, 3, dropout=0.5)
    save_checkpoint(tmp_path, layer)
    assert repr(load_checkpoint(tmp_path)) == repr(layer)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "ConvLSTM"}, "missing 3 required"),
        ({"depth": 3}, "ConvLSTM has no config field depth"),
        ({"dtype": "float16"}, "ConvLSTM has no config field dtype"),
        ({"bias": "no"}, "bias is 'no'; it needs true or false"),
        ({"peephole": [3]}, r"peephole is \(3,\)"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"num_layers": 2}, "cells.1.bias is missing"),
        ({"num_layers": 10**9}, "num_layers is 1000000000, model.safetensors has 3 tensors"),
        ({"network": "ConvGRU"}, "missing 3 required"),
        ({"network": "ConvGRU", "depth": 3}, "ConvGRU has no config field depth, forget_bias, peephole"),
    ],
)
def test_a_layer_whose_config_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    layer = ConvLSTM(1, 2, 3)
    save_checkpoint(tmp_path, layer)
    network = fields if len(fields) == 1 and "network" in fields else layer.description() | fields
    (tmp_path / "config.json").write_text(json.dumps({"network": network}))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("device", ["abacus", "meta", "cpu:x", "cuda:99", None])
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: Any) -> None:
    save_checkpoint(tmp_path, stacked())
    with pytest.raises(ValueError, match=f"device is '{device}'; it needs one of this machine"):
        load_checkpoint(tmp_path, device)


def test_the_notes_of_a_checkpoint_may_be_written_again(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked(), {"step": 7, "naïve": "é"})
    notes = read_config(tmp_path)
    save_checkpoint(tmp_path / "again", load_checkpoint(tmp_path), notes)
    assert read_config(tmp_path / "again") == notes
    with pytest.raises(ValueError, match="notes has a key 'network'"):
        save_checkpoint(tmp_path / "other", stacked(5), notes)
