"""Stacks exported to Keras, which loads them on its torch backend and computes the same."""

import sys
from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import nn

from convlstm import ConvGRU, ConvLSTM, export
from convlstm.models.imported import ImportedConfig, ImportedNetwork
from convlstm.models.imported.stages import ACTIVATIONS, Activation, Recurrent

T, B, C_IN, C = 3, 2, 3, 2
FRAMES = {1: (7,), 2: (7, 5), 3: (2, 3, 5)}


def staged(*stages: Any, **fields: Any) -> ImportedNetwork:
    """Make a network of stages with random weights."""
    dims = len(stages[0].kernel_size)
    model = ImportedNetwork(ImportedConfig(channels=C_IN, spatial_dims=dims, stages=stages, **fields))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def recurrent(inputs: int, hidden: int, kernel: tuple[int, ...] = (3, 2), **fields: Any) -> Recurrent:
    return Recurrent(input_channels=inputs, hidden_channels=hidden, kernel_size=kernel, **fields)


def compare(model: nn.Module, theirs: Any, frame: tuple[int, ...], tolerance: float = 1e-12) -> None:
    """Run ours, batch first, and Keras's, whose channels come last."""
    x = torch.randn(B, T, C_IN, *frame, dtype=next(model.parameters()).dtype)
    expected = model(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    actual = theirs(x.movedim(2, -1)).movedim(-1, expected.dim() - len(frame) - 1)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def exported(model: nn.Module, frame: tuple[int, ...], folder: Path) -> Any:
    """Return what Keras loads of a model."""
    path = folder / "model.keras"
    export(model, path, size=frame)
    return keras.saving.load_model(path)


@pytest.mark.parametrize(("dims", "kernel"), [(1, 3), (2, (3, 2)), (2, 4), (3, (1, 2, 3))])
@pytest.mark.parametrize(("num_layers", "bidirectional", "bias"), [(1, True, False), (2, False, True)])
def test_layers(
    dims: int, kernel: Any, num_layers: int, bidirectional: bool, bias: bool, tmp_path: Path
) -> None:
    options: Any = {"spatial_dims": dims, "dtype": torch.float64}
    model = ConvLSTM(C_IN, C, kernel, num_layers, bias, True, 0.0, bidirectional, **options)
    compare(model, exported(model, FRAMES[dims], tmp_path), FRAMES[dims])
    again = export(model, tmp_path / "again.keras", size=FRAMES[dims]).path
    assert again.read_bytes() == (tmp_path / "model.keras").read_bytes()


def test_weights_alone_load_into_a_model_for_frames_of_any_size(tmp_path: Path) -> None:
    model = ConvLSTM(C_IN, C, 3, 2, batch_first=True, dtype=torch.bfloat16)  # which becomes float32
    export(model, tmp_path / "model.weights.h5")
    layers = [keras.layers.ConvLSTM2D(C, 3, padding="same", return_sequences=True) for _ in range(2)]
    theirs = keras.Sequential([keras.Input((None, 4, 9, C_IN)), *layers])
    theirs.load_weights(tmp_path / "model.weights.h5")
    compare(model.float(), theirs, (4, 9), tolerance=1e-5)


def test_the_stages_of_a_network(tmp_path: Path) -> None:
    model = staged(
        recurrent(C_IN, 4, merge="sum"),
        recurrent(4, 2, activation="relu", padding="valid", bias=False),
        recurrent(2, 3, stride=(2, 1), recurrent_activation="hard_sigmoid", reverse=True),
        recurrent(3, 2, dilation=(1, 2), merge="concat", reverse=True),
        recurrent(4, 3, merge="mul"),
        recurrent(3, 2, sequences=False, merge="ave"),
    ).double()
    compare(model, exported(model, (9, 8), tmp_path), (9, 8))


def test_activations_have_the_names_of_keras() -> None:
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    for name in ACTIVATIONS.keys() - {"hard_sigmoid_keras2"}:
        torch.testing.assert_close(keras.activations.get(name)(x), ACTIVATIONS[name](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ConvGRU(C_IN, C, 3), "model is a ConvGRU; Keras has layers for a ConvLSTM, or an ImportedNetwork"),
        (ConvLSTM(C_IN, C, 3, peephole="channel"), "model has peepholes; Keras 3's ConvLSTM layers have no"),
        (ConvLSTM(0, C, 3), "input_channels is 0; it needs a whole number of 1 or more"),
        (staged(recurrent(C_IN, C, peephole=(7, 5))), "model has peepholes"),
        (staged(recurrent(C_IN, C, norm="group")), "model has a group norm in its cells"),
        (staged(recurrent(C_IN, C, output="candidate")), r"model has cells with h = o \* g"),
        (staged(recurrent(C_IN, C, activation="hard_sigmoid_keras2")), "model has Keras 2's hard_sigmoid"),
        (staged(recurrent(C_IN, C, stride=(2, 1), dilation=(1, 2))), "model has a stride and a dilation in"),
        (
            staged(recurrent(C_IN, C), Activation(name="relu")),
            r"model has activation\(name='relu'\); Keras files",
        ),
        (staged(recurrent(C_IN, C), forecaster=(recurrent(C, C),)), "model has a forecaster; Keras files"),
    ],
)
def test_what_keras_has_no_layers_for_is_refused(model: nn.Module, message: str, tmp_path: Path) -> None:
    for name, size in {"model.keras": (7, 5), "model.weights.h5": None}.items():
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / name, size=size)
    assert list(tmp_path.iterdir()) == []


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'h5py, which is not installed: pip install "convlstm\[import\]"'):
        export(ConvLSTM(C_IN, C, 3), tmp_path / "model.weights.h5")
    assert list(tmp_path.iterdir()) == []
