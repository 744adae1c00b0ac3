"""Checkpoints that the projects' own code saved, where they lie beside the checkout: outputs and states."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from convlstm import ConvLSTM
from convlstm.importers.checking import check
from convlstm.importers.sources import import_checkpoint, import_foreign
from convlstm.models.imported import ImportedNetwork
from tests.convlstm.importers.foreign_models import FusedCell, over_time

BESIDE = Path(__file__).parents[3].parent / "shared" / "fixtures"
FIXTURES = Path(os.environ.get("CONVLSTM_FIXTURES", BESIDE))
OTHERS = ("predrnn/", "real/silver0x10")  # another kind of cell; cells of a larger network
SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".h5", ".keras")
FILES = sorted(path for path in FIXTURES.rglob("*") if path.suffix in SUFFIXES)
NAMES = [name for path in FILES if not (name := path.relative_to(FIXTURES).as_posix()).startswith(OTHERS)]

pytestmark = [
    pytest.mark.skipif(not FILES, reason="needs the checkpoints of other projects"),
    pytest.mark.usefixtures("hdf5_in_this_process"),
]

KERAS: dict[str, Any] = {"activation": "tanh", "padding": "same", "return_sequences": True}
KERAS_2, KERAS_3 = ({**KERAS, "recurrent_activation": f"{kind}sigmoid"} for kind in ("hard_", ""))
OPTIONS: dict[str, dict[str, Any]] = {
    "ndrplz/one_layer_nobias_timefirst": {"batch_first": False},
    "automan000": {"step": 5, "effective_step": (1, 2, 4)},
    "sladewinter": {"activation": "tanh"},
    "openstl/v030": {"generation": "old", "patch_size": 2},
    "openstl/lightning": {"generation": "new"},
    "vpsuite/ef_convlstm_whole_module/state_dict_only.pth": {"source": "vp-suite"},
    "keras2/bidirectional_concat/weights.h5": {**KERAS_2, "merge_mode": "concat"},
    "keras2/convlstm2d_stack2_default_hard_sigmoid/weights.h5": {**KERAS_2, "return_sequences": False},
    "keras3/bidirectional_concat/model.weights.h5": {**KERAS_3, "merge_mode": "concat"},
    "keras3/convlstm1d_stack2/model.weights.h5": KERAS_3,
    "keras3/convlstm2d_even_kernel_same/model.weights.h5": KERAS_3,
    "keras3/convlstm2d_hard_sigmoid_keras3/model.weights.h5": {**KERAS_2, "keras_version": 3},
    "keras3/convlstm2d_stack2_same/model.weights.h5": {**KERAS_3, "return_sequences": False},
    "keras3/convlstm2d_valid_default/model.weights.h5": {**KERAS_3, "padding": "valid"},
    "keras3/convlstm3d_stack2/model.weights.h5": KERAS_3,
}
"""What the files do not say, by the beginning of their names."""


def options_of(name: str) -> dict[str, Any]:
    options = next((options for start, options in OPTIONS.items() if name.startswith(start)), {})
    if not options and name.endswith(("weights.h5", "weights_keras2.h5")):  # of Keras, and no plain stack
        options = {"config": json.loads((FIXTURES / name).with_name("meta.json").read_text())["config"]}
    return options


def array(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))


@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_gives_its_output_and_its_last_states(name: str) -> None:
    options, folder = dict(options_of(name)), (FIXTURES / name).parent
    imported = import_foreign(FIXTURES / name, options.pop("source", "auto"), options)
    [input] = folder.glob("input*.npy")
    assert check(imported, np.load(input), np.load(folder / "output.npy")) < 1e-5
    if not (files := sorted(folder.glob("*_h.npy"))):
        return
    frames = array(input)
    if "t" not in imported.input_layout:
        frames = frames.unsqueeze(1)
    elif imported.input_layout.startswith("t"):
        frames = frames.transpose(0, 1)
    with torch.no_grad():
        if isinstance(imported.model, ConvLSTM):
            states = list(zip(*imported.model(frames)[1], strict=True))
        else:
            assert isinstance(imported.model, ImportedNetwork)
            states = imported.model.run(frames)[1]
    for file, (h, c) in zip(files, states[-len(files) :], strict=True):  # those of some layers are not there
        torch.testing.assert_close(h, array(file), rtol=0, atol=1e-5)
        cell = file.with_name(file.name.replace("_h.npy", "_c.npy"))
        torch.testing.assert_close(c, array(cell), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", ["enc1", "enc2", "dec1", "dec2"])
def test_cells_of_a_larger_trained_network_by_their_prefix(cell: str) -> None:
    path = FIXTURES / "real" / "silver0x10_mmnist_MIT" / "convLSTM_final_weights.pt"
    layer = import_checkpoint(path, source="ndrplz", prefix=cell)
    assert isinstance(layer, ConvLSTM)
    textbook = FusedCell(32, 32, 5, "ifog")
    tensors = torch.load(path, weights_only=True)
    textbook.load_state_dict({n: tensors[f"{cell}.{n}"] for n in ("conv.weight", "conv.bias")})
    frames = torch.randn(2, 5, 32, 16, 16)
    with torch.no_grad():
        expected, h, c = over_time(textbook, frames)
        output, (h_n, c_n) = layer(frames)
    for found, wanted in ((output, expected), (h_n[0], h), (c_n[0], c)):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
