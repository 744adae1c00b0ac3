"""OpenSTL's ConvLSTM: a stack over patches that predicts the next frame, and reads it after the context.

Convolutions of x and of h apart, gates i, f, g, o, no biases, the output of the last layer alone through a
1x1 convolution. Files saved before 2023-12-08 (all of the model zoo) compute h = o * g, later ones
h = o * tanh(c), under the same names: the user says which. With layer norms, of (4H, h, w), on each of the
two convolutions.
"""

import re
from typing import Literal

import torch
from torch import Tensor

from convlstm.core.saving import Savable
from convlstm.importers.building import (
    Part,
    load,
    network,
    numbered,
    odd_kernel,
    permute_gates,
    recurrent_stages,
    unused,
)
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.importers.reading.state_dicts import entries
from convlstm.models.imported.stages import Convolution, Patches, Recurrent
from convlstm.models.stacked import StackedForecaster, StackedForecasterConfig

FIRST = "cell_list.0.conv_x.0.weight"
HEAD = "conv_last.weight"
GENERATIONS: dict[str, Literal["candidate", "cell"]] = {"old": "candidate", "new": "cell"}


def convert(foreign: Foreign) -> Imported:
    """Return a StackedForecaster; of the old generation, or with layer norms, an ImportedNetwork."""
    settings = entries(foreign.notes.get("hyper_parameters")) or {}
    if settings.get("stride", 1) != 1:
        raise ValueError(
            f"stride is {settings['stride']} in this file; only cells of stride 1 can be imported"
        )
    new = foreign.prefix == "model." or bool(settings)
    why = (
        "old code (before 2023-12-08, all of the model zoo) computes h = o * g, new code h = o * tanh(c); "
        f"this file looks {'new' if new else 'old'}"
    )
    generation = foreign.option("generation", tuple(GENERATIONS), why)
    foreign.tensor(FIRST)
    cells = [f"cell_list.{n}." for n in numbered(foreign.tensors, "cell_list.", ".conv_x.0.weight")]
    parts = [_cell(foreign, cell, GENERATIONS[generation]) for cell in cells]
    head = foreign.tensor(HEAD)
    stages = recurrent_stages(parts)
    if head.shape != (stages[0].input_channels, stages[-1].hidden_channels, 1, 1):
        raise ValueError(f"{HEAD} has shape {tuple(head.shape)}, which does not turn states into patches")
    patch = _patch_size(foreign, settings, len(head))
    ours = all(stage.plain for stage in stages) and len({n for s in stages for n in s.kernel_size}) == 1
    model = (_forecaster if ours else _staged)(parts, head, patch)
    used = [HEAD]
    for cell, stage in zip(cells, stages, strict=True):
        used += [f"{cell}conv_{x}.0.weight" for x in "xh"]
        if stage.norm is not None:
            used += [f"{cell}conv_{x}.1.{end}" for x in "xh" for end in _ENDS]
    dead = {name for name in foreign.tensors if _DEAD.match(name)}
    dropped = unused(foreign, {*used, *dead}, own=("cell_list.", "conv_last."))
    return Imported(
        model,
        source=f"OpenSTL, ConvLSTM of the {generation} code",
        layers=(
            f"patches of {patch}x{patch}",
            *(str(p.stage) for p in parts),
            f"1x1 to {len(head)} channels",
        ),
        gates="i, f, g, o",
        forecasts=True,
        dropped=dropped | dict.fromkeys(sorted(dead), "the project's cells never run it"),
    )


_ENDS = ("weight", "bias")
_DEAD = re.compile(r"cell_list\.\d+\.conv_(o|last)\.")


def _cell(foreign: Foreign, cell: str, output: Literal["candidate", "cell"]) -> Part:
    ih, hh = (foreign.tensor(f"{cell}conv_{x}.0.weight", least=3) for x in "xh")
    weights = {"weight_ih": ih, "weight_hh": hh}
    fields = {}
    if f"{cell}conv_x.1.weight" in foreign.tensors:
        for part, x in (("ih", "x"), ("hh", "h")):
            for end in _ENDS:
                weights[f"norm_{part}_{end}"] = foreign.tensor(f"{cell}conv_{x}.1.{end}")
        fields = {"norm": "layer", "frame": tuple(weights["norm_ih_weight"].shape[1:])}
    stage = Recurrent(
        input_channels=ih.shape[1],
        hidden_channels=hh.shape[1],
        kernel_size=odd_kernel(f"{cell}conv_x.0.weight", ih),
        bias=False,
        output=output,
        **fields,
    )
    return Part(stage, ({name: permute_gates(weight, "ifgo") for name, weight in weights.items()},))


def _patch_size(foreign: Foreign, settings: dict, channels: int) -> int:
    """Return the side of a patch: the file's, or the user's, since p * p * C channels do not tell it."""
    choices = tuple(p for p in range(1, int(channels**0.5) + 1) if channels % p**2 == 0)
    if "patch_size" not in foreign.options and settings.get("patch_size") in choices:
        return settings["patch_size"]
    why = f"patches have {channels} channels, patch_size^2 times those of a frame"
    return foreign.option("patch_size", choices, why)


def _forecaster(parts: list[Part], head: Tensor, patch: int) -> Savable:
    """Ours: its head reads all layers, all but the last of them through zeros, and its biases are zero."""
    stages = recurrent_stages(parts)
    widths = tuple(stage.hidden_channels for stage in stages)
    config = StackedForecasterConfig(
        channels=len(head) // patch**2,
        hidden_channels=widths,
        kernel_size=stages[0].kernel_size[0],
        patch_size=patch,
    )
    zeros = head.new_zeros(len(head), sum(widths[:-1]), 1, 1)
    tensors = {"head.weight": torch.cat([zeros, head], dim=1), "head.bias": head.new_zeros(len(head))}
    for n, part in enumerate(parts):
        weights = {**part.weights[0], "bias": head.new_zeros(4 * widths[n])}
        tensors |= {f"cells.{n}.{name}": weight for name, weight in weights.items()}
    return load(StackedForecaster(config), tensors)


def _staged(parts: list[Part], head: Tensor, patch: int) -> Savable:
    stage = Convolution(
        input_channels=head.shape[1], output_channels=len(head), kernel_size=(1, 1), bias=False
    )
    ends = Part(Patches(size=patch)), Part(Patches(size=patch, inverse=True))
    whole = [ends[0], *parts, Part(stage, ({"weight": head},)), ends[1]]
    return network(whole, channels=len(head) // patch**2)


SOURCE = Source(
    "openstl",
    lambda foreign: FIRST in foreign.tensors,
    convert,
    {
        "generation": "old (before 2023-12-08 and all of the model zoo: h = o * g) or new (h = o * tanh(c))",
        "patch_size": "side of the patches, where the file does not say it",
    },
)
