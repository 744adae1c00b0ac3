"""The contenders of the speed benchmark: ways to compute a stack of ConvLSTM layers from the same numbers.

Letters: T time, B batch, I input channels, C hidden channels, S frame height and width, K kernel taps.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from benchmarks.timing import Job, peak_memory
from convlstm import ops

LAYERS = 2


class Row(NamedTuple):
    """The sizes of a problem of two layers."""

    T: int
    B: int
    I: int
    C: int
    S: int
    K: int


class Problem:
    """The input and parameters of a row. bfloat16 holds them exactly, so that all types begin from the same.

    Args:
        row: The sizes.
        device: Device of the tensors.
    """

    def __init__(self, row: Row, device: torch.device):
        generator = torch.Generator().manual_seed(0)
        bound = (row.C * row.K**2) ** -0.5

        def uniform(*shape: int) -> Tensor:
            drawn = (2 * torch.rand(shape, generator=generator) - 1) * bound
            return drawn.bfloat16().float().to(device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).bfloat16().float().to(device)

        T, B, I, C, S, K = row
        self.row, self.device = row, device
        self.input = normal(T, B, I, S, S)
        self.layers = [
            (uniform(4 * C, i, K, K), uniform(4 * C, C, K, K), uniform(4 * C))
            for i in [I] + [C] * (LAYERS - 1)
        ]
        """Per layer weight_ih, weight_hh and bias, rows i, f, g, o."""
        self.cotangent = normal(T, B, C, S, S)


@dataclass
class Contender:
    """A way to compute a problem in one type."""

    run: Callable[[], Tensor]
    """Return the outputs."""
    parameters: Sequence[Tensor]
    cotangent: Tensor
    to_common: Callable[[Tensor, Sequence[Tensor]], list[Tensor]]
    """(outputs, gradients) -> (T, B, C, S, S), then the gradients of `Problem.layers` in their order."""
    error: float = math.nan
    """Largest relative error of its results."""

    def forward(self) -> Tensor:
        """Return the outputs, for inference."""
        with torch.no_grad():
            return self.run()

    def backward(self) -> tuple[Tensor, ...]:
        """Return the parameters' gradients, by way of a forward pass."""
        return torch.autograd.grad(self.run(), self.parameters, self.cotangent)

    def job(self, mode: str) -> Job:
        """Return the call that is timed in "inference" or "training"."""
        return self.forward if mode == "inference" else self.backward

    def results(self) -> list[Tensor]:
        """Return what all contenders must agree on: outputs in inference and in training, gradients."""
        output = self.run()
        gradients = torch.autograd.grad(output, self.parameters, self.cotangent)
        inferred = self.to_common(self.forward(), gradients)[0]
        return [inferred, *(tensor.detach() for tensor in self.to_common(output, gradients))]


