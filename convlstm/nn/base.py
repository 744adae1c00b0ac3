"""What the cells share, and what the layers share: sizes, parameters, stacking, directions, states.

Letters: T time, B batch, I input channels, C hidden channels, L layers, D directions (1 or 2), K kernel taps
per axis, S the spatial axes: (W), (H, W) or (D, H, W).
"""

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_tensor, positive
from convlstm.core.saving import Savable


class ConvCell(nn.Module):
    """What the cells share: sizes, parameters, their initialisation, one step as a sequence of one."""

    gates: int
    kind: str | None = None
    """What the fused ops call this cell; None where they have none."""
    recompute: bool = False
    states: tuple[str, ...] = ("h",)
    weight_ih: nn.Parameter | None
    weight_hh: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        bias: bool,
        spatial_dims: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        spatial_dims = positive("spatial_dims", spatial_dims)
        if spatial_dims > 3:
            raise ValueError(f"spatial_dims is {spatial_dims!r}; it needs 1, 2 or 3")
        per_axis = isinstance(kernel_size, tuple | list)
        kernel = tuple(kernel_size) if per_axis else (kernel_size,) * spatial_dims
        if len(kernel) != spatial_dims:
            raise ValueError(f"kernel_size {kernel_size!r} has {len(kernel)} axes; it needs {spatial_dims}")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; it needs a real floating type, such as torch.float32")
        self.input_channels = positive("input_channels", input_channels, least=0)
        self.hidden_channels = positive("hidden_channels", hidden_channels)
        self.kernel_size = tuple(positive("kernel_size", k) for k in kernel)
        self.spatial_dims = spatial_dims

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        rows = self.gates * self.hidden_channels
        weight_ih = parameter(rows, self.input_channels, *self.kernel_size) if input_channels else None
        self.register_parameter("weight_ih", weight_ih)  # (gates * C, I, *K)
        self.register_parameter("weight_hh", parameter(rows, self.hidden_channels, *self.kernel_size))
        self.register_parameter("bias", parameter(rows) if bias else None)

    def reset_parameters(self) -> None:
        """Draw all parameters anew: U(-a, a) with a = 1 / sqrt(C * taps), torch.nn.LSTM's at one tap."""
        bound = 1 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        with torch.no_grad():
            for parameter in self.parameters(recurse=False):
                parameter.uniform_(-bound, bound)

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over (T, B, I, *S), or `lengths` (B,) of it, from the given states (None: zeros).

        Returns:
            The outputs (T, B, C, *S), zeros past the lengths; then the last states, (B, C, *S) each.
        """
        raise NotImplementedError

    def _step(self, input: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
        """One step on (B, I, *S), or (I, *S) unbatched; return the new states."""
        if self.check_input(input, batched=("B",), alone=()):
            return tuple(s.contiguous() for s in self.sequence(input.unsqueeze(0), *states)[1:])
        shape = (self.hidden_channels, *input.shape[1:])
        for name, state in zip(self.states, states, strict=True):
            if state is not None:
                ops.check_state(f"{name}0", state, shape, input.device)
        states = tuple(None if s is None else s.unsqueeze(0) for s in states)  # (1, C, *S) each
        return tuple(s.squeeze(0) for s in self.sequence(input[None, None], *states)[1:])

    def check_input(self, input: Tensor, batched: tuple[str, ...], alone: tuple[str, ...]) -> bool:
        """Return whether an input comes in batches; raise, in the user's order of axes, if it does not fit.

        Args:
            input: what a user gave.
            batched: the axes before the channels of a batch, such as ("T", "B").
            alone: the axes before the channels without one, such as ("T",).
        """
        check_tensor("input", input)
        dims, shape = len(batched) + 1 + self.spatial_dims, tuple(input.shape)
        if input.dim() not in (dims - 1, dims):
            raise ValueError(
                f"input has {input.dim()} dimensions, shape {shape}; it needs {dims} "
                f"({', '.join((*batched, 'I', '...'))}) or, unbatched, {dims - 1} "
                f"({', '.join((*alone, 'I', '...'))})"
            )
        before = batched if input.dim() == dims else alone
        if shape[len(before)] != self.input_channels:
            axes = (*before, str(self.input_channels), *"DHW"[3 - self.spatial_dims :])
            raise ValueError(
                f"input has {shape[len(before)]} channels, shape {shape}; it needs {self.input_channels}: "
                f"({', '.join(axes)})"
            )
        return before is batched

    def parameters_of_op(self) -> ops.Layer:
        """weight_ih, weight_hh, bias, and weight_ch or bias_hn, as the ops take them."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the sizes, and what differs from the defaults."""
        kernel = self.kernel_size[0] if len(set(self.kernel_size)) == 1 else self.kernel_size
        parts = [f"{self.input_channels}, {self.hidden_channels}, kernel_size={kernel}"]
        if self.bias is None:
            parts.append("bias=False")
        if self.spatial_dims != 2:
            parts.append(f"spatial_dims={self.spatial_dims}")
        return ", ".join(parts + self._options_repr())

    def _options_repr(self) -> list[str]:
        return []


