"""ndrplz/ConvLSTM_pytorch and the PyPI package conv-lstm, which is the same: a stack of plain cells.

One convolution over [x | h] per cell, gates i, f, o, g, half padding. The file says neither whether batches
come first (the outputs always do) nor which outputs were kept; ours are batch first, the last layer's.
"""

from convlstm.importers.building import fused_cell, numbered, stack, unused
from convlstm.importers.foreign import Foreign, Imported, Source

GATES = "ifog"
CELL = "conv.weight"  # what one cell holds, as inside another network: enc1.conv.weight


def convert(foreign: Foreign) -> Imported:
    """Return a ConvLSTM, or an ImportedNetwork where the layers differ."""
    names = [f"cell_list.{n}.conv" for n in numbered(foreign.tensors, "cell_list.", ".conv.weight")]
    if CELL in foreign.tensors:
        names = ["conv"]
    if not names:
        raise ValueError("cell_list.0.conv.weight is missing, and conv.weight too: this is no file of ndrplz")
    bias = any(f"{name}.bias" in foreign.tensors for name in names)
    parts = [fused_cell(foreign, name, GATES, bias=bias) for name in names]
    used = [f"{name}.{end}" for name in names for end in ("weight", "bias")]
    time_first = not foreign.flag("batch_first", default=True)
    return Imported(
        stack(parts),
        source="ndrplz/ConvLSTM_pytorch, or conv-lstm of PyPI",
        layers=tuple(str(part.stage) for part in parts),
        gates="i, f, o, g",
        input_layout="t b c h w" if time_first else "b t c h w",
        dropped=unused(foreign, used, own=("cell_list.", "conv.")),
        guesses=() if "batch_first" in foreign.options else ("the input has its batch first",),
    )


SOURCE = Source(
    "ndrplz",
    lambda foreign: "cell_list.0.conv.weight" in foreign.tensors,
    convert,
    {"batch_first": "False where the project's model was built so: only its input's layout depends on it"},
)
