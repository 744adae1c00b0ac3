"""automan000/Convolutional_LSTM_PyTorch: eight convolutions a cell, per-pixel peepholes, one frame fed again.

Cells Wx{i,f,c,o} with a bias and Wh{i,f,c,o} without, half padding. The model is called with ONE frame, reads
it `step` times and returns the outputs of the last layer at `effective_step`: neither is in the file.
"""

import torch
from torch import Tensor

from convlstm.core.checks import positive
from convlstm.importers.building import Part, network, numbered, odd_kernel, stack, unused, with_peepholes
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.models.imported.stages import Pick, Recurrent, Repeat

GATES = "ifco"  # the project's letters of our i, f, g, o
PEEPHOLES = ("Wci", "Wcf", "Wco")


def convert(foreign: Foreign) -> Imported:
    """Return a stack that reads any sequence; or one frame `step` times, where the user says how often."""
    cells = [f"cell{n}." for n in numbered(foreign.tensors, "cell", ".Wxi.weight")] or [""]
    parts = [_cell(foreign, cell) for cell in cells]
    used = [f"{cell}W{x}{gate}.{end}" for cell in cells for x in "xh" for gate in GATES for end in _ENDS]
    used += [f"{cell}{name}" for cell in cells for name in PEEPHOLES]
    facts = {
        "source": "automan000/Convolutional_LSTM_PyTorch",
        "layers": tuple(str(part.stage) for part in parts),
        "gates": "apart",
        "dropped": unused(foreign, used, own=("cell", "W")),
    }
    if "step" not in foreign.options:
        if "effective_step" in foreign.options:
            raise ValueError("effective_step is given without step, how often the model reads its one frame")
        guess = "a sequence of frames is read; the project's model reads one frame `step` times (option step)"
        return Imported(stack(parts), **facts, guesses=(guess,))
    step = positive("step", foreign.options["step"])
    kept = foreign.whole_numbers("effective_step") if "effective_step" in foreign.options else (step - 1,)
    if max(kept) >= step:
        raise ValueError(f"effective_step is {kept}; it needs numbers below step, {step}")
    model = network([Part(Repeat(times=step)), *parts, Part(Pick(steps=kept))])
    return Imported(model, **facts, input_layout="b c h w")


_ENDS = ("weight", "bias")


def _cell(foreign: Foreign, cell: str) -> Part:
    weights = {
        "weight_ih": _of_all_gates(foreign, f"{cell}Wx", ".weight", least=3),
        "weight_hh": _of_all_gates(foreign, f"{cell}Wh", ".weight", least=3),
        "bias": _of_all_gates(foreign, f"{cell}Wx", ".bias"),
    }
    stage = Recurrent(
        input_channels=weights["weight_ih"].shape[1],
        hidden_channels=weights["weight_hh"].shape[1],
        kernel_size=odd_kernel(f"{cell}Wxi.weight", weights["weight_ih"]),
    )
    return with_peepholes(Part(stage, (weights,)), foreign, [f"{cell}{name}" for name in PEEPHOLES])


def _of_all_gates(foreign: Foreign, before: str, end: str, least: int = 1) -> Tensor:
    """Return the four gates' tensors, one after the other."""
    names = [f"{before}{gate}{end}" for gate in GATES]
    tensors = [foreign.tensor(name, least) for name in names]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.shape != tensors[0].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it needs {tuple(tensors[0].shape)}")
    return torch.cat(tensors)


SOURCE = Source(
    "automan000",
    lambda foreign: "cell0.Wxi.weight" in foreign.tensors or "Wxi.weight" in foreign.tensors,
    convert,
    {
        "step": "how often the model reads its one frame",
        "effective_step": "numbers of the steps, from 0, whose outputs it returns (default the last)",
    },
)
