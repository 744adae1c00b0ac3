"""ConvRNNCell, ConvLSTMCell and ConvGRUCell: the parameters of one step, and the step itself.

Letters: B batch, I input channels, C hidden channels, K kernel taps per axis, S the spatial axes.
"""

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_pair, check_single, choice, finite, positive
from convlstm.nn.base import ConvCell

__all__ = ["ConvGRUCell", "ConvLSTMCell", "ConvRNNCell"]


class ConvRNNCell(ConvCell):
    """A convolutional Elman cell: one step, with the interface of `torch.nn.RNNCell`.

    It computes::

        h' = tanh(W_ih * x + W_hh * h + b)

    where `*` is a convolution that keeps the frame size. The cell has C ((I + C) K + 1) parameters, for
    kernels of K taps. Source: Elman 1990, "Finding Structure in Time", with convolutions for products.

    Args:
        input_channels: I, the channels of a frame; 0 for no input convolution, as for the layers.
        hidden_channels: C, the channels of the state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        bias: add a bias per channel. Default: True.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        nonlinearity: "tanh" or "relu". Default: "tanh".
        device, dtype: of the parameters.

    Inputs:
        input: `(B, I, *S)`, or `(I, *S)` unbatched, with B the batch and S the spatial axes (H, W in 2D).
        hx: the state, `(B, C, *S)` or `(C, *S)`. Default: zeros.

    Outputs:
        h': the new state, of the same shape.

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> cell = convlstm.ConvRNNCell(1, 8, kernel_size=3)
        >>> h = cell(torch.rand(4, 1, 16, 16))
        >>> h.shape
        torch.Size([4, 8, 16, 16])
    """

    gates = 1

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        spatial_dims: int = 2,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_channels, hidden_channels, kernel_size, bias, spatial_dims, device, dtype)
        self.nonlinearity = choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.reset_parameters()

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over `(T, B, I, *S)` from h0; see `ConvCell.sequence`."""
        (h0,) = states
        return ops.rnn(input, h0, self.weight_ih, self.weight_hh, self.bias, self.nonlinearity, lengths)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Make one step; return the new state."""
        return self._step(input, *(check_single(hx) or (None,)))[0]


