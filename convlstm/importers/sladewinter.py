"""sladewinter/ConvLSTM: ConvLSTM layers with per-pixel peepholes, BatchNorm3d between, the next frame out.

One convolution over [x | h] per cell, gates i, f, g, o. The activation of the candidate and of the cell state
(tanh or relu) is not in the file. The output is sigmoid(conv(last output)): the frame after the sequence.
"""

from convlstm.importers.building import Part, fused_cell, network, odd_kernel, unused, with_peepholes
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.models.imported.stages import Activation, BatchNorm, Convolution, Pick

FIRST = "sequential.convlstm1.convLSTMcell.conv.weight"
NORM = ("weight", "bias", "running_mean", "running_var")


def convert(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork."""
    tensors, parts, used = foreign.tensors, [], []
    why = "it is tanh or relu, of the candidate and of the cell state alike"
    activation = foreign.option("activation", ("tanh", "relu"), why)
    layer = 1
    while (cell := f"sequential.convlstm{layer}.convLSTMcell") + ".conv.weight" in tensors:
        part = fused_cell(foreign, f"{cell}.conv", "ifgo", activation=activation)
        peepholes = [f"{cell}.W_c{gate}" for gate in "ifo"]
        parts.append(with_peepholes(part, foreign, peepholes))
        norm = f"sequential.batchnorm{layer}"
        weights = {name: foreign.tensor(f"{norm}.{name}") for name in NORM}
        parts.append(Part(BatchNorm(channels=len(weights["weight"])), (weights,)))
        used += [f"{cell}.conv.weight", f"{cell}.conv.bias", *peepholes]
        used += [f"{norm}.{name}" for name in (*NORM, "num_batches_tracked")]
        layer += 1
    weight, bias = foreign.tensor("conv.weight", least=3), foreign.tensor("conv.bias")
    head = Convolution(
        input_channels=weight.shape[1],
        output_channels=len(weight),
        kernel_size=odd_kernel("conv.weight", weight),
    )
    parts += [
        Part(Pick()),
        Part(head, ({"weight": weight, "bias": bias},)),
        Part(Activation(name="sigmoid")),
    ]
    return Imported(
        network(parts),
        source="sladewinter/ConvLSTM",
        layers=tuple(str(part.stage) for part in parts),
        gates="i, f, g, o",
        input_layout="b c t h w",
        output_layout="b c h w",
        dropped=unused(foreign, [*used, "conv.weight", "conv.bias"], own=("sequential.", "conv.")),
    )


SOURCE = Source(
    "sladewinter",
    lambda foreign: FIRST in foreign.tensors,
    convert,
    {"activation": "tanh or relu, of the candidate and of the cell state; needed"},
)
