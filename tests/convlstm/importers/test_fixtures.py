"""Checkpoints that the projects' own code saved, where they lie beside the checkout: outputs and states."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convlstm import ConvLSTM
from convlstm.importers.checking import check
from convlstm.importers.sources import import_checkpoint, import_foreign
from convlstm.models.imported import ImportedNetwork
from tests.convlstm.importers.fixtures import CHECKPOINTS, FIXTURES, needs_fixtures
from tests.convlstm.importers.foreign_models import FusedCell, over_time

pytestmark = [needs_fixtures, pytest.mark.usefixtures("hdf5_in_this_process")]

OTHERS = ("predrnn/", "real/silver0x10")  # another kind of cell; cells of a larger network
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
STATES = {
    "ndrplz/two_layer_bias/model.pth": ("state{}_{}", 0),
    "ndrplz/one_layer_nobias_timefirst/model.pth": ("state{}_{}", 0),
    "conv_lstm_pypi/two_layer/model.pth": ("state{}_{}", 0),
    "automan000/peephole_as_saved_on_cpu/model.pth": ("state{}_{}", 1),
    "automan000/no_peephole_as_saved_on_cuda/model.pth": ("state{}_{}", 1),
    "jhhuang96/ed_convlstm/checkpoint_3_0.012345.pth.tar": ("enc{}_{}", 1),
    "hzzone/ef_cuda_no_peepholes/encoder_forecaster_1000.pth": ("enc{}_{}", 1),
    "jhhuang96/bare_cell_groupnorm2/cell.pth": ("state_{1}", 0),
    "hzzone/bare_cell_peephole/cell.pth": ("state_{1}", 0),
}
"""What the files of a model's last states are called, and the number of the first layer."""
NAMES = [path.relative_to(FIXTURES).as_posix() for path in CHECKPOINTS] if FIXTURES is not None else []


def options_of(name: str) -> dict[str, Any]:
    options = next((options for start, options in OPTIONS.items() if name.startswith(start)), {})
    if not options and name.endswith(("weights.h5", "weights_keras2.h5")):  # of Keras, and no plain stack
        meta = json.loads((folder(name) / "meta.json").read_text())
        options = {"config": meta["config"]}
    return options


def folder(name: str) -> Path:
    assert FIXTURES is not None
    return (FIXTURES / name).parent


def array(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(OTHERS)])
def test_a_fixture_gives_its_output(name: str) -> None:
    assert FIXTURES is not None
    options = dict(options_of(name))
    imported = import_foreign(FIXTURES / name, options.pop("source", "auto"), options)
    [input] = folder(name).glob("input*.npy")
    assert check(imported, np.load(input), np.load(folder(name) / "output.npy")) < 1e-5


@pytest.mark.parametrize("name", STATES)
def test_a_fixture_gives_its_states(name: str) -> None:
    assert FIXTURES is not None
    imported = import_foreign(FIXTURES / name, "auto", options_of(name))
    frames = array(folder(name) / "input.npy")
    if imported.input_layout.startswith("t"):
        frames = frames.transpose(0, 1)
    pattern, first = STATES[name]
    if "t" not in imported.input_layout:
        frames = frames.unsqueeze(1)
    found = last_states(imported.model, frames)
    if name.startswith("automan000"):
        found = found[-1:]  # those of the other layer are not there
    for number, (h, c) in enumerate(found, start=first):
        for letter, state in (("h", h), ("c", c)):
            expected = array(folder(name) / f"{pattern.format(number, letter)}.npy")
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-5)


def last_states(model: nn.Module, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        if isinstance(model, ConvLSTM):
            _, (h, c) = model(frames)
            return list(zip(h, c, strict=True))
        assert isinstance(model, ImportedNetwork)
        return [(h, c) for h, c in model.run(frames)[1]]


@pytest.mark.parametrize("cell", ["enc1", "enc2", "dec1", "dec2"])
def test_cells_of_a_larger_trained_network_by_their_prefix(cell: str) -> None:
    assert FIXTURES is not None
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
