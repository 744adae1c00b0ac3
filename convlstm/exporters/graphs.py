"""What is exported: a network as a graph with named inputs and outputs, whole or frame by frame.

Letters: T time, B batch, C image channels, H W pixels, hidden the channels of a state, h w its pixels.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from convlstm.core.checks import positive
from convlstm.core.saving import unwrap
from convlstm.models.forecaster import Forecaster, ForecasterState
from convlstm.models.imported import ImportedNetwork

Form = Literal["rollout", "step", "encode"]
FORMS: tuple[Form, ...] = ("rollout", "step", "encode")


@dataclass(frozen=True)
class Graph:
    """A network in the form that is exported.

    Attributes:
        form: "rollout", "step" or "encode".
        network: a copy of the caller's, in evaluation mode and without gradients.
        module: maps the inputs, positional tensors, to the outputs.
        inputs: their names, in order.
        outputs: their names, in order.
        context: T, context frames of a rollout or encode.
        horizon: forecast frames of a rollout.
        size: H and W, in pixels.
        unit: the pixels of a frame, down and across, of which a size is made of whole numbers.
    """

    form: Form
    network: Forecaster | ImportedNetwork
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    context: int
    horizon: int
    size: tuple[int, int]
    unit: tuple[int, int]

    def example(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return inputs for frames of H x W pixels: random ones, and the states that the network gives."""
        if self.form == "step":
            assert isinstance(self.network, Forecaster)
            return _tensors(_state(self.network, batch, size))
        return (_frames(self.network, batch, self.context, size),)


def make_graph(
    model: Forecaster | ImportedNetwork,
    form: Form = "rollout",
    context: int = 10,
    horizon: int = 10,
    size: tuple[int, int] = (64, 64),
) -> Graph:
    """Make the graph of a network in a form; see `convlstm.exporters.export` for the forms and the errors."""
    network = unwrap(model)
    if not isinstance(network, Forecaster | ImportedNetwork):
        raise TypeError(
            f"model is a {type(network).__name__}; it needs a forecaster, such as StackedForecaster"
        )
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it needs one of {', '.join(FORMS)}")
    if len(size) != 2:
        raise ValueError(f"size is {size!r}; it needs two numbers of pixels, H and W")
    H, W = positive("size", size[0]), positive("size", size[1])
    context, horizon = positive("context", context), positive("horizon", horizon)
    network = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(network, ImportedNetwork):
        return _staged_rollout(network, form, context, horizon, (H, W))
    state = _state(network, 1, (H, W))
    if form == "encode" and network.feedback and context == 1:
        raise ValueError(
            f"context is 1, but the last frame of a context is read by the step of a "
            f"{type(network).__name__}; encode needs 2 or more"
        )
    states = [tensor for cell in state.cells for tensor in cell or ()]
    names = [
        f"{letter}{number}"
        for number, cell in enumerate(state.cells)
        for letter in ("h", "c")[: len(cell or ())]
    ]
    after = [f"{name}_out" for name in names]
    if form == "rollout":
        module, inputs, outputs = _Rollout(network, horizon), ["context"], ["frames"]
    elif form == "encode":
        module, inputs, outputs = _Encode(network), ["context"], after
    else:
        module, inputs, outputs = _Step(network, state), names, ["next_frame", *after]
        if state.frame is not None:
            inputs = ["frame", *names]
    # States are smaller than frames by the side of a patch, or by the strides of convolutions.
    rows, columns = (math.gcd(pixels, *(s.shape[axis] for s in states)) for axis, pixels in ((2, H), (3, W)))
    return Graph(
        form=form,
        network=network,
        module=module.eval(),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        context=context,
        horizon=horizon,
        size=(H, W),
        unit=(H // rows, W // columns),
    )


def _staged_rollout(
    network: ImportedNetwork, form: Form, context: int, horizon: int, size: tuple[int, int]
) -> Graph:
    """The graph of a network that was imported: it has no step, only its whole forecast."""
    if form != "rollout":
        raise ValueError(f"form is {form!r}; an ImportedNetwork has no steps, only the form 'rollout'")
    if network.config.spatial_dims != 2:
        raise ValueError(f"model has {network.config.spatial_dims} spatial axes; a rollout needs 2")
    with torch.no_grad():  # a network that makes no frames, or none of this size, says so here
        network(_frames(network, 1, context, size), horizon)
    down, across = network.unit()
    return Graph(
        form=form,
        network=network,
        module=_Rollout(network, horizon).eval(),
        inputs=("context",),
        outputs=("frames",),
        context=context,
        horizon=horizon,
        size=size,
        unit=(down, across),
    )


class _Rollout(nn.Module):
    def __init__(self, network: Forecaster | ImportedNetwork, horizon: int):
        super().__init__()
        self.network, self.horizon = network, horizon

    def forward(self, context: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, horizon, C, H, W)."""
        return self.network(context, self.horizon)


class _Encode(nn.Module):
    def __init__(self, network: Forecaster):
        super().__init__()
        self.network = network

    def forward(self, context: Tensor) -> tuple[Tensor, ...]:
        """(B, T, C, H, W) -> the states, (B, hidden, h, w) each."""
        return tuple(_cell_states(self.network.encode(context)))


class _Step(nn.Module):
    def __init__(self, network: Forecaster, state: ForecasterState):
        super().__init__()
        self.network, self.reads_frames = network, state.frame is not None
        self.counts = [len(cell or ()) for cell in state.cells]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Frame (B, C, H, W) if it is read, states (B, hidden, h, w) -> the next frame, the new states."""
        tensors = iter(inputs)
        frame = next(tensors) if self.reads_frames else None
        cells = tuple(tuple(islice(tensors, count)) or None for count in self.counts)
        prediction, state = self.network.step(None, ForecasterState(cells, frame))
        return prediction, *_cell_states(state)


def _cell_states(state: ForecasterState) -> Iterator[Tensor]:
    return (tensor for cell in state.cells for tensor in cell or ())


def _tensors(state: ForecasterState) -> tuple[Tensor, ...]:
    """The inputs of a step."""
    return (*([] if state.frame is None else [state.frame]), *_cell_states(state))


def _state(network: Forecaster, batch: int, size: tuple[int, int]) -> ForecasterState:
    """The state after two frames: with one, some cells of some networks have not run yet."""
    with torch.no_grad():
        return network.encode(_frames(network, batch, 2, size))


def _frames(network: Forecaster | ImportedNetwork, batch: int, count: int, size: tuple[int, int]) -> Tensor:
    """Random frames (B, T, C, H, W), the same at each call."""
    like, generator = next(network.parameters()), torch.Generator().manual_seed(0)
    return torch.rand(batch, count, network.config.channels, *size, generator=generator).to(like)