class ConvRecurrent(Savable):
    """A stack of cells run over time, in one direction or both."""

    cell_type: type[ConvCell]

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        **cell_options: Any,
    ):
        super().__init__()
        num_layers = positive("num_layers", num_layers)
        if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout is {dropout!r}; it needs a probability, 0 to 1")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} does nothing with num_layers=1: it acts between layers", stacklevel=3
            )
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        # Cell number layer * D + direction; the second direction reads time backwards.
        self.cells = nn.ModuleList(
            self.cell_type(
                input_channels if layer == 0 else hidden_channels * directions,
                hidden_channels,
                kernel_size,
                bias,
                **cell_options,
            )
            for layer in range(num_layers)
            for _ in range(directions)
        )

    @property
    def input_channels(self) -> int:
        """I, the channels of a frame."""
        return self._cell(0).input_channels

    @property
    def hidden_channels(self) -> int:
        """C, the channels of a state."""
        return self._cell(0).hidden_channels

    def _cell(self, number: int) -> ConvCell:
        cell = self.cells[number]
        assert isinstance(cell, ConvCell)
        return cell

    def arguments(self) -> dict[str, Any]:
        """Return what the layer is built from: every argument of its constructor but device and dtype."""
        own, cell = ("num_layers", "batch_first", "dropout", "bidirectional"), self._cell(0)
        values = {name: getattr(self if name in own else cell, name) for name in self.constructor()}
        return values | {"bias": cell.bias is not None}

    def example(self) -> str:
        """Return how the layer is called, for the card."""
        axes = ("B", "T") if self.batch_first else ("T", "B")
        sizes = ", ".join((*axes, str(self.input_channels), *"DHW"[3 - self._cell(0).spatial_dims :]))
        return f"output, state = model(frames)  # frames: ({sizes})"

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for number in range(len(self.cells)):
            self._cell(number).reset_parameters()

    def _run(
        self,
        input: Tensor,
        states: tuple[Tensor, ...] | None,
        lengths: Tensor | Sequence[int] | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the stack; states and last states are (D * L, B, C, *S) each, unbatched without the B."""
        input, batched = self._time_first(input)  # (T, B, I, *S)
        steps = ops.check_lengths(lengths, input)
        names = [f"{name}_0" for name in self.cell_type.states]
        if states is not None:
            batch = input.shape[1:2] if batched else ()
            shape = (len(self.cells), *batch, self.hidden_channels, *input.shape[3:])
            for name, state in zip(names, states, strict=True):
                ops.check_state(name, state, shape, input.device)
            if not batched:
                states = tuple(s.unsqueeze(1) for s in states)  # (D * L, 1, C, *S)
        if self._in_one_op(input):
            output, last_states = self._run_at_once(input, states, steps)
            stacked = tuple(torch.stack(s) for s in zip(*last_states, strict=True))
            return self._as_given(output, stacked, batched)
        last_states: list[tuple[Tensor, ...]] = []
        directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                number = layer * directions + direction
                first = [None for _ in names] if states is None else [s[number] for s in states]
                frames = _reverse(input, steps) if direction else input
                output, *last = self._cell(number).sequence(frames, *first, lengths=steps)
                outputs.append(_reverse(output, steps) if direction else output)
                last_states.append(tuple(last))
            input = torch.cat(outputs, dim=2) if self.bidirectional else outputs[0]  # (T, B, D * C, *S)
            if self.dropout and layer < self.num_layers - 1:
                # What is dropped goes by the order in memory, which differs between implementations.
                input = F.dropout(input.contiguous(), self.dropout, self.training)
        stacked = tuple(torch.stack(s) for s in zip(*last_states, strict=True))  # (D * L, B, C, *S)
        return self._as_given(input, stacked, batched)

    def _as_given(
        self, output: Tensor, last_states: tuple[Tensor, ...], batched: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The results with the axes that the input came with, and their memory in the order of the axes."""
        # As of torch.nn's layers. Channels come last in what the fused ops return.
        output, last_states = output.contiguous(), tuple(s.contiguous() for s in last_states)
        if not batched:
            return output.squeeze(1), tuple(s.squeeze(1) for s in last_states)
        return (output.transpose(0, 1) if self.batch_first else output), last_states

    def _in_one_op(self, input: Tensor) -> bool:
        """Whether the whole stack runs as one fused op: nothing happens between its layers."""
        cell = self._cell(0)
        between = self.bidirectional or (self.dropout and self.training and self.num_layers > 1)
        if between or cell.kind is None or self.num_layers == 1:
            return False
        return ops.is_fused(input.device, ops.compute_dtype(cell.weight_hh))

    def _run_at_once(
        self, input: Tensor, states: tuple[Tensor, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """What the loop over layers does, in one op."""
        cells = [self._cell(number) for number in range(self.num_layers)]
        count = len(self.cell_type.states)
        first: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * self.num_layers
        if states is not None:
            first = [(states[0][n], states[1][n] if count == 2 else None) for n in range(self.num_layers)]
        layers, kind = [cell.parameters_of_op() for cell in cells], str(cells[0].kind)
        output, last = ops.stack(kind, input, first, layers, lengths, recompute=cells[0].recompute)
        return output, [pair[:count] for pair in last]

    def _time_first(self, input: Tensor) -> tuple[Tensor, bool]:
        """Return the input as (T, B, I, *S), and whether it came in batches."""
        order = ("B", "T") if self.batch_first else ("T", "B")
        if not self._cell(0).check_input(input, batched=order, alone=("T",)):
            return input.unsqueeze(1), False  # (T, 1, I, *S)
        return (input.transpose(0, 1) if self.batch_first else input), True

    def extra_repr(self) -> str:
        """Show what differs from the defaults; the cells show the sizes."""
        options = {
            "num_layers": (self.num_layers, 1),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
        }
        return ", ".join(f"{name}={value}" for name, (value, default) in options.items() if value != default)


def _reverse(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, ...) with time reversed, each sequence within its length."""
    if lengths is None:
        return sequence.flip(0)
    time = torch.arange(len(sequence), device=lengths.device)[:, None]  # (T, 1)
    source = torch.where(time < lengths, lengths - 1 - time, time)  # (T, B)
    return sequence[source, torch.arange(len(lengths), device=lengths.device)]
