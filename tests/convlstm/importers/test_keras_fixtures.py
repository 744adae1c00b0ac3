"""Files that Keras 2 and 3 saved, one of a really trained network, where they lie beside the checkout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convlstm import ConvLSTM
from convlstm.importers.checking import check
from convlstm.importers.keras import convert
from convlstm.models.imported import ImportedNetwork
from tests.convlstm.importers.fixtures import CHECKPOINTS, FIXTURES, needs_fixtures
from tests.convlstm.importers.keras_models import opened

pytestmark = [needs_fixtures, pytest.mark.usefixtures("hdf5_in_this_process")]

KERAS_2 = {"activation": "tanh", "recurrent_activation": "hard_sigmoid", "padding": "same"}
KERAS_3 = {"activation": "tanh", "recurrent_activation": "sigmoid", "padding": "same"}
BARE: dict[str, dict[str, Any]] = {
    "keras2/bidirectional_concat": {**KERAS_2, "merge_mode": "concat", "return_sequences": True},
    "keras2/convlstm2d_stack2_default_hard_sigmoid": {**KERAS_2, "return_sequences": False},
    "keras3/bidirectional_concat": {**KERAS_3, "merge_mode": "concat", "return_sequences": True},
    "keras3/convlstm1d_stack2": {**KERAS_3, "return_sequences": True},
    "keras3/convlstm2d_even_kernel_same": {**KERAS_3, "return_sequences": True},
    "keras3/convlstm2d_hard_sigmoid_keras3": {
        **KERAS_2,
        "return_sequences": True,
        "keras_version": 3,
    },
    "keras3/convlstm2d_stack2_same": {**KERAS_3, "return_sequences": False},
    "keras3/convlstm2d_valid_default": {**KERAS_3, "padding": "valid", "return_sequences": True},
    "keras3/convlstm3d_stack2": {**KERAS_3, "return_sequences": True},
}
"""What is to be said of weights alone that are a stack; of all others, the config."""
FILES = [path for path in CHECKPOINTS if path.suffix in (".h5", ".keras")]
IDS = ["/".join(path.parts[-3:]) for path in FILES]


def said(path: Path) -> dict[str, Any]:
    if not path.name.endswith(("weights.h5", "weights_keras2.h5")):
        return {}
    case = "/".join(path.parts[-3:-1])
    return BARE.get(case) or {"config": json.loads(path.with_name("meta.json").read_text())["config"]}


def test_there_are_fixtures_of_both_versions() -> None:
    assert {path.parts[-3] for path in FILES} == {"keras2", "keras3", "real"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_fixture_gives_its_output(path: Path) -> None:
    imported = convert(opened(path, **said(path)))
    input = next(
        path.parent / name for name in ("input.npy", "input_uint8.npy") if (path.parent / name).exists()
    )
    assert check(imported, np.load(input), np.load(path.with_name("output.npy"))) < 1e-5


def test_both_directions_with_the_usual_activations_are_a_layer() -> None:
    assert FIXTURES is not None
    imported = convert(opened(FIXTURES / "keras3" / "bidirectional_concat" / "model.keras"))
    assert isinstance(imported.model, ConvLSTM)


def test_the_trained_network_forecasts() -> None:
    assert FIXTURES is not None
    folder = FIXTURES / "real" / "keras_docs_mmnist_MIT"
    imported = convert(opened(folder / "model_keras2.h5"))
    assert imported.source == "Keras 2.15.0"
    assert isinstance(imported.model, ImportedNetwork)
    frames = torch.from_numpy(np.load(folder / "input_uint8.npy"))[:, :2, 24:40, 24:40].movedim(-1, 2) / 255
    with torch.no_grad():
        forecast = imported.model(frames, horizon=10)  # (1, 10, 1, 16, 16)
        grown = torch.cat([frames, forecast[:, :-1]], dim=1)
        torch.testing.assert_close(imported.model(grown)[:, -1], forecast[:, -1], rtol=0, atol=1e-5)
    assert forecast.shape == (1, 10, 1, 16, 16)
