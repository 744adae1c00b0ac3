"""The base classes of the cells and of the layers: sizes, parameters, stacking, directions, states.

Letters: T time, B batch, I input channels, C hidden channels, L layers, D directions (1 or 2), K kernel taps
per axis, S the spatial axes: (W), (H, W) or (D, H, W).
"""

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_tensor, finite, positive
from convlstm.core.saving import Savable


class ConvCell(nn.Module):
    """The base of the cells: parameters, their initialization, and one step as a sequence of one."""

    gates: int
    gates_hh: int | None = None
    """How many of the gates read h, None for all."""
    kind: str | None = None
    """The fused op's name for this cell, or None if it has none."""
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
        rows_hh = (self.gates_hh or self.gates) * self.hidden_channels
        self.register_parameter("weight_hh", parameter(rows_hh, self.hidden_channels, *self.kernel_size))
        self.register_parameter("bias", parameter(rows) if bias else None)

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-a, a) with a = 1 / sqrt(C * taps), as torch.nn.LSTM at one tap."""
        bound = 1 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        with torch.no_grad():
            for parameter in self.parameters(recurse=False):
                parameter.uniform_(-bound, bound)

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over a sequence.

        Args:
            input: (T, B, I, *S).
            states: (B, C, *S) each, None for zeros.
            lengths: (B,), the steps of each sequence, None for T.

        Returns:
            The outputs (T, B, C, *S), zeros past the lengths, then the last states, (B, C, *S) each.
        """
        raise NotImplementedError

    def _step(self, input: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
        """Run one step on (B, I, *S), or (I, *S) unbatched; return the new states."""
        if self.check_input(input, ("B",), ()):
            return tuple(s.contiguous() for s in self.sequence(input.unsqueeze(0), *states)[1:])
        shape = (self.hidden_channels, *input.shape[1:])
        for name, state in zip(self.states, states, strict=True):
            if state is not None:
                ops.check_state(f"{name}0", state, shape, input.device)
        states = tuple(None if s is None else s.unsqueeze(0) for s in states)  # (1, C, *S) each
        return tuple(s.squeeze(0) for s in self.sequence(input[None, None], *states)[1:])

    def check_input(self, input: Tensor, batched: tuple[str, ...], unbatched: tuple[str, ...]) -> bool:
        """Return whether an input has a batch axis; raise ValueError if it does not fit.

        Args:
            input: the user's input.
            batched: the axes before the channels with a batch axis, in the user's order, such as ("B", "T").
            unbatched: the axes before the channels without a batch axis, such as ("T",).
        """
        check_tensor("input", input)
        dims, shape = len(batched) + 1 + self.spatial_dims, tuple(input.shape)
        if input.dim() not in (dims - 1, dims):
            raise ValueError(
                f"input has {input.dim()} dimensions, shape {shape}; it needs {dims} "
                f"({', '.join((*batched, 'I', '...'))}) or, unbatched, {dims - 1} "
                f"({', '.join((*unbatched, 'I', '...'))})"
            )
        before = batched if input.dim() == dims else unbatched
        if shape[len(before)] != self.input_channels:
            axes = (*before, str(self.input_channels), *"DHW"[3 - self.spatial_dims :])
            raise ValueError(
                f"input has {shape[len(before)]} channels, shape {shape}; it needs {self.input_channels}: "
                f"({', '.join(axes)})"
            )
        return before is batched

    def parameters_of_op(self) -> ops.Layer:
        """Return weight_ih, weight_hh, bias, and weight_ch or bias_hn."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return the sizes, and the options that differ from their defaults."""
        kernel = self.kernel_size[0] if len(set(self.kernel_size)) == 1 else self.kernel_size
        sizes = f"{self.input_channels}, {self.hidden_channels}, kernel_size={kernel}"
        return ", ".join([sizes, *([] if self.bias is not None else ["bias=False"]), *_changed_options(self)])


class ConvRecurrent(Savable):
    """The base of the layers: a stack of cells run over time, in one direction or both."""

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
        if isinstance(hidden_channels, tuple | list):
            raise ValueError(
                f"hidden_channels is {hidden_channels!r}; it needs one number, the width of all layers. For "
                "several widths call one layer after another; StackedForecaster, a network, takes several"
            )
        num_layers = positive("num_layers", num_layers)
        dropout = finite("dropout", dropout, least=0, most=1)
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} does nothing with num_layers=1: it acts between layers", stacklevel=3
            )
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        # Cell number layer * D + direction; the second direction reads time backward.
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
        first = self._cell(0)
        self.input_channels, self.hidden_channels = first.input_channels, first.hidden_channels

    def _cell(self, number: int) -> ConvCell:
        cell = self.cells[number]
        assert isinstance(cell, ConvCell)
        return cell

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the layer's constructor, without device and dtype."""
        own, cell = ("num_layers", "batch_first", "dropout", "bidirectional"), self._cell(0)
        values = {name: getattr(self if name in own else cell, name) for name in self.constructor()}
        return values | {"bias": cell.bias is not None}

    def example(self) -> str:
        """Return a line of code that calls the layer, for the model card."""
        axes = ("B", "T") if self.batch_first else ("T", "B")
        sizes = ", ".join((*axes, str(self.input_channels), *"DHW"[3 - self._cell(0).spatial_dims :]))
        return f"output, state = model(frames)  # frames: ({sizes})"

    def reset_parameters(self) -> None:
        """Initialize all parameters of all cells."""
        for number in range(len(self.cells)):
            self._cell(number).reset_parameters()

    def _run(
        self,
        input: Tensor,
        states: tuple[Tensor, ...] | None,
        lengths: Tensor | Sequence[int] | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the stack; states and last states are (D * L, B, C, *S) each, unbatched without the B."""
        batched = self._cell(0).check_input(input, ("B", "T") if self.batch_first else ("T", "B"), ("T",))
        if not batched:
            input = input.unsqueeze(1)  # (T, 1, I, *S)
        elif self.batch_first:
            input = input.transpose(0, 1)  # (T, B, I, *S)
        steps = ops.check_lengths(lengths, input)
        names = [f"{name}_0" for name in self.cell_type.states]
        if states is not None:
            batch = input.shape[1:2] if batched else ()
            shape = (len(self.cells), *batch, self.hidden_channels, *input.shape[3:])
            for name, state in zip(names, states, strict=True):
                ops.check_state(name, state, shape, input.device)
            if not batched:
                states = tuple(s.unsqueeze(1) for s in states)  # (D * L, 1, C, *S)
        if self._is_one_op(input):
            output, last_states = self._run_in_one_op(input, states, steps)
        else:
            output, last_states = self._run_layer_by_layer(input, states, steps)
        # As in torch.nn's layers, memory is in the order of the axes: the fused op returns channels last.
        output = output.contiguous()
        last = tuple(torch.stack(s).contiguous() for s in zip(*last_states, strict=True))  # (D * L, B, C, *S)
        if not batched:
            return output.squeeze(1), tuple(s.squeeze(1) for s in last)
        return (output.transpose(0, 1) if self.batch_first else output), last

    def _run_layer_by_layer(
        self, input: Tensor, states: tuple[Tensor, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Run one cell after the other; return the outputs (T, B, D * C, *S) and each cell's last states."""
        last_states: list[tuple[Tensor, ...]] = []
        directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                number = layer * directions + direction
                first = (
                    [None for _ in self.cell_type.states] if states is None else [s[number] for s in states]
                )
                frames = _reverse(input, lengths) if direction else input
                output, *last = self._cell(number).sequence(frames, *first, lengths=lengths)
                outputs.append(_reverse(output, lengths) if direction else output)
                last_states.append(tuple(last))
            input = torch.cat(outputs, dim=2) if self.bidirectional else outputs[0]  # (T, B, D * C, *S)
            if self.dropout and layer < self.num_layers - 1:
                # Dropout draws in the order of memory, which differs between implementations.
                input = F.dropout(input.contiguous(), self.dropout, self.training)
        return input, last_states

    def _is_one_op(self, input: Tensor) -> bool:
        """Return whether the stack runs as one fused op: if nothing happens between its layers."""
        cell = self._cell(0)
        between = self.bidirectional or (self.dropout and self.training and self.num_layers > 1)
        if between or cell.kind is None or self.num_layers == 1:
            return False
        return ops.is_fused(input.device, ops.compute_dtype(cell.weight_hh))

    def _run_in_one_op(
        self, input: Tensor, states: tuple[Tensor, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Do what `_run_layer_by_layer` does, in one fused op."""
        cells = [self._cell(number) for number in range(self.num_layers)]
        count = len(self.cell_type.states)
        first: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * self.num_layers
        if states is not None:
            first = [(states[0][n], states[1][n] if count == 2 else None) for n in range(self.num_layers)]
        layers, kind = [cell.parameters_of_op() for cell in cells], str(cells[0].kind)
        output, last = ops.stack(kind, input, first, layers, lengths, recompute=cells[0].recompute)
        return output, [pair[:count] for pair in last]

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults; the cells show the sizes."""
        return ", ".join(_changed_options(self))


def _changed_options(module: nn.Module) -> list[str]:
    """Return the constructor's arguments whose attributes differ from the defaults."""
    defaults = {name: p.default for name, p in inspect.signature(type(module)).parameters.items()}
    options = {name: value for name, value in vars(module).items() if name in defaults}
    return [
        f"{name}={options[name]!r}"
        for name, default in defaults.items()
        if default is not inspect.Parameter.empty and options.get(name, default) != default
    ]


def _reverse(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (T, B, ...) with time reversed, each sequence within its length."""
    if lengths is None:
        return sequence.flip(0)
    time = torch.arange(len(sequence), device=lengths.device)[:, None]  # (T, 1)
    source = torch.where(time < lengths, lengths - 1 - time, time)  # (T, B)
    return sequence[source, torch.arange(len(lengths), device=lengths.device)]
