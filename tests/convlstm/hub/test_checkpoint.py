"""Loading: what is saved comes back, and whatever does not fit is refused in words."""

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
    ImportedNetwork,
    StackedForecaster,
    from_pretrained,
)
from convlstm.core.saving import save_checkpoint
from convlstm.hub.checkpoint import load_checkpoint, read_evaluations


def stacked(hidden: int = 4) -> StackedForecaster:
    return StackedForecaster(hidden_channels=(hidden, 3), kernel_size=3)


def test_the_config_is_plain_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked())
    assert json.loads((tmp_path / "config.json").read_text())["network"] == {
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


OLD = """{
  "network": {
    "network": "StagedNetwork", "channels": 1, "spatial_dims": 2, "forecaster": [], "head": [],
    "forecaster_reads": "zeros",
    "stages": [{"stage": "convolution", "input_channels": 1, "output_channels": 1, "kernel_size": [1, 1],
                "stride": [1, 1], "dilation": [1, 1], "padding": "same", "output_padding": [0, 0],
                "transposed": false, "over_time": false, "bias": true}]
  },
  "step": 3,
  "validation": {"sequences": 2, "mse": 1.5, "mse_per_frame": [1.0, 2.0]},
  "training": {"preset": "tiny", "short_sequences": 0.0},
  "evaluations": [{"schema": 1, "protocol": {"name": "strict"}}]
}"""


def test_a_folder_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(OLD)
    tensors = {"stages.0.weight": torch.full((1, 1, 1, 1), 2.0), "stages.0.bias": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    frames = torch.rand(1, 2, 1, 4, 4)
    assert_close(ImportedNetwork.from_pretrained(tmp_path)(frames), 2 * frames + 1)
    assert read_evaluations(tmp_path) == [{"schema": 1, "protocol": {"name": "strict"}}]


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
    with pytest.raises(
        ValueError, match=r"model.safetensors is damaged or not safetensors, such as a pickle"
    ):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, stacked())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for keep in (0, 5, 100, -1):
        weights.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"model.safetensors is damaged or not safetensors"):
            load_checkpoint(tmp_path)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def refused(model: torch.nn.Module, tensors: dict[str, torch.Tensor], message: str) -> None:
        save_checkpoint(tmp_path, stacked())
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path)

    model = stacked()
    integers = {name: tensor.int() for name, tensor in model.state_dict().items()}
    refused(model, stacked(5).state_dict(), r"does not fit config.json: .*weight.* the network needs")
    refused(model, EncoderForecaster(hidden_channels=(4, 3)).state_dict(), r"is missing.*and \d+ more")
    refused(model, integers, "has type torch.int32, the network needs a floating type")
    for value in (math.nan, math.inf):
        model.get_parameter("cells.1.bias").data[2] = value
        refused(model, model.state_dict(), "cells.1.bias has values that are not finite")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is damaged: it is not JSON"),
        ("[]", "names no network"),
        ('{"network": "StackedForecaster"}', "names no network"),
        ('{"network": {"network": "Transformer"}}', "'Transformer'; it needs one of ConvRNN, .*Stacked"),
        ('{"network": {"network": ["a"]}}', r"network is \['a'\]; it needs one of"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, config: str, message: str) -> None:
    save_checkpoint(tmp_path, stacked())
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (stacked, {"depth": 3}, "has no config field depth"),
        (stacked, {"patch_size": "4"}, "patch_size is '4'"),
        (stacked, {"hidden_channels": [10**30]}, "config.json does not fit"),
        # Of 1.4 TB, which are never allocated.
        (stacked, {"hidden_channels": [100_000, 3]}, r"shape \(16,\), the network needs \(400000,\)"),
        (lambda: ConvLSTM(1, 2, 3), {"dtype": "float16"}, "ConvLSTM has no config field dtype"),
        (lambda: ConvLSTM(1, 2, 3), {"bias": "no"}, "bias is 'no'; it needs true or false"),
        (lambda: ConvLSTM(1, 2, 3), {"num_layers": 2}, "cells.1.bias is missing"),
        (lambda: ConvLSTM(1, 2, 3), {"num_layers": 10**9}, "num_layers is 1000000000, model.safetensors has"),
        (lambda: ConvLSTM(1, 2, 3), {"network": "ConvGRU"}, "ConvGRU has no config field forget_bias, peeph"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    tmp_path: Path, make: Any, fields: dict[str, Any], message: str
) -> None:
    model = make()
    save_checkpoint(tmp_path, model)
    (tmp_path / "config.json").write_text(json.dumps({"network": model.description() | fields}))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99", None])
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: Any) -> None:
    save_checkpoint(tmp_path, stacked())
    with pytest.raises(ValueError, match=f"device is '{device}'; it needs one of this machine"):
        from_pretrained(tmp_path, device=device)
