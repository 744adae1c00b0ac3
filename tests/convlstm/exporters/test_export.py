"""`export`: its arguments, and graphs that onnxruntime and torch.export run with the network's numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from convlstm import (
    ConvLSTM,
    EncoderForecasterConfig,
    Forecaster,
    StackedForecaster,
    StackedForecasterConfig,
    export,
    rollout,
    stream,
)
from convlstm.models.forecaster import build
from convlstm.models.imported import ImportedConfig, ImportedNetwork
from convlstm.models.imported.stages import Convolution, Recurrent

needs_free_sizes = pytest.mark.skipif(
    "2.7" <= torch.__version__ < "2.12", reason="torch 2.11 keeps the frame size that a step was traced with"
)
# Small, since the exporters take seconds for each layer and frame.
SIZE = (12, 8)
SMALL: Any = {"hidden_channels": (3,), "kernel_size": 3, "patch_size": 2}
LSTM = StackedForecasterConfig(**SMALL, peephole="channel", channels=3, output="sigmoid")
GRU = StackedForecasterConfig(hidden_channels=(3, 2), kernel_size=4, patch_size=1, cell="gru")
RNN = StackedForecasterConfig(**SMALL, cell="rnn")
# The sizes that were traced, and sizes that were not.
CASES = [(1, SIZE), (3, (4, 20))]


def make(config: Any) -> Forecaster:
    model = build(config)
    for name, parameter in model.named_parameters():
        if name.endswith("weight_ch"):
            nn.init.normal_(parameter)
    return model


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def assert_same(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=0, atol=1e-5)


def forecast(step: Any, states: list[Any], context: np.ndarray, horizon: int) -> list[np.ndarray]:
    """Forecast as a program without this library does, by the loop that `export` describes."""
    reads_frames = step.get_inputs()[0].name == "frame"
    given, frames = list(context.swapaxes(0, 1)) if reads_frames else [None], []
    for t in range(len(given) + horizon - 1):
        frame = given[t] if t < len(given) else frames[-1]
        values = [frame, *states] if reads_frames else states
        frame, *states = step.run(None, {i.name: v for i, v in zip(step.get_inputs(), values, strict=True)})
        frames.append(frame)
    return frames[-horizon:]


@needs_free_sizes
@pytest.mark.parametrize("config", [LSTM, pytest.param(GRU, marks=pytest.mark.slow)])
def test_steps_in_onnxruntime(
    config: StackedForecasterConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # torch's exporter warns where it is not installed
    model, path = make(config), tmp_path / "step.onnx"
    exported = export(model, path, form="step", size=SIZE)
    assert capsys.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert (exported.path, exported.size) == (path, path.stat().st_size)
    assert exported.difference is not None
    assert exported.difference < 1e-5
    step, p = session(path), config.patch_size
    for batch, size in CASES:
        context = torch.rand(batch, 2, config.channels, *size)
        shapes = [(batch, value.shape[1], size[0] // p, size[1] // p) for value in step.get_inputs()[1:]]
        frames = forecast(step, [np.zeros(shape, np.float32) for shape in shapes], context.numpy(), 4)
        for frame, expected in zip(frames, stream(model, context, 4), strict=True):
            assert_same(frame, expected)
    if config == LSTM:
        check_what_the_file_says(path)


def check_what_the_file_says(path: Path) -> None:
    """The step of LSTM: its notes, names and shapes, and no paths of this machine."""
    model = onnx.load(path)
    notes = {entry.key.removeprefix("convlstm."): entry.value for entry in model.metadata_props}
    assert notes["form"] == "step"
    assert json.loads(notes["network"])["hidden_channels"] == [3]
    assert json.loads(notes["inputs"]) == ["frame", "h0", "c0"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    frame, state = ["batch", 3, "2*rows", "2*columns"], ["batch", 3, "rows", "columns"]
    after = {"next_frame": frame, "h0_out": state, "c0_out": state}
    assert shapes == {"frame": frame, "h0": state, "c0": state, **after}
    assert b".py" not in path.read_bytes()


@pytest.mark.slow
@needs_free_sizes
def test_a_context_encoded_and_then_steps_in_onnxruntime(tmp_path: Path) -> None:
    model = make(EncoderForecasterConfig(**SMALL, cell="rnn", peephole=None))
    export(model, tmp_path / "encode.onnx", form="encode", context=2, size=SIZE)
    export(model, tmp_path / "step.onnx", form="step", size=SIZE)
    encode, step = session(tmp_path / "encode.onnx"), session(tmp_path / "step.onnx")
    for batch, size in CASES:
        context = torch.rand(batch, 2, 1, *size)
        states = encode.run(None, {"context": context.numpy()})
        frames = forecast(step, states, context.numpy(), 4)
        assert_same(np.stack(frames, axis=1), rollout(model, context, 4))


def test_a_rollout_in_onnxruntime(tmp_path: Path) -> None:
    model, path = make(RNN), tmp_path / "model.onnx"
    export(model, path, "onnx", context=1, horizon=2, size=SIZE)
    for batch, size in CASES:
        context = torch.rand(batch, 1, 1, *size)
        (frames,) = session(path).run(["frames"], {"context": context.numpy()})
        assert_same(frames, rollout(model, context, 2))


@pytest.mark.slow
def test_an_imported_network_forecasts_in_onnxruntime(tmp_path: Path) -> None:
    channels: Any = {"input_channels": 2, "hidden_channels": 3, "kernel_size": (3, 3)}
    down = Convolution(input_channels=1, output_channels=2, kernel_size=(3, 3), stride=(2, 2))
    up: Any = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "transposed": True}
    forecaster = (
        Recurrent(**channels, starts_from=0),
        Convolution(input_channels=3, output_channels=1, **up),
    )
    stages = (down, Recurrent(**channels, norm="group"))
    model = ImportedNetwork(ImportedConfig(channels=1, stages=stages, forecaster=forecaster)).eval()
    assert export(model, tmp_path / "model.onnx", context=2, horizon=2, size=(8, 12)).free
    context = torch.rand(3, 2, 1, 12, 4)
    (frames,) = session(tmp_path / "model.onnx").run(None, {"context": context.numpy()})
    assert_same(frames, rollout(model, context, 2))


@needs_free_sizes
def test_a_program_is_made_of_torchs_operators_and_leaves_the_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVLSTM_OPS", "fused")
    model = StackedForecaster(LSTM).train()
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    export(model, tmp_path / "step.pt2", form="step", size=(4, 4))
    notes = {"convlstm.json": ""}
    program = torch.export.load(tmp_path / "step.pt2", extra_files=notes)
    assert json.loads(notes["convlstm.json"])["pixels"] == [0, 1]
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


@pytest.mark.slow
def test_a_program_runs_in_a_process_without_this_library(tmp_path: Path) -> None:
    model = make(EncoderForecasterConfig(**SMALL, cell="rnn", peephole=None))
    export(model, tmp_path / "model.pt2", context=2, horizon=2, size=SIZE)
    context = torch.rand(3, 2, 1, 8, 16)
    torch.save((context, rollout(model, context, 2)), tmp_path / "tensors.pt")
    code = """
