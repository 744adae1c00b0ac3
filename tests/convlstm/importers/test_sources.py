"""Each project's model, saved as the project saves it, imported, and run beside the original."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convlstm import ConvLSTM, StackedForecaster
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

CONTEXT = (2, 3)  # batch and time of what the models read
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
    source: str
    kind: type[nn.Module]
    channels: int = 1
    layout: str = "btchw"
    call: tuple[Any, ...] = ()
    horizon: int | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    wrap: Callable[[dict[str, Tensor]], Any] = dict


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


FORECAST = {"call": (4,), "horizon": 4}
CASES = {
    "ndrplz": Case(partial(Ndrplz, 2, [4, 3], [3, 5]), "ndrplz", ImportedNetwork, 2),
    "ndrplz, all layers alike": Case(partial(Ndrplz, 2, [4, 4], [3, 3], bias=False), "ndrplz", ConvLSTM, 2),
    "ndrplz, one cell": Case(
        partial(Ndrplz, 2, [4], [3]),
        "ndrplz",
        ConvLSTM,
        2,
        options={"prefix": "cell_list.0", "source": "ndrplz"},
    ),
    "automan000": Case(
        partial(Automan, 2, [4, 3], FRAME),
        "automan000",
        ImportedNetwork,
        2,
        layout="bchw",
        call=(5, [1, 4]),
        options={"step": 5, "effective_step": (1, 4)},
    ),
    "automan000, from a GPU": Case(
        partial(Automan, 2, [3], None),
        "automan000",
        ImportedNetwork,
        2,
        layout="bchw",
        call=(3, [2]),
        options={"step": 3},
    ),
    "sladewinter, tanh": Case(
        partial(Sladewinter, 2, 3, FRAME, "tanh"),
        "sladewinter",
        ImportedNetwork,
        2,
        layout="bcthw",
        options={"activation": "tanh"},
    ),
    "sladewinter, relu": Case(
        partial(Sladewinter, 1, 4, FRAME, "relu"),
        "sladewinter",
        ImportedNetwork,
        layout="bcthw",
        options={"activation": "relu"},
    ),
    "holmdk": Case(partial(Holmdk, 2, 3), "holmdk", ImportedNetwork, 2, **FORECAST),
    "holmdk, Lightning": Case(
        partial(Holmdk, 1, 3),
        "holmdk",
        ImportedNetwork,
        wrap=lambda tensors: {"state_dict": prefixed("model.", tensors), "epoch": 3},
        **FORECAST,
    ),
    "hzzone": Case(partial(hzzone, peepholes=True), "hzzone", ImportedNetwork, **FORECAST),
    "hzzone, from a GPU": Case(
        partial(hzzone, peepholes=False),
        "hzzone",
        ImportedNetwork,
        wrap=partial(prefixed, "module."),
        **FORECAST,
    ),
    "hzzone, large strides": Case(
        partial(
            EncoderForecaster,
            partial(FusedCell, kernel=3, order="ifgo", name="_conv"),
            "forecaster",
            [(3, 7, 5), (4, 5, 3)],
            [3, 2],
        ),
        "hzzone",
        ImportedNetwork,
        **FORECAST,
    ),
    "jhhuang96": Case(
        partial(EncoderForecaster, partial(NormedCell, kernel=5), "decoder", LEVELS, [8, 12]),
        "jhhuang96",
        ImportedNetwork,
        wrap=lambda tensors: {
            "epoch": 3,
            "state_dict": tensors,
            "optimizer": {"state": {}, "param_groups": []},
        },
        **FORECAST,
    ),
    "openstl, old": Case(
        partial(OpenSTL, 1, [4, 3], 2, None, old=True),
        "openstl",
        ImportedNetwork,
        options={"generation": "old", "patch_size": 2},
        **FORECAST,
    ),
    "openstl, new": Case(
        partial(OpenSTL, 3, [4, 3], 2, None, old=False),
        "openstl",
        StackedForecaster,
        3,
        options={"generation": "new"},
        wrap=lambda tensors: {
            "state_dict": prefixed("model.", tensors),
            "hyper_parameters": {"patch_size": 2, "stride": 1},
        },
        **FORECAST,
    ),
    "openstl, layer norms": Case(
        partial(OpenSTL, 1, [4, 3], 2, (4, 6), old=False),
        "openstl",
        ImportedNetwork,
        options={"generation": "new", "patch_size": 2},
        **FORECAST,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_import_computes_what_the_project_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.manual_seed(sum(map(ord, name)))
    original = case.make().eval()
    torch.save(case.wrap(dict(original.state_dict())), tmp_path / "model.pth")
    options = {key: value for key, value in case.options.items() if key != "source"}
    imported = import_foreign(tmp_path / "model.pth", case.options.get("source", "auto"), options)
    size = FRAME if "large" not in name else (15, 30)
    frames = torch.randn(*CONTEXT, case.channels, *size)  # (B, T, C, H, W)
    if "t" not in case.layout:
        frames = frames[:, :1]
    given = {"bcthw": frames.transpose(1, 2), "bchw": frames[:, 0]}.get(case.layout, frames)
    with torch.no_grad():
        expected = original(given, *case.call)
        found = imported.model(frames, *([case.horizon] if case.horizon else []))
    assert type(imported.model) is case.kind
    assert case.source in imported.source.lower()
    found = found[0] if isinstance(found, tuple) else found
    if case.source == "holmdk":
        expected = expected.transpose(1, 2)  # (B, 1, T, H, W)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not set(imported.dropped) & {
        n for n in original.state_dict() if "conv_o" not in n and "tracked" not in n
    }
