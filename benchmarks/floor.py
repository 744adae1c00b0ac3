"""The floor of a ConvLSTM's time: its bare convolutions and one pass of its gates.

Letters: T time, B batch, I input channels, C hidden channels, S frame height and width, K kernel taps.

Convolutions of each layer, h_0 convolved like every other state:

    forward             at each step, input and hidden state, 4C outputs
    input gradients     at each step those of the hidden state, and those of the input where they are needed
    weight gradients    one convolution for all steps

Each is measured in several arrangements, and the fastest counts: memory channels last or channels first;
input and hidden state convolved together, or apart with the inputs of all steps at once (adding the two is
not counted); input gradients by torch's own function or, "turned", as a convolution with the kernel turned
around. The gradients of biases and bringing x and h together are not counted.

Gates, at each step and in place, on views of a convolution's output: torch's sigmoid and tanh once forward,
their derivatives once back; channels last or first. The cell state's arithmetic is not counted.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Job, graphed, interleave

PILOT_ROUNDS = 3
FORWARD, BACKWARD = ("forward",), ("input gradients", "weight gradients")
FORWARD_GATES, BACKWARD_GATES = ("gates",), ("gates back",)


@dataclass(frozen=True)
class Layer:
    """The sizes of a layer."""

    T: int
    B: int
    I: int
    C: int
    S: int
    K: int
    input_gradients: int
    """Number of steps that need the gradient of the input."""


@dataclass
class Floor:
    """The fastest arrangement of each part, as two jobs."""

    convolutions: Job
    gates: Job
    chosen: list[dict[str, str]]
    """The name of the arrangement of each part, for each layer."""


def make_floor(
    layers: Sequence[Layer],
    dtype: torch.dtype,
    device: torch.device,
    training: bool,
    others: Sequence[Job] = (),
) -> Floor:
    """Find the fastest arrangement of each part of each layer, and join them.

    Args:
        layers: Layers of the stack.
        dtype: Type of all tensors.
        device: Device of all tensors. On CUDA each job is a CUDA graph.
        training: Whether to count the backward pass.
        others: Other products to count with the convolutions. Default: none.
    """
    of_convolutions = FORWARD + (BACKWARD if training else ())
    of_gates = FORWARD_GATES + (BACKWARD_GATES if training else ())
    convolutions, gates, chosen = list(others), [], []
    for layer in layers:
        names = {}
        for part, arrangements in _arrangements(layer, dtype, device).items():
            if part in of_convolutions + of_gates:
                names[part] = _fastest(arrangements, device)
                (gates if part in of_gates else convolutions).append(arrangements[names[part]])
        chosen.append(names)
    return Floor(graphed(_all(convolutions), device), graphed(_all(gates), device), chosen)


def _all(jobs: Sequence[Job]) -> Job:
    @torch.no_grad()
    def run() -> None:
        for job in jobs:
            job()

    return run


def _fastest(arrangements: dict[str, Job], device: torch.device) -> str:
    jobs = {name: graphed(_all([job]), device) for name, job in arrangements.items()}
    seconds = interleave(jobs, PILOT_ROUNDS, device)
    return min(jobs, key=lambda name: statistics.median(seconds[name]))


def _arrangements(layer: Layer, dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, Job]]:
    """Return the job that runs all steps, by part and arrangement."""
    parts: dict[str, dict[str, Job]] = {
        part: {} for part in FORWARD + BACKWARD + FORWARD_GATES + BACKWARD_GATES
    }
    orders = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
    for order, memory_format in orders.items():

        def frames(n: int, channels: int, memory_format: torch.memory_format = memory_format) -> Tensor:
            made = torch.randn(n, channels, layer.S, layer.S, device=device).to(dtype)
            return made.contiguous(memory_format=memory_format)

        for name, jobs in _convolutions(layer, frames, memory_format).items():
            for part, job in jobs.items():
                parts[part][f"{order}, {name}"] = job
        for part, job in _gates(layer, frames).items():
            parts[part][order] = job
    return parts


def _convolutions(
    layer: Layer, frames: Callable[[int, int], Tensor], memory_format: torch.memory_format
) -> dict[str, dict[str, Job]]:
    """Return the jobs of the convolutions by arrangement and part."""
    T, B, I, C, K, some = layer.T, layer.B, layer.I, layer.C, layer.K, layer.input_gradients
    x, h, both = frames(T * B, I), frames(B, C), frames(B, I + C)
    all_h, all_both, some_x = frames(T * B, C), frames(T * B, I + C), frames(max(some, 1) * B, I)
    d, all_d, some_d = frames(B, 4 * C), frames(T * B, 4 * C), frames(max(some, 1) * B, 4 * C)

    def weight(channels: int) -> Tensor:
        drawn = torch.randn(4 * C, channels, K, K, device=h.device).to(h.dtype) / (C * K * K) ** 0.5
        return drawn.contiguous(memory_format=memory_format)

    of_x, of_h, of_both = weight(I), weight(C), weight(I + C)
    bias = torch.randn(4 * C, device=h.device).to(h.dtype)

    def convolve(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        F.conv2d(input, weight, bias, padding=K // 2)

    def gradient(input: Tensor, weight: Tensor, d: Tensor, *, of_input: bool) -> None:
        mask, pad, one = (of_input, not of_input, False), [K // 2] * 2, [1, 1]
        torch.ops.aten.convolution_backward(d, input, weight, None, one, pad, one, False, [0, 0], 1, mask)

    def forward_together() -> None:
        for _ in range(T):
            convolve(both, of_both, bias)

    def forward_apart() -> None:
        convolve(x, of_x, bias)
        for _ in range(T):
            convolve(h, of_h)

    def inputs_together() -> None:
        for _ in range(some):
            gradient(both, of_both, d, of_input=True)
        for _ in range(T - some):
            gradient(h, of_h, d, of_input=True)

    def inputs_apart() -> None:
        if some:
            gradient(some_x, of_x, some_d, of_input=True)
        for _ in range(T):
            gradient(h, of_h, d, of_input=True)

    turned_x, turned_h, turned_both = (
        w.transpose(0, 1).flip(2, 3).contiguous(memory_format=memory_format) for w in (of_x, of_h, of_both)
    )

    def turned_together() -> None:
        for _ in range(some):
            convolve(d, turned_both)
        for _ in range(T - some):
            convolve(d, turned_h)

    def turned_apart() -> None:
        if some:
            convolve(some_d, turned_x)
        for _ in range(T):
            convolve(d, turned_h)

    def weights_together() -> None:
        gradient(all_both, of_both, all_d, of_input=False)

    def weights_apart() -> None:
        gradient(x, of_x, all_d, of_input=False)
        gradient(all_h, of_h, all_d, of_input=False)

    forward, inputs, weights = FORWARD + BACKWARD
    return {
        "together": {forward: forward_together, inputs: inputs_together, weights: weights_together},
        "apart": {forward: forward_apart, inputs: inputs_apart, weights: weights_apart},
        "turned, together": {inputs: turned_together},
        "turned, apart": {inputs: turned_apart},
    }


def _gates(layer: Layer, frames: Callable[[int, int], Tensor]) -> dict[str, Job]:
    C, gates, sigmoid_d, tanh_d = layer.C, frames(layer.B, 4 * layer.C), 2.0, 0.5
    # With these as incoming gradients, values replaced by their derivatives again and again settle around 0.5
    # and 0.4, not near zero, where arithmetic may be slow, nor at infinity.
    d = frames(layer.B, 4 * C).fill_(sigmoid_d)
    d[:, 2 * C : 3 * C] = tanh_d
    i_f, g, o = gates.split([2 * C, C, C], dim=1)
    d_i_f, d_g, d_o = d.split([2 * C, C, C], dim=1)

    def forward() -> None:
        for _ in range(layer.T):
            i_f.sigmoid_()
            g.tanh_()
            o.sigmoid_()

    def back() -> None:
        for _ in range(layer.T):
            torch.ops.aten.sigmoid_backward.grad_input(d_i_f, i_f, grad_input=i_f)
            torch.ops.aten.tanh_backward.grad_input(d_g, g, grad_input=g)
            torch.ops.aten.sigmoid_backward.grad_input(d_o, o, grad_input=o)

    return {"gates": forward, "gates back": back}
