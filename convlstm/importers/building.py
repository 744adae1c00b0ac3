"""Build cells, stacks and networks from foreign weights: order the gates, load all weights, check them.

Letters: I input channels, C hidden channels, K kernel taps per axis, S the spatial axes.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from convlstm.core.checks import check_weights
from convlstm.core.saving import Savable
from convlstm.importers.foreign import Foreign
from convlstm.models.imported import ImportedConfig, ImportedNetwork
from convlstm.models.imported.stages import Convolution, Recurrent, Stage
from convlstm.nn.layers import ConvLSTM

Weights = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


class Part(NamedTuple):
    """A stage, and its weights by their names in the stage's module: one dict for each cell."""

    stage: Stage
    weights: tuple[Weights, ...] = ()


def permute_gates(tensor: Tensor, order: str) -> Tensor:
    """Permute the gates of a tensor from a foreign order to i, f, g, o.

    Args:
        tensor: four blocks of the same size along the first axis.
        order: the foreign order, such as "ifog".

    Raises:
        ValueError: a tensor that does not hold four gates.
    """
    if not tensor.dim() or not len(tensor) or len(tensor) % 4:
        raise ValueError(f"a tensor of gates has shape {tuple(tensor.shape)}, which four gates do not share")
    blocks = dict(zip(order, tensor.chunk(4), strict=True))
    return torch.cat([blocks[gate] for gate in "ifgo"])


def fused_cell(foreign: Foreign, conv: str, order: str, *, bias: bool = True, **fields: Any) -> Part:
    """Return the recurrent stage of a cell with one convolution over the input and hidden channels together.

    Args:
        foreign: with `conv`.weight (4C, I + C, *K) and `conv`.bias (4C,).
        conv: name of the convolution.
        order: of the gates.
        bias: whether the cell has one (default True).
        fields: other fields of the stage.
    """
    weight = foreign.tensor(f"{conv}.weight")
    hidden, rest = divmod(weight.shape[0], 4) if weight.dim() > 2 else (0, 0)
    inputs = weight.shape[1] - hidden if hidden else 0
    if rest or inputs < 1:
        raise ValueError(
            f"{conv}.weight has shape {tuple(weight.shape)}; a cell's convolution needs (4 C, I + C, taps)"
        )
    kernel = odd_kernel(f"{conv}.weight", weight)
    weight = permute_gates(weight, order)
    cell = {"weight_ih": weight[:, :inputs], "weight_hh": weight[:, inputs:]}
    if bias:
        cell["bias"] = permute_gates(foreign.tensor(f"{conv}.bias"), order)
    stage = Recurrent(input_channels=inputs, hidden_channels=hidden, kernel_size=kernel, bias=bias, **fields)
    return Part(stage, (cell,))


def odd_kernel(name: str, weight: Tensor) -> tuple[int, ...]:
    """Return the kernel size of a convolution that is padded by half of it, which only odd ones may be."""
    kernel = tuple(weight.shape[2:])
    if not all(k % 2 for k in kernel):
        raise ValueError(
            f"{name} has a kernel of {kernel}: padded as its project pads, frames change their size"
        )
    return kernel


def with_peepholes(part: Part, foreign: Foreign, names: Sequence[str]) -> Part:
    """Add per-pixel peepholes, `names` in the order i, f, o, where the file has them.

    Peepholes that were made on a GPU were never registered, and never trained: files are without them.
    """
    there = [name for name in names if name in foreign.tensors]
    if not there:
        return part
    if len(there) < 3:
        raise ValueError(f"{there[0]} is in the file without {', '.join(n for n in names if n not in there)}")
    stage = part.stage
    assert isinstance(stage, Recurrent)
    weights = [foreign.tensors[name] for name in names]
    frame = tuple(weights[0].shape[-len(stage.kernel_size) :])
    expected = (stage.hidden_channels, *frame)
    for name, weight in zip(names, weights, strict=True):
        if tuple(weight.shape) not in (expected, (1, *expected)):
            raise ValueError(f"{name} has shape {tuple(weight.shape)}; it needs {(1, *expected)}")
    weight_ch = torch.cat([weight.reshape(expected) for weight in weights])
    stage = dataclasses.replace(stage, peephole=frame)
    return Part(stage, ({**part.weights[0], "weight_ch": weight_ch},))