class ConvLSTMCell(ConvCell):
    """A convolutional LSTM cell: one step, with the interface of `torch.nn.LSTMCell`.

    It computes::

        i = sigmoid(W_ii * x + W_hi * h + w_ci . c  + b_i)
        f = sigmoid(W_if * x + W_hf * h + w_cf . c  + b_f)
        g = tanh   (W_ig * x + W_hg * h             + b_g)
        c' = f . c + i . g
        o = sigmoid(W_io * x + W_ho * h + w_co . c' + b_o)
        h' = o . tanh(c')

    where `*` is a convolution that keeps the frame size and a dot an elementwise product. Without peepholes
    the cell has 4C ((I + C) K + 1) parameters, for kernels of K taps. Source: Shi et al. 2015, "Convolutional
    LSTM Network", equation 3.

    Args:
        input_channels: I, the channels of a frame; 0 for no input convolution, as for the layers.
        hidden_channels: C, the channels of the state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        bias: add a bias per gate and channel. Default: True.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        peephole: None for no w_c, "channel" for one weight per channel, or a frame size `(H, W)` for one per
            channel and pixel, which fits frames of that size only. Peepholes start at zero. Default: None.
        forget_bias: added to b_f at initialization (Jozefowicz et al. 2015), with a bias. Default: 1.0.
        recompute: compute the gates again in the backward pass: less memory, more time. Default: False.
        device, dtype: of the parameters.

    Inputs:
        input: `(B, I, *S)`, or `(I, *S)` unbatched, with B the batch and S the spatial axes (H, W in 2D).
        hx: the pair of states (h, c), each `(B, C, *S)` or `(C, *S)`. Default: zeros.

    Outputs:
        (h', c'): the new states, of the same shape. h' has the type of the convolutions (autocast's), c' is
            float32 (float64 for float64).

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> cell = convlstm.ConvLSTMCell(1, 8, kernel_size=3)
        >>> h, c = cell(torch.rand(4, 1, 16, 16))
        >>> h, c = cell(torch.rand(4, 1, 16, 16), (h, c))  # the next frame
        >>> h.shape, c.shape
        (torch.Size([4, 8, 16, 16]), torch.Size([4, 8, 16, 16]))
    """

    gates = 4
    kind = "lstm"
    states = ("h", "c")
    weight_ch: nn.Parameter | None

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        spatial_dims: int = 2,
        peephole: str | tuple[int, ...] | None = None,
        forget_bias: float = 1.0,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_channels, hidden_channels, kernel_size, bias, spatial_dims, device, dtype)
        if peephole is None:
            self.register_parameter("weight_ch", None)
        else:
            rows = 3 * self.hidden_channels
            frame = _peephole_frame(peephole, self.spatial_dims)
            self.weight_ch = nn.Parameter(torch.empty(rows, *frame, device=device, dtype=dtype))
            peephole = peephole if peephole == "channel" else frame
        self.peephole = peephole
        self.forget_bias = finite("forget_bias", forget_bias)
        self.recompute = recompute
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all parameters: peepholes with zeros, the bias of f with `forget_bias` added."""
        super().reset_parameters()
        with torch.no_grad():
            if self.weight_ch is not None:
                self.weight_ch.zero_()
            if self.bias is not None:
                self.bias.chunk(4)[1].add_(self.forget_bias)

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over `(T, B, I, *S)` from h0 and c0; see `ConvCell.sequence`."""
        h0, c0 = states
        return ops.lstm(input, h0, c0, *self.parameters_of_op(), lengths, recompute=self.recompute)

    def parameters_of_op(self) -> ops.Layer:
        """Return weight_ih, weight_hh, bias and weight_ch."""
        return self.weight_ih, self.weight_hh, self.bias, self.weight_ch

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Make one step; return the new states h and c."""
        h, c = self._step(input, *(check_pair(hx) or (None, None)))
        return h, c


class ConvGRUCell(ConvCell):
    """A convolutional GRU cell: one step, with the interface of `torch.nn.GRUCell`.

    It computes::

        r = sigmoid(W_ir * x + W_hr * h + b_r)
        z = sigmoid(W_iz * x + W_hz * h + b_z)
        n = tanh(W_in * x + b_n + r . (W_hn * h + b_hn))     reset_after=True, as torch.nn.GRU
        n = tanh(W_in * x + b_n + W_hn * (r . h))            reset_after=False, as most ConvGRU papers
        h' = (1 - z) . n + z . h

    where `*` is a convolution that keeps the frame size and a dot an elementwise product. The cell has
    3C ((I + C) K + 1) parameters, for kernels of K taps, and C more for b_hn. Sources: Cho et al. 2014;
    Ballas et al. 2016, "Delving Deeper into Convolutional Networks for Learning Video Representations".

    Args:
        input_channels: I, the channels of a frame; 0 for no input convolution, as for the layers.
        hidden_channels: C, the channels of the state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        bias: add a bias per gate and channel. Default: True.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        reset_after: apply the reset gate after the recurrent convolution, or before it. Only the former has
            a fused implementation. Default: True.
        recompute: compute the gates again in the backward pass: less memory, more time. Default: False.
        device, dtype: of the parameters.

    Inputs:
        input: `(B, I, *S)`, or `(I, *S)` unbatched, with B the batch and S the spatial axes (H, W in 2D).
        hx: the state, `(B, C, *S)` or `(C, *S)`. Default: zeros.

    Outputs:
        h': the new state, of the same shape.

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> cell = convlstm.ConvGRUCell(1, 8, kernel_size=3)
        >>> h = cell(torch.rand(4, 1, 16, 16))
        >>> h.shape
        torch.Size([4, 8, 16, 16])
    """

    gates = 3
    bias_hn: nn.Parameter | None

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        spatial_dims: int = 2,
        reset_after: bool = True,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_channels, hidden_channels, kernel_size, bias, spatial_dims, device, dtype)
        if bias and reset_after:
            self.bias_hn = nn.Parameter(torch.empty(self.hidden_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias_hn", None)
        self.reset_after = reset_after
        self.recompute = recompute
        self.kind = "gru" if reset_after else None
        self.reset_parameters()

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over `(T, B, I, *S)` from h0; see `ConvCell.sequence`."""
        (h0,) = states
        options = {"lengths": lengths, "recompute": self.recompute}
        return ops.gru(input, h0, *self.parameters_of_op(), self.reset_after, **options)

    def parameters_of_op(self) -> ops.Layer:
        """Return weight_ih, weight_hh, bias and bias_hn."""
        return self.weight_ih, self.weight_hh, self.bias, self.bias_hn

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Make one step; return the new state."""
        return self._step(input, *(check_single(hx) or (None,)))[0]


def _peephole_frame(peephole: str | tuple[int, ...], spatial_dims: int) -> tuple[int, ...]:
    """Return the trailing sizes of weight_ch: ones for "channel", else the frame size."""
    if peephole == "channel":
        return (1,) * spatial_dims
    if not isinstance(peephole, tuple | list) or len(peephole) != spatial_dims:
        raise ValueError(
            f"peephole is {peephole!r}; it needs None, 'channel' or a frame size of {spatial_dims} numbers"
        )
    return tuple(positive("peephole", size) for size in peephole)
