"""ForeignLSTMCell: the ConvLSTM cells of other projects whose equations differ from `ConvLSTMCell`.

Letters: T time, B batch, I input channels, C hidden channels, K kernel taps per axis, S the spatial axes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.models.imported.stages import ACTIVATIONS, Convolution, Recurrent
from convlstm.nn.cells import ConvLSTMCell
from convlstm.ops.functional import conv_same

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stage: Recurrent | Convolution) -> Tensor:
    """Convolve frames with the stride, dilation and padding of a stage.

    With "same" padding, the result has ceil(size / stride) pixels per axis; an odd zero goes to the end.
    Source: TensorFlow's "SAME".
    """
    padding = 0 if isinstance(stage.padding, str) else stage.padding
    if stage.padding == "same":
        zeros: list[int] = []
        settings = stage.kernel_size, stage.stride, stage.dilation
        # F.pad wants the last axis first.
        for size, k, s, d in reversed(list(zip(x.shape[2:], *settings, strict=True))):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            zeros += [total // 2, total - total // 2]
        x = F.pad(x, zeros) if any(zeros) else x
    convolution = _CONVOLUTIONS[len(stage.kernel_size)]
    return convolution(x, weight, bias, stage.stride, padding, stage.dilation)


class ForeignLSTMCell(ConvLSTMCell):
    """A ConvLSTM cell with the activations, norms and padding of another project, run step by step.

        i, f, g, o = N(W_ih * x + W_hh * h + b)                      norm None or "group"
        i, f, g, o = N_ih(W_ih * x) + N_hh(W_hh * h) + b             norm "layer"
        c' = r(f + w_cf . c) . c + r(i + w_ci . c) . a(g)
        h' = r(o + w_co . c') . a(c')                                output "cell"
        h' = r(o + w_co . c') . a(g)                                 output "candidate"

    where a is `activation` and r is `recurrent_activation`. N is the identity or a group norm over the 4C
    gate channels; N_ih and N_hh are layer norms over (4C, *S). The input convolution may have a stride, a
    dilation and no padding. The recurrent convolution always keeps the frame size. Sources: the code of the
    projects that `convlstm.importers` reads (Keras, OpenSTL, jhhuang96 and sladewinter).

    Args:
        stage: the sizes and the variant.

    Raises:
        ValueError: the frames do not have the size that the peepholes or layer norms are for.
    """

    norm_weight: nn.Parameter
    norm_bias: nn.Parameter

    def __init__(self, stage: Recurrent):
        sizes = stage.input_channels, stage.hidden_channels, stage.kernel_size, stage.bias
        super().__init__(*sizes, spatial_dims=len(stage.kernel_size), peephole=stage.peephole)
        self.stage = stage
        norms = {"group": ("weight", "bias"), "layer": ("ih_weight", "ih_bias", "hh_weight", "hh_bias")}
        for name in norms[stage.norm] if stage.norm else ():
            parameter = nn.Parameter(torch.empty(4 * stage.hidden_channels, *(stage.frame or ())))
            self.register_parameter(f"norm_{name}", parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all parameters as `ConvLSTMCell` does, and the norms with ones and zeros."""
        super().reset_parameters()
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("norm"):
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over (T, B, I, *S) from h0 and c0; see `ConvCell.sequence`. There are no lengths."""
        assert lengths is None
        h, c = states
        outputs = []
        for x in input:
            h, c = self._one(x, h, c)
            outputs.append(h)
        assert h is not None
        assert c is not None
        return torch.stack(outputs), h, c

    def _one(self, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return h and c after one step from h and c, (B, C, *S) each; None stands for zeros."""
        stage = self.stage
        assert self.weight_ih is not None  # a stage has one input channel or more
        from_input = convolve(x, self.weight_ih, None, stage)  # (B, 4C, *S)
        if h is None or c is None:
            h = c = from_input.new_zeros(x.shape[0], self.hidden_channels, *from_input.shape[2:])
        recurrent = conv_same(h, self.weight_hh)
        if stage.norm == "layer":
            gates = self._layer_norm(from_input, "ih") + self._layer_norm(recurrent, "hh")
        else:
            gates = from_input + recurrent
        if self.bias is not None:
            gates = gates + self.bias.reshape(-1, *(1 for _ in x.shape[2:]))
        if stage.norm == "group":
            gates = F.group_norm(gates, stage.groups, self.norm_weight, self.norm_bias)
        i, f, g, o = gates.chunk(4, dim=1)  # (B, C, *S) each
        activation, gate = ACTIVATIONS[stage.activation], ACTIVATIONS[stage.recurrent_activation]
        peepholes = self._peepholes(h)
        if peepholes is not None:
            w_ci, w_cf, _ = peepholes
            i, f = i + w_ci * c, f + w_cf * c
        g = activation(g)
        c = gate(f) * c + gate(i) * g
        if peepholes is not None:
            o = o + peepholes[2] * c
        return gate(o) * (activation(c) if stage.output == "cell" else g), c

    def _layer_norm(self, x: Tensor, part: str) -> Tensor:
        weight, bias = getattr(self, f"norm_{part}_weight"), getattr(self, f"norm_{part}_bias")
        if x.shape[1:] != weight.shape:
            frame = tuple(weight.shape[1:])
            raise ValueError(f"frames of {tuple(x.shape[2:])} at a cell whose layer norms are for {frame}")
        return F.layer_norm(x, weight.shape, weight, bias)

    def _peepholes(self, h: Tensor) -> tuple[Tensor, ...] | None:
        if self.weight_ch is None:
            return None
        frame = tuple(self.weight_ch.shape[1:])
        if self.stage.peephole != "channel" and tuple(h.shape[2:]) != frame:
            raise ValueError(f"frames of {tuple(h.shape[2:])} at a cell whose peepholes are for {frame}")
        return self.weight_ch.chunk(3)  # (C, 1, ...) or (C, *S) each
