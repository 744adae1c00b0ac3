"""Exported networks: onnxruntime and torch.export give the network's numbers, without this library."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from convlstm import (
    EncoderForecasterConfig,
    Forecaster,
    StackedForecaster,
    StackedForecasterConfig,
    export_onnx,
    export_program,
    rollout,
    save_checkpoint,
    stream,
)
from convlstm.__main__ import main
from convlstm.hub.registry import build
from convlstm.models.imported import ImportedConfig, ImportedNetwork
from convlstm.models.imported.stages import Convolution, Recurrent

CONTEXT, HORIZON, SIZE = 2, 2, (12, 8)
needs_free_sizes = pytest.mark.skipif(
    torch.__version__ < "2.12", reason="torch 2.11 keeps the frame size that it traced"
)
# Small, since the exporters take seconds for each layer and frame.
SMALL: Any = {"hidden_channels": (3,), "kernel_size": 3, "patch_size": 2}
TWO: Any = SMALL | {"hidden_channels": (3, 2)}
NETWORKS = {
    "stacked lstm": StackedForecasterConfig(**TWO, peephole="channel", channels=3, output="sigmoid"),
    "stacked gru": StackedForecasterConfig(**SMALL | {"kernel_size": 4, "patch_size": 1}, cell="gru"),
    "stacked rnn": StackedForecasterConfig(**SMALL | {"patch_size": 4}, cell="rnn"),
    "encoder lstm": EncoderForecasterConfig(**TWO),
    "encoder rnn": EncoderForecasterConfig(**SMALL | {"patch_size": 1}, cell="rnn", peephole=None),
}
# A batch of one, the sizes that were traced, and sizes that were not.
CASES = [(1, SIZE), (2, SIZE), (3, (4, 20)), (1, (4, 4))]


@cache
def network(name: str) -> Forecaster:
    torch.manual_seed(1)
    model = build(NETWORKS[name])
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("weight_ch"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Path]:
    """Exports each network in each form once, when first asked for."""
    directory = tmp_path_factory.mktemp("exported")

    @cache
    def export(name: str, form: Any) -> Path:
        path = directory / f"{name} {form}.onnx"
        export_onnx(network(name), path, form=form, context=CONTEXT, horizon=HORIZON, size=SIZE)
        return path

    return export


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def context_of(name: str, batch: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(batch, CONTEXT, NETWORKS[name].channels, *size)


def assert_same(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=0, atol=1e-5)


def test_a_rollout_in_onnxruntime(file_of: Callable[[str, Any], Path]) -> None:
    name = "stacked gru"
    run = session(file_of(name, "rollout")).run
    for batch, size in CASES:
        context = context_of(name, batch, size)
        (frames,) = run(["frames"], {"context": context.numpy()})
        assert_same(frames, rollout(network(name), context, HORIZON))


def forecast(
    file_of: Callable[[str, Any], Path], name: str, context: np.ndarray, horizon: int, encode: bool
) -> list[np.ndarray]:
    """A forecast as a program without this library makes it: the loop that `exporters.export` describes."""
    step = session(file_of(name, "step"))
    inputs = {value.name: value.shape for value in step.get_inputs()}
    frames, reads_frames = [], "frame" in inputs
    if encode:
        outputs = session(file_of(name, "encode")).run(None, {"context": context})
        states = dict(zip((i for i in inputs if i != "frame"), outputs, strict=True))
        given = [context[:, -1]] if reads_frames else []
    else:
        config = NETWORKS[name]
        (batch, _, _, *size), p = context.shape, config.patch_size
        states = {
            state: np.zeros((batch, shape[1], size[0] // p, size[1] // p), np.float32)
            for state, shape in inputs.items()
            if state != "frame"
        }
        given = list(context.swapaxes(0, 1))
    last = None
    while len(frames) < horizon:
        last = given.pop(0) if given else last
        feed = {"frame": last, **states} if reads_frames else states
        last, *new = step.run(None, feed)
        states = dict(zip(states, new, strict=True))
        frames += [] if given else [last]
    return frames


@needs_free_sizes
@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("stacked")])
def test_frames_read_one_by_one_in_onnxruntime(name: str, file_of: Callable[[str, Any], Path]) -> None:
    for batch, size in CASES:
        context = context_of(name, batch, size)
        frames = forecast(file_of, name, context.numpy(), 5, encode=False)
        for frame, expected in zip(frames, stream(network(name), context, 5), strict=True):
            assert_same(frame, expected)


@needs_free_sizes
def test_a_context_encoded_and_then_steps_in_onnxruntime(file_of: Callable[[str, Any], Path]) -> None:
    name = "encoder lstm"
    for batch, size in CASES:
        context = context_of(name, batch, size)
        frames = forecast(file_of, name, context.numpy(), 5, encode=True)
        assert_same(np.stack(frames, axis=1), rollout(network(name), context, 5))


@needs_free_sizes
def test_what_a_file_says_of_itself(file_of: Callable[[str, Any], Path]) -> None:
    path = file_of("stacked lstm", "step")
    model = onnx.load(path)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["convlstm.form"] == "step"
    assert json.loads(notes["convlstm.network"])["hidden_channels"] == [3, 2]
    assert json.loads(notes["convlstm.pixels"]) == [0, 1]
    assert json.loads(notes["convlstm.inputs"]) == ["frame", "h0", "c0", "h1", "c1"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    frame, h0, c1 = (
        ["batch", channels, *size]
        for channels, size in (
            (3, ["2*rows", "2*columns"]),
            (3, ["rows", "columns"]),
            (2, ["rows", "columns"]),
        )
    )
    assert shapes["frame"] == shapes["next_frame"] == frame
    assert shapes["h0"] == shapes["h0_out"] == h0
    assert shapes["c1"] == shapes["c1_out"] == c1


def test_a_file_holds_the_weights_once_and_nothing_of_this_machine(
    file_of: Callable[[str, Any], Path],
) -> None:
    path = file_of("stacked gru", "rollout")
    data, weights = path.read_bytes(), sum(p.numel() for p in network("stacked gru").parameters())
    model = onnx.load(path)
    stored = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) > 0)
    assert weights <= stored < weights + 100
    assert b".py" not in data
    assert os.fsencode(Path(__file__).parents[3]) not in data


@needs_free_sizes
def test_a_program_runs_in_a_process_without_this_library(tmp_path: Path) -> None:
    name = "encoder rnn"
    context = context_of(name, 3, (8, 16))
    save_checkpoint(tmp_path / "run", network(name))
    command = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "model.pt2")]
    assert main([*command, "--context", "2", "--horizon", "2", "--size", "12", "8"]) == 0
    torch.save((context, rollout(network(name), context, HORIZON)), tmp_path / "tensors.pt")
    code = """
