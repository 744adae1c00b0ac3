"""jhhuang96/ConvLSTM-PyTorch: an encoder-forecaster of ConvLSTMs with a group norm inside the cell.

One convolution over [x | h] per cell, gates i, f, g, o, GroupNorm(4 H // 32 groups) over their sum. The
project's other files hold a ConvGRU (its flag for the ConvLSTM trained that too): refused.
"""

from typing import Any

from convlstm.importers.building import Part, fused_cell
from convlstm.importers.encoder_forecaster import STRIDES, import_nowcaster
from convlstm.importers.foreign import Foreign, Imported, Source

GROUP = 32  # channels a group
CELL = tuple(f"conv.{n}.{end}" for n in (0, 1) for end in ("weight", "bias"))


def recognizes(foreign: Foreign) -> bool:
    """Return whether these are the project's tensors, by their names."""
    names = foreign.tensors.keys()
    lone = names == set(CELL)
    return lone or "encoder.rnn1.conv.0.weight" in names or _is_gru(foreign)


def convert(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork."""
    if _is_gru(foreign):
        raise ValueError(
            "this is the ConvGRU of jhhuang96/ConvLSTM-PyTorch (its -clstm flag trained that too), with "
            "group norms inside the cell, which no GRU of this library has: only its ConvLSTM is imported"
        )
    lone = CELL[0] in foreign.tensors
    layout = "t b c h w" if lone else "b t c h w"
    project = "jhhuang96/ConvLSTM-PyTorch"
    return import_nowcaster(foreign, "decoder", _cell, CELL, ("conv.",), layout, source=project)


def _is_gru(foreign: Foreign) -> bool:
    lone = {f"conv{n}.{m}.{end}" for n in (1, 2) for m in (0, 1) for end in ("weight", "bias")}
    return foreign.tensors.keys() == lone or "encoder.rnn1.conv1.0.weight" in foreign.tensors


def _cell(foreign: Foreign, before: str, **fields: Any) -> Part:
    rows = len(foreign.tensor(f"{before}conv.0.weight"))
    groups = rows // GROUP
    if not groups or rows % groups:
        raise ValueError(f"{before}conv.0.weight has {rows} rows, which do not make groups of {GROUP} or so")
    part = fused_cell(foreign, f"{before}conv.0", "ifgo", norm="group", groups=groups, **fields)
    norm = {f"norm_{end}": foreign.tensor(f"{before}conv.1.{end}") for end in ("weight", "bias")}
    return Part(part.stage, ({**part.weights[0], **norm},))


SOURCE = Source("jhhuang96", recognizes, convert, {"strides": STRIDES})
