"""Checkpoints that the projects' own code saved, where they lie beside the checkout: outputs and states."""

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
from tests.convlstm.importers.fixtures import FIXTURES, needs_fixtures
from tests.convlstm.importers.foreign_models import FusedCell, over_time

pytestmark = needs_fixtures

OLD = {"generation": "old", "patch_size": 2}
NEW = {"generation": "new"}
CASES: dict[str, dict[str, Any]] = {
    "ndrplz/two_layer_bias/model.pth": {},
    "ndrplz/two_layer_bias/checkpoint_with_namespace_and_numpy_scalar.pth": {},
    "ndrplz/one_layer_nobias_timefirst/model.pth": {"batch_first": False},
    "conv_lstm_pypi/two_layer/model.pth": {},
    "automan000/peephole_as_saved_on_cpu/model.pth": {"step": 5, "effective_step": (1, 2, 4)},
    "automan000/no_peephole_as_saved_on_cuda/model.pth": {"step": 5, "effective_step": (1, 2, 4)},
    "jhhuang96/bare_cell_groupnorm2/cell.pth": {},
    "jhhuang96/ed_convlstm/checkpoint_3_0.012345.pth.tar": {},
    "hzzone/bare_cell_peephole/cell.pth": {},
    "hzzone/ef_cuda_no_peepholes/encoder_forecaster_1000.pth": {},
    "vpsuite/ef_convlstm_whole_module/best_model.pth": {},
    "vpsuite/ef_convlstm_whole_module/state_dict_only.pth": {"source": "vp-suite"},
    "sladewinter/seq2seq_tanh/model.pth": {"activation": "tanh"},
    "holmdk/seq2seq_plain/model.pth": {},
    "openstl/v030_convlstm_ln0_h_is_o_times_g/checkpoint.pth": OLD,
    "openstl/v030_convlstm_ln0_h_is_o_times_g/latest.pth": OLD,
    "openstl/v030_convlstm_ln0_h_is_o_times_g/latest_torch1x_onecycle.pth": OLD,
    "openstl/lightning_convlstm_ln0/best.ckpt": NEW,
    "openstl/lightning_convlstm_ln1/best.ckpt": NEW,
}
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


def folder(name: str) -> Path:
    assert FIXTURES is not None
    return (FIXTURES / name).parent


def array(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))


def test_every_pytorch_fixture_has_a_case() -> None:
    assert FIXTURES is not None
    suffixes = (".pth", ".tar", ".ckpt")
    found = {str(path.relative_to(FIXTURES)) for path in FIXTURES.rglob("*") if path.suffix in suffixes}
    assert {name for name in found if not name.startswith("predrnn/")} == set(CASES)  # another kind of cell


@pytest.mark.parametrize("name", CASES)
def test_a_fixture_gives_its_output(name: str) -> None:
    assert FIXTURES is not None
    options = dict(CASES[name])
    imported = import_foreign(FIXTURES / name, options.pop("source", "auto"), options)
    input, output = (np.load(folder(name) / f"{end}.npy") for end in ("input", "output"))
    assert check(imported, input, output) < 1e-5


@pytest.mark.parametrize("name", STATES)
def test_a_fixture_gives_its_states(name: str) -> None:
    assert FIXTURES is not None
    options = CASES[name]
    imported = import_foreign(FIXTURES / name, "auto", options)
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