import json, sys, torch
context, expected = torch.load("tensors.pt")
notes = {"convlstm.json": ""}
frames = torch.export.load("model.pt2", extra_files=notes).module()(context)
assert not frames.requires_grad
torch.testing.assert_close(frames, expected, rtol=0, atol=1e-5)
assert json.loads(notes["convlstm.json"])["pixels"] == [0, 1]
assert not any(name.startswith("convlstm") for name in sys.modules)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


@needs_free_sizes
def test_a_program_is_made_of_torchs_operators_and_leaves_the_model_alone(monkeypatch) -> None:
    monkeypatch.setenv("CONVLSTM_OPS", "fused")
    model = StackedForecaster(NETWORKS["stacked lstm"]).train()  # type: ignore[arg-type]
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    program = export_program(model, form="step", size=(4, 4))
    sizes = [node.meta["val"].shape for node in program.graph.nodes if node.name.startswith("inputs_")]
    assert all(isinstance(shape[axis], torch.SymInt) for shape in sizes for axis in (0, 2, 3))
    assert {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"} <= {
        "aten",
        "<built-in function getitem>",
    }
    assert os.environ["CONVLSTM_OPS"] == "fused"
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@needs_free_sizes
def test_an_imported_network_forecasts_in_onnxruntime(tmp_path: Path) -> None:
    model = ImportedNetwork(
        ImportedConfig(
            channels=1,
            stages=(
                Convolution(input_channels=1, output_channels=2, kernel_size=(3, 3), stride=(2, 2)),
                Recurrent(input_channels=2, hidden_channels=3, kernel_size=(3, 3), norm="group"),
            ),
            forecaster=(
                Recurrent(input_channels=2, hidden_channels=3, kernel_size=(3, 3), starts_from=0),
                Convolution(
                    input_channels=3,
                    output_channels=1,
                    kernel_size=(2, 2),
                    stride=(2, 2),
                    padding=(0, 0),
                    transposed=True,
                ),
            ),
        )
    ).eval()
    assert export_onnx(model, tmp_path / "model.onnx", context=2, horizon=2, size=(8, 12)).free
    context = torch.rand(3, 2, 1, 12, 4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    frames = session.run(None, {"context": context.numpy()})[0]
    assert_same(frames, rollout(model, context, 2))


class _LooksAtValues(StackedForecaster):
    def _to_patches(self, frames: Tensor) -> Tensor:
        return super()._to_patches(frames / max(float(frames.max()), 1))


def test_a_network_that_cannot_be_traced_is_said() -> None:
    model = _LooksAtValues(StackedForecasterConfig(**SMALL, cell="rnn"))
    with pytest.raises(ValueError, match=r"torch\.export cannot trace this _LooksAtValues: "):
        export_program(model, form="step", size=SIZE)


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model is a Linear; it needs a forecaster"):
        export_program(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form is 'loop'; it needs one of rollout, step, encode"):
        export_program(network("stacked lstm"), form="loop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model has weights of torch\.float64; ONNX needs torch\.float32"):
        export_onnx(build(NETWORKS["stacked rnn"]).double(), tmp_path / "model.onnx")
