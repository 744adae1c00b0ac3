"""Networks as graphs with named inputs and outputs: a rollout, one step, or the encoding of a context.

Letters: T time, B batch, C image channels, H W pixels; hidden, h, w: channels, rows and columns of a state.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from convlstm.core.checks import choice, positive
from convlstm.models.forecaster import Forecaster, ForecasterState, as_forecaster
from convlstm.models.imported import ImportedNetwork

Form = Literal["rollout", "step", "encode"]
FORMS: tuple[Form, ...] = ("rollout", "step", "encode")
UNUSED: dict[str, tuple[str, ...]] = {"step": ("context", "horizon"), "encode": ("horizon",)}
"""The arguments of `make_graph` that a form has no use for."""


@dataclass(frozen=True)
class Graph:
    """A network in the form that is exported.

    Attributes:
        form: "rollout", "step" or "encode".
        network: a copy of the caller's, in evaluation mode and without gradients.
        module: maps the inputs, positional tensors, to the outputs.
        inputs: their names, in order.
        outputs: their names, in order.
        context: T, the context frames of a rollout or encode.
        horizon: the forecast frames of a rollout.
        size: H and W, in pixels.
        unit: the numbers of pixels whose multiples H and W have to be.
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
        """Return inputs for frames of H x W pixels: random frames, and the states that the network gives."""
        if self.form != "step":
            return (_frames(self.network, batch, self.context, size),)
        assert isinstance(self.network, Forecaster)
        state = _state(self.network, batch, size)
        return (*([] if state.frame is None else [state.frame]), *_cell_states(state))


def make_graph(
    model: nn.Module,
    form: Form = "rollout",
    context: int = 10,
    horizon: int = 10,
    size: tuple[int, int] = (64, 64),
) -> Graph:
    """Make the graph of a network in a form; `convlstm.export` describes the arguments.

    Raises:
        ValueError: a model that forecasts no frames, or an argument that does not fit.
    """
    choice("form", form, FORMS)
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size is {size!r}; it needs two numbers of pixels, H and W")
    H, W = (positive("size", pixels) for pixels in size)
    context, horizon = positive("context", context), positive("horizon", horizon)
    network = model if isinstance(model, ImportedNetwork) else as_forecaster(model)
    network = copy.deepcopy(network).eval().requires_grad_(False)
    module, inputs, outputs = _Rollout(network, horizon), ["context"], ["frames"]
    if isinstance(network, ImportedNetwork):
        if form != "rollout":
            raise ValueError(f"form is {form!r}; an ImportedNetwork has no steps, only the form 'rollout'")
        if network.config.spatial_dims != 2:
            raise ValueError(f"model has {network.config.spatial_dims} spatial axes; a rollout needs 2")
        with torch.no_grad():  # a network that makes no frames, or none of this size, says so here
            network(_frames(network, 1, context, (H, W)), horizon)
        rows, columns = network.unit()
    else:
        state = _state(network, 1, (H, W))
        states = [f"{'hc'[k]}{n}" for n, cell in enumerate(state.cells) for k in range(len(cell or ()))]
        after = [f"{name}_out" for name in states]
        if form == "encode":
            if network.feedback and context == 1:
                raise ValueError(
                    f"context is 1, but the last frame of a context is read by the step of a "
                    f"{type(network).__name__}; encode needs 2 or more"
                )
            module, outputs = _Encode(network), after
        elif form == "step":
            frame = [] if state.frame is None else ["frame"]
            module, inputs, outputs = _Step(network, state), [*frame, *states], ["next_frame", *after]
        # States are smaller than frames by the side of a patch, or by the strides of convolutions.
        rows = H // math.gcd(H, *(tensor.shape[2] for tensor in _cell_states(state)))
        columns = W // math.gcd(W, *(tensor.shape[3] for tensor in _cell_states(state)))
    return Graph(
        form=form,
        network=network,
        module=module.eval(),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        context=context,
        horizon=horizon,
        size=(H, W),
        unit=(rows, columns),
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


def _state(network: Forecaster, batch: int, size: tuple[int, int]) -> ForecasterState:
    """Return the state after two frames: after one, some cells of some networks have not run yet."""
    with torch.no_grad():
        return network.encode(_frames(network, batch, 2, size))


def _frames(network: Forecaster | ImportedNetwork, batch: int, count: int, size: tuple[int, int]) -> Tensor:
    """Return random frames (B, T, C, H, W), the same at each call."""
    like, generator = next(network.parameters()), torch.Generator().manual_seed(0)
    return torch.rand(batch, count, network.config.channels, *size, generator=generator).to(like)
