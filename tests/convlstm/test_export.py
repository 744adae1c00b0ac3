"""Exported networks: onnxruntime and torch.export give the network's numbers, without this library."""

import json
import os
import re
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
from convlstm.registry import build

CONTEXT, HORIZON, SIZE = 2, 2, (12, 8)
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
    """A forecast as a program without this library makes it: the loop that `convlstm.export` describes."""
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


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("stacked")])
def test_frames_read_one_by_one_in_onnxruntime(name: str, file_of: Callable[[str, Any], Path]) -> None:
    for batch, size in CASES:
        context = context_of(name, batch, size)
        frames = forecast(file_of, name, context.numpy(), 5, encode=False)
        for frame, expected in zip(frames, stream(network(name), context, 5), strict=True):
            assert_same(frame, expected)


def test_a_context_encoded_and_then_steps_in_onnxruntime(file_of: Callable[[str, Any], Path]) -> None:
    name = "encoder lstm"
    for batch, size in CASES:
        context = context_of(name, batch, size)
        frames = forecast(file_of, name, context.numpy(), 5, encode=True)
        assert_same(np.stack(frames, axis=1), rollout(network(name), context, 5))


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
    assert os.fsencode(Path(__file__).parents[2]) not in data


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


def test_a_program_is_made_of_torchs_operators_and_leaves_the_model_alone(monkeypatch) -> None:
    monkeypatch.setenv("CONVLSTM_OPS", "fused")
    model = StackedForecaster(NETWORKS["stacked lstm"]).train()  # type: ignore[arg-type]
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    program = export_program(model, form="step", size=(2, 2))  # of a single patch
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


class _OneSize(StackedForecaster):
    """A network with a weight for each pixel, as those that were imported may have."""

    def __init__(self, config: StackedForecasterConfig):
        super().__init__(config)
        self.mask = torch.nn.Parameter(torch.rand(8, 12))

    def _to_patches(self, frames: Tensor) -> Tensor:
        return super()._to_patches(frames * self.mask)


def test_a_size_that_cannot_be_free_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _OneSize(StackedForecasterConfig(**SMALL, cell="rnn"))
    monkeypatch.setattr("convlstm.pretrained.from_pretrained", lambda _: model)
    path = str(tmp_path / "model.pt2")
    assert main(["export", "any", "-o", path, "--form", "step", "--size", "8", "12"]) == 0
    out = capsys.readouterr().out
    assert "in   frame       batch x 1 x 8 x 12\n" in out
    assert "frames of this size only" in out
    frames = torch.export.load(path).module()(torch.rand(5, 1, 8, 12), torch.zeros(5, 3, 4, 6))[0]
    assert frames.shape == (5, 1, 8, 12)


def test_the_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", network("encoder rnn"))
    assert main(["export", "run", "-o", "step.onnx", "--form", "step", "--size", "8", "8"]) == 0
    out = capsys.readouterr().out
    size = Path("step.onnx").stat().st_size / 1e6
    assert out.startswith(
        "run: EncoderForecaster, one step (its first states: --form encode)\n"
        f"step.onnx: {size:.2f} MB, ONNX, opset 18\n"
        "  in   h0          batch x 3 x rows x columns\n"
        "  out  next_frame  batch x 1 x rows x columns\n"
    )
    assert re.search(r"differs from the network by \d\.\de-\d\d at most\n", out)
    assert re.search(
        r"onnxruntime [\d.]+ ms, torch [\d.]+ ms for a batch of 1 of 8 x 8 pixels, on this machine", out
    )
    assert sorted(os.listdir()) == ["run", "step.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "model.pth"], "--output model.pth ends in neither .onnx (for onnxruntime) nor .pt2"),
        (["-o", "nowhere/model.onnx"], "nowhere is no directory"),
        (["-o", "run.onnx"], "run.onnx is a directory"),
        (["--context", "0"], "context is 0"),
        (["--horizon", "-1"], "horizon is -1"),
        (["--size", "0", "8"], "size is 0"),
        (["--size", "9", "8"], "which patches of 2 x 2 do not divide"),
        (["--form", "encode", "--context", "1"], "encode needs 2 or more"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", network("stacked lstm"))
    Path("run.onnx").mkdir()
    before = sorted(os.listdir())
    assert main(["export", "run", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run"]) == 2
    assert capsys.readouterr().err.endswith(
        'error: ONNX export needs onnxruntime, which is not installed: pip install "convlstm[export]"\n'
    )
    with pytest.raises(ImportError, match="ONNX export needs onnxruntime"):
        export_onnx(network("stacked lstm"), "model.onnx")


def test_numbers_that_differ_are_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", network("stacked rnn"))
    monkeypatch.setattr("convlstm.export.program.TOLERANCE", -1.0)  # which nothing is within
    assert main(["export", "run", "-o", "model.pt2", "--form", "step", "--size", "12", "8"]) == 2
    assert "error: the exported next_frame differs from the network's by" in capsys.readouterr().err
    assert os.listdir() == ["run"]


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model is a Linear; it needs a forecaster"):
        export_program(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form is 'loop'; it needs one of rollout, step, encode"):
        export_program(network("stacked lstm"), form="loop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model has weights of torch\.float64; ONNX needs torch\.float32"):
        export_onnx(build(NETWORKS["stacked rnn"]).double(), tmp_path / "model.onnx")