def recurrent_stages(parts: Sequence[Part]) -> list[Recurrent]:
    """Return the stages of the cells among the parts."""
    return [part.stage for part in parts if isinstance(part.stage, Recurrent)]


def stack(parts: Sequence[Part]) -> Savable:
    """Return a stack of cells: a ConvLSTM where all cells are alike, else an ImportedNetwork."""
    stages = recurrent_stages(parts)
    first = stages[0]

    def alike(stage: Recurrent) -> bool:
        same = ("hidden_channels", "kernel_size", "bias", "peephole", "merge")
        plain = stage.plain and stage.sequences and not stage.reverse and stage.merge in (None, "concat")
        return plain and all(getattr(stage, name) == getattr(first, name) for name in same)

    if not all(map(alike, stages)):
        return network(parts, spatial_dims=len(first.kernel_size))
    layer = ConvLSTM(
        first.input_channels,
        first.hidden_channels,
        first.kernel_size,
        len(parts),
        first.bias,
        batch_first=True,
        bidirectional=first.merge is not None,
        spatial_dims=len(first.kernel_size),
        peephole=first.peephole,
    )
    cells = [weights for part in parts for weights in part.weights]
    return load(layer, {f"cells.{n}.{name}": t for n, ws in enumerate(cells) for name, t in ws.items()})


def network(
    parts: Sequence[Part],
    forecaster: Sequence[Part] = (),
    head: Sequence[Part] = (),
    channels: int | None = None,
    **fields: Any,
) -> ImportedNetwork:
    """Return an ImportedNetwork with its weights.

    Args:
        parts: of its stages.
        forecaster: parts of its forecaster.
        head: parts of its head.
        channels: of a frame (default: what the first stage reads).
        fields: other fields of the config.
    """
    groups = {"stages": parts, "forecaster": forecaster, "head": head}
    if channels is None:
        reading = [part.stage for part in parts if isinstance(part.stage, Recurrent | Convolution)]
        channels = reading[0].input_channels
    stages = {name: tuple(part.stage for part in group) for name, group in groups.items()}
    model = ImportedNetwork(ImportedConfig(channels=channels, **stages, **fields))
    tensors = {}
    for name, group in groups.items():
        for number, part in enumerate(group):
            recurrent = isinstance(part.stage, Recurrent)
            for cell, weights in enumerate(part.weights):
                path = f"{name}.{number}" + (f".cells.{cell}" if recurrent else "")
                tensors |= {f"{path}.{key}": tensor for key, tensor in weights.items()}
    return load(model, tensors)


def load(model: Model, tensors: Weights) -> Model:
    """Load all weights of a model, in evaluation mode; raise ValueError where one does not fit."""
    check_weights("the file's tensors do not make a whole model", tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval()


def numbered(tensors: Mapping[str, Any], before: str, after: str) -> list[int]:
    """Return the numbers n, 0, 1, ... without gap, for which `before` n `after` is a name."""
    count = 0
    while f"{before}{count}{after}" in tensors:
        count += 1
    return list(range(count))


NO_SUCH_PART = "the project's model has no such part"


def unused(foreign: Foreign, used: Iterable[str], own: tuple[str, ...]) -> dict[str, str]:
    """Return the names of the tensors that the model does not use, each with the reason.

    Args:
        foreign: the file.
        used: names that are in the model.
        own: what the names of the project's cells and layers begin with.

    Raises:
        ValueError: one of the project's own tensors has no place: others of its part are missing, or it has
            parts that the project's have not.
    """
    rest = sorted(foreign.tensors.keys() - set(used))
    if lost := next((name for name in rest if name.startswith(own)), None):
        raise ValueError(
            f"{lost} has no place in the project's model: what goes with it is missing, or it is of a variant"
        )
    return dict.fromkeys(rest, NO_SUCH_PART)