def textbook_layer(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Run a ConvLSTM as tutorials do: concatenate, convolve, split, and leave the rest to autograd."""
    C, padding = len(weight) // 4, weight.shape[-1] // 2
    h = c = input.new_zeros(input.shape[1], C, *input.shape[3:])
    outputs = []
    for x in input:
        gates = F.conv2d(torch.cat([x, h], dim=1), weight, bias, padding=padding)
        i, f, g, o = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)


def textbook_stack(input: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Run layers of which each has a weight (4C, I + C, K, K) and a bias."""
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        input = textbook_layer(input, weight, bias)
    return input


def textbook(problem: Problem, dtype: torch.dtype, compiled: bool = False) -> Contender:
    """Return the textbook, all of it in the named type, under torch.compile or not."""
    input = problem.input.to(dtype)
    parameters = [
        tensor.to(dtype).requires_grad_()
        for ih, hh, bias in problem.layers
        for tensor in (torch.cat([ih, hh], dim=1), bias)
    ]
    stack: Any = torch.compile(textbook_stack, dynamic=False) if compiled else textbook_stack

    def to_common(output: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
        common = [output]
        for weight, bias, (ih, hh, _) in zip(gradients[::2], gradients[1::2], problem.layers, strict=True):
            common += [*weight.split([ih.shape[1], hh.shape[1]], dim=1), bias]
        return common

    return Contender(lambda: stack(input, parameters), parameters, problem.cotangent.to(dtype), to_common)


def ours(problem: Problem, dtype: torch.dtype, fused: bool, recompute: bool = False) -> Contender:
    """Return one `ops.stack`, or reference layers one after the other; the cell state stays float32."""
    input = problem.input.to(dtype)
    layers = [tuple(tensor.to(dtype).requires_grad_() for tensor in layer) for layer in problem.layers]

    def run() -> Tensor:
        if fused:
            states = [(None, None)] * len(layers)
            stack = [(ih, hh, bias, None) for ih, hh, bias in layers]
            return ops.stack("lstm", input, states, stack, recompute=recompute)[0]
        output = input
        with ops.use_implementation("reference"):
            for ih, hh, bias in layers:
                output = ops.lstm(output, None, None, ih, hh, bias)[0]
        return output

    parameters = [parameter for layer in layers for parameter in layer]
    return Contender(run, parameters, problem.cotangent.to(dtype), lambda y, gradients: [y, *gradients])


def keras(problem: Problem, dtype: torch.dtype) -> Contender:
    """Return Keras's ConvLSTM2D on its torch backend in its default layout, all of it in the named type."""
    os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
    os.environ["KERAS_TORCH_DEVICE"] = problem.device.type
    from keras.layers import ConvLSTM2D

    def theirs(frames: Tensor) -> Tensor:
        return rearrange(frames.to(dtype), "t b c h w -> b t h w c").contiguous()

    _, _, _, C, _, K = problem.row
    input, name = theirs(problem.input), name_of(dtype)
    options = {"padding": "same", "return_sequences": True, "data_format": "channels_last", "dtype": name}
    options["recurrent_initializer"] = "zeros"  # the default cannot be drawn in bfloat16
    layers: list[Any] = [ConvLSTM2D(C, K, **options) for _ in problem.layers]
    frames = input
    for layer, (ih, hh, bias) in zip(layers, problem.layers, strict=True):
        with torch.no_grad():
            frames = layer(frames)  # makes the weights
            for weight, value in zip(layer.trainable_weights, (_kernel(ih), _kernel(hh), bias), strict=True):
                weight.value.copy_(value)

    def run() -> Tensor:
        frames = input
        for layer in layers:
            frames = layer(frames)
        return frames

    def to_common(output: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
        back = [rearrange(g, "h w i o -> o i h w") if g.dim() == 4 else g for g in gradients]
        return [rearrange(output, "b t h w c -> t b c h w"), *back]

    parameters = [weight.value for layer in layers for weight in layer.trainable_weights]
    return Contender(run, parameters, theirs(problem.cotangent), to_common)


def _kernel(weight: Tensor) -> Tensor:
    return rearrange(weight, "o i h w -> h w i o")  # Keras's gates are i, f, c, o: our order


def memory_of(
    name: str, row: Row, types: Sequence[torch.dtype], modes: Sequence[str], threads: int
) -> dict[str, int | None]:
    """Return a contender's peak memory on the CPU by "NAME MODE TYPE"; call it in a fresh process."""
    torch.set_num_threads(threads)
    problem = Problem(row, torch.device("cpu"))
    found = {}
    for dtype in types:
        contender = KINDS[name].make(problem, dtype)
        for mode in modes:
            found[f"{name} {mode} {name_of(dtype)}"] = peak_memory(contender.job(mode), problem.device)
    return found


def name_of(dtype: torch.dtype) -> str:
    """Return such as "float32"."""
    return str(dtype).removeprefix("torch.")


class Kind(NamedTuple):
    """How to make and time a contender."""

    make: Callable[[Problem, torch.dtype], Contender]
    graph: bool = False
    """Whether it is timed in a CUDA graph on a GPU."""
    cuda_only: bool = False
    training_only: bool = False


def _fused(problem: Problem, dtype: torch.dtype) -> Contender:
    return ours(problem, dtype, fused=True)


KINDS = {
    "textbook": Kind(textbook),
    "textbook-graph": Kind(textbook, graph=True, cuda_only=True),
    "compiled": Kind(lambda problem, dtype: textbook(problem, dtype, compiled=True), graph=True),
    "keras": Kind(keras),
    "reference": Kind(lambda problem, dtype: ours(problem, dtype, fused=False), graph=True),
    "op": Kind(_fused, graph=True),
    "op-eager": Kind(_fused, cuda_only=True),
    "recompute": Kind(
        lambda problem, dtype: ours(problem, dtype, fused=True, recompute=True),
        graph=True,
        training_only=True,
    ),
}