import sys, torch
context, expected = torch.load("tensors.pt")
frames = torch.export.load("model.pt2").module()(context)
assert not frames.requires_grad
torch.testing.assert_close(frames, expected, rtol=0, atol=1e-5)
assert not any(name.startswith("convlstm") for name in sys.modules)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


class _OneSize(StackedForecaster):
    """A network with a weight for each pixel, as imported networks may have."""

    def __init__(self, config: StackedForecasterConfig):
        super().__init__(config)
        self.mask = nn.Parameter(torch.rand(8, 12))

    def _to_patches(self, frames: Tensor) -> Tensor:
        return super()._to_patches(frames * self.mask)


def test_a_frame_size_that_cannot_be_free_is_fixed(tmp_path: Path) -> None:
    exported = export(_OneSize(RNN), tmp_path / "step.pt2", form="step", size=(8, 12))
    assert exported.free == ("batch",)
    assert exported.inputs == {"frame": ("batch", 1, 8, 12), "h0": ("batch", 3, 4, 6)}
    step = torch.export.load(tmp_path / "step.pt2").module()
    assert step(torch.rand(5, 1, 8, 12), torch.zeros(5, 3, 4, 6))[0].shape == (5, 1, 8, 12)


class _LooksAtValues(StackedForecaster):
    def _to_patches(self, frames: Tensor) -> Tensor:
        return super()._to_patches(frames / frames.max() if frames.max() > 1 else frames)


