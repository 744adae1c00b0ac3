"""Each project's model, saved as the project saves it, imported, and run beside the original."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convlstm import ConvLSTM, StackedForecaster
from convlstm.importers.checking import check
from convlstm.importers.foreign import Imported
from convlstm.importers.sources import import_foreign
from convlstm.models.imported import ImportedNetwork
from tests.convlstm.importers.foreign_models import (
    Automan,
    EncoderForecaster,
    FusedCell,
    Holmdk,
    Ndrplz,
    NormedCell,
    OpenSTL,
    Sladewinter,
)

FRAME = (8, 12)
LEVELS = [(4, 3, 1), (5, 3, 2)]  # channels, kernel and stride of the encoders' stages


def hzzone(peepholes: bool) -> EncoderForecaster:
    levels = iter([FRAME, FRAME, (4, 6), (4, 6)])

    def make_cell(inputs: int, hidden: int) -> FusedCell:
        cell, frame = FusedCell(inputs, hidden, 3, "ifgo", name="_conv"), next(levels)
        if peepholes:
            cell.add_peepholes("Wci Wcf Wco", 1, hidden, *frame)
        return cell

    return EncoderForecaster(make_cell, "forecaster", LEVELS, [6, 3])


class Case(NamedTuple):
    """A foreign model, what it is called with, and what of it the file does not say."""

    make: Callable[[], nn.Module]
    channels: int = 1
    call: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    wrap: Callable[[dict[str, Tensor]], Any] = dict
    kind: type[nn.Module] = ImportedNetwork
    frame: tuple[int, int] = FRAME


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


STRIDES = [(3, 7, 5), (4, 5, 3)]
PLAIN = partial(FusedCell, kernel=3, order="ifgo", name="_conv")
CASES = {
    "ndrplz": Case(partial(Ndrplz, 2, [4, 3], [3, 5]), 2),
    "ndrplz, all layers alike": Case(partial(Ndrplz, 2, [4, 4], [3, 3], bias=False), 2, kind=ConvLSTM),
    "automan000": Case(
        partial(Automan, 2, [4, 3], FRAME), 2, (5, [1, 4]), {"step": 5, "effective_step": (1, 4)}
    ),
    "automan000, from a GPU": Case(partial(Automan, 2, [3], None), 2, (3, [2]), {"step": 3}),
    "sladewinter, tanh": Case(partial(Sladewinter, 2, 3, FRAME, "tanh"), 2, (), {"activation": "tanh"}),
    "sladewinter, relu": Case(partial(Sladewinter, 1, 4, FRAME, "relu"), 1, (), {"activation": "relu"}),
    "holmdk": Case(partial(Holmdk, 2, 3), 2, (4,)),
    "holmdk, Lightning": Case(
        partial(Holmdk, 1, 3),
        call=(4,),
        wrap=lambda tensors: {"state_dict": prefixed("model.", tensors), "epoch": 3},
    ),
    "hzzone": Case(partial(hzzone, peepholes=True), 1, (4,)),
    "hzzone, from a GPU": Case(partial(hzzone, peepholes=False), 1, (4,), wrap=partial(prefixed, "module.")),
    "hzzone, large strides": Case(
        partial(EncoderForecaster, PLAIN, "forecaster", STRIDES, [3, 2]), 1, (4,), frame=(15, 30)
    ),
    "jhhuang96": Case(
        partial(EncoderForecaster, partial(NormedCell, kernel=5), "decoder", LEVELS, [8, 12]),
        call=(4,),
        wrap=lambda tensors: {"epoch": 3, "state_dict": tensors, "optimizer": {"state": {}}},
    ),
    "openstl, old": Case(
        partial(OpenSTL, 1, [4, 3], 2, None, old=True), 1, (4,), {"generation": "old", "patch_size": 2}
    ),
    "openstl, new": Case(
        partial(OpenSTL, 3, [4, 3], 2, None, old=False),
        3,
        (4,),
        {"generation": "new"},
        lambda tensors: {
            "state_dict": prefixed("model.", tensors),
            "hyper_parameters": {"patch_size": 2, "stride": 1},
        },
        StackedForecaster,
    ),
    "openstl, layer norms": Case(
        partial(OpenSTL, 1, [4, 3], 2, (4, 6), old=False), 1, (4,), {"generation": "new", "patch_size": 2}
    ),
}
"""By the name of the project, and what is special about the model."""


def compare(original: nn.Module, imported: Imported, case: Case) -> None:
    """Compare the outputs for an input in the layout that the import says the original has."""
    sizes = {"b": 2, "t": 3, "c": case.channels, "h": case.frame[0], "w": case.frame[1]}
    frames = torch.randn([sizes[axis] for axis in imported.input_layout.split()])
    with torch.no_grad():
        expected = original(frames, *case.call)
    assert check(imported, frames.numpy(), expected.numpy()) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_import_computes_what_the_project_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.manual_seed(sum(map(ord, name)))
    original = case.make().eval()
    torch.save(case.wrap(dict(original.state_dict())), tmp_path / "model.pth")
    imported = import_foreign(tmp_path / "model.pth", "auto", case.options)
    assert type(imported.model) is case.kind
    assert name.split(",")[0] in imported.source.lower()
    never_used = {name for name in original.state_dict() if "conv_o" in name or "tracked" in name}
    assert imported.dropped.keys() <= never_used
    compare(original, imported, case)


@pytest.mark.parametrize("prefix", ["cell_list.0", "cell_list.0."])
def test_a_cell_by_its_prefix(prefix: str, tmp_path: Path) -> None:
    original = Ndrplz(2, [4], [3])
    torch.save(original.state_dict() | {"head.weight": torch.ones(3)}, tmp_path / "model.pth")
    imported = import_foreign(tmp_path / "model.pth", "ndrplz", {"prefix": prefix})
    assert type(imported.model) is ConvLSTM
    compare(original, imported, CASES["ndrplz"])
