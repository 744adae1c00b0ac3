"""holmdk/Video-Prediction-using-PyTorch: two cells encode, two decode, all of their states start at zero.

Cells as ndrplz's, 3x3, gates i, f, o, g. The decoder first reads the encoder's last output, then its own; its
outputs go through a Conv3d of 1x3x3 and a sigmoid.
"""

from convlstm.importers.building import Part, fused_cell, network, unused
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.models.imported.stages import Activation, Convolution, Pick

CELLS = tuple(f"{half}_{n}_convlstm" for half in ("encoder", "decoder") for n in (1, 2))
FIRST, HEAD = f"{CELLS[0]}.conv.weight", "decoder_CNN.weight"


def convert(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork."""
    for name in CELLS:
        foreign.tensor(f"{name}.conv.weight")
    cells = [fused_cell(foreign, f"{name}.conv", "ifog") for name in CELLS]
    weight, bias = foreign.tensor(HEAD), foreign.tensor("decoder_CNN.bias")
    if weight.dim() != 5 or weight.shape[2:] != (1, 3, 3):
        raise ValueError(f"{HEAD} has shape {tuple(weight.shape)}; the project's has taps of (1, 3, 3)")
    stage = Convolution(input_channels=weight.shape[1], output_channels=len(weight), kernel_size=(3, 3))
    head = [
        Part(stage, ({"weight": weight.squeeze(2), "bias": bias},)),
        Part(Activation(name="sigmoid")),
    ]
    parts = [*cells[:2], Part(Pick()), *cells[2:], *head]
    used = [f"{name}.conv.{end}" for name in CELLS for end in ("weight", "bias")]
    return Imported(
        network(parts[:3], cells[2:], head, forecaster_reads="own"),
        source="holmdk/Video-Prediction-using-PyTorch",
        layers=tuple(str(part.stage) for part in parts),
        gates="i, f, o, g",
        output_layout="b c t h w",
        forecasts=True,
        dropped=unused(foreign, [*used, HEAD, "decoder_CNN.bias"], own=("encoder_", "decoder_")),
    )


SOURCE = Source("holmdk", lambda foreign: foreign.tensors.keys() >= {FIRST, HEAD}, convert, {})