LAYER = ConvLSTM(3, 2, 1)


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        (LAYER, "model.h5", {}, r"model\.h5; its name needs to end in \.onnx for 'onnx', \.pt2 f"),
        (LAYER, "a.pt", {"format": "keras"}, r"needs to end in \.keras or \.weights\.h5 for"),
        (LAYER, "away/model.pt", {}, "away is no directory, but .* should go there; make it first"),
        (LAYER, "folder.pt", {}, r"folder\.pt is a directory; give the name of a file"),
        (LAYER, "a.pt", {"size": (4, 4)}, r"size is \(4, 4\), but \.pt files have no size; leave"),
        (LAYER, "a.keras", {"form": "step"}, r"form is 'step', but \.keras files have no form"),
        (LAYER, "a.keras", {}, r"size is None; a \.keras file needs .*frames, \(H, W\)"),
        (LAYER, "a.keras", {"size": (4,)}, r"size is \(4,\); a \.keras file needs"),
        (LAYER, "a.keras", {"size": (4, 0)}, "size is 0; it needs a whole number of 1"),
        (LAYER, "a.pt2", {}, "model is a ConvLSTM layer, which forecasts no frames; it needs"),
        (ConvLSTM(3, 2, 1, peephole="channel"), "old.pt", {}, "model has peepholes"),
        (ConvLSTM(3, 2, 1, device="meta"), "a.weights.h5", {}, "model is on the meta device"),
        (make(RNN).double(), "a.onnx", {}, r"weights of torch\.float64; ONNX needs torch\.float32"),
        (make(RNN), "a.pt2", {"form": "loop"}, "form is 'loop'; it needs one of"),
        (make(RNN), "a.pt2", {"context": 0}, "context is 0; it needs a whole number of 1 or more"),
        (make(RNN), "a.pt2", {"size": (9, 8)}, "which patches of 2 x 2 do not divide"),
        (make(RNN), "a.pt2", {"size": 8}, "size is 8; it needs two numbers of pixels"),
        (make(RNN), "a.pt2", {"form": "encode", "context": 1}, "encode needs 2 or more"),
        (make(RNN), "a.pt2", {"form": "step", "horizon": 3}, "horizon is 3, but form 'step' has no horizon"),
        (make(RNN), "a.pt2", {"form": "step", "context": 3}, "context is 3, but form 'step' has no context"),
        (
            make(RNN),
            "a.pt2",
            {"form": "encode", "horizon": 3},
            "horizon is 3, but form 'encode' has no horizon",
        ),
        (_LooksAtValues(RNN), "a.pt2", {"form": "step"}, r"torch\.export cannot trace this _LooksAtValues: "),
    ],
)
def test_an_error_comes_before_anything_is_written(
    model: nn.Module, name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "old.pt").write_text("old")
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / name, **options)
    assert sorted(os.listdir(tmp_path)) == ["folder.pt", "old.pt"]
    assert (tmp_path / "old.pt").read_text() == "old"


def test_numbers_that_differ_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convlstm.exporters.tracing.TOLERANCE", -1.0)  # which nothing is within
    model = make(EncoderForecasterConfig(**SMALL, cell="rnn", peephole=None))
    with pytest.raises(ValueError, match="the exported h0_out differs from the network's by"):
        export(model, tmp_path / "model.pt2", form="encode", context=2, size=SIZE)
    assert os.listdir(tmp_path) == []
