"""The cells: the parameters of one step, and the step itself.

Letters: B batch, I input channels, C hidden channels, K kernel taps per axis, S the spatial axes.
"""

import math

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_single, check_states, choice, finite, positive
from convlstm.nn.base import ConvCell
from convlstm.ops import checks, reference

__all__ = ["ConvGRUCell", "ConvLSTMCell", "ConvRNNCell", "SpatiotemporalLSTMCell"]


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
        h, c = self._step(input, *(check_states(hx, self.states) or (None, None)))
        return h, c


class SpatiotemporalLSTMCell(ConvCell):
    """A spatiotemporal LSTM cell, the cell of PredRNN: one step, with the interface of `torch.nn.LSTMCell`.

    It computes::

        i = sigmoid(W_ii * x + W_hi * h + b_i)      i' = sigmoid(W'_ii * x + W_mi * m + b'_i)
        f = sigmoid(W_if * x + W_hf * h + b_f)      f' = sigmoid(W'_if * x + W_mf * m + b'_f)
        g = tanh   (W_ig * x + W_hg * h + b_g)      g' = tanh   (W'_ig * x + W_mg * m + b'_g)
        c' = f . c + i . g                          m' = f' . m + i' . g'
        o = sigmoid(W_io * x + W_ho * h + W_co * [c', m'] + b_o)
        h' = o . tanh(W_last * [c', m'])

    where `*` is a convolution that keeps the frame size (1x1 for W_last), a dot an elementwise product and
    [c', m'] has the channels of both. The memory m, with the gates i', f' and g', is a second cell state. A
    network hands it from cell to cell: within a step from the lowest to the highest, which therefore have
    the same C, then to the lowest of the next step. There is no layer of this cell. It has
    7C ((I + C) K + 1) + 2C^2 (K + 1) parameters, for kernels of K taps. Source: Wang et al. 2017, "PredRNN:
    Recurrent Neural Networks for Predictive Learning using Spatiotemporal LSTMs".

    Args:
        input_channels: I, the channels of a frame; 0 for no input convolution, as for the layers.
        hidden_channels: C, the channels of each state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        bias: add a bias per gate and channel. Default: True.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        forget_bias: added to b_f and b'_f at initialization, with a bias. Default: 1.0.
        recompute: compute the gates again in the backward pass: less memory, more time. Default: False.
        device, dtype: of the parameters.

    Inputs:
        input: `(B, I, *S)`, or `(I, *S)` unbatched, with B the batch and S the spatial axes (H, W in 2D).
        hx: the states (h, c, m), each `(B, C, *S)` or `(C, *S)`. Default: zeros.

    Outputs:
        (h', c', m'): the new states, of the same shape. h' has the type of the convolutions (autocast's), c'
            and m' are float32 (float64 for float64).

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> lower = convlstm.SpatiotemporalLSTMCell(1, 8, kernel_size=3)
        >>> upper = convlstm.SpatiotemporalLSTMCell(8, 8, kernel_size=3)
        >>> h1 = c1 = h2 = c2 = m = torch.zeros(4, 8, 16, 16)
        >>> for frame in torch.rand(10, 4, 1, 16, 16):
        ...     h1, c1, m = lower(frame, (h1, c1, m))
        ...     h2, c2, m = upper(h1, (h2, c2, m))
        >>> h2.shape
        torch.Size([4, 8, 16, 16])
    """

    gates = 7
    gates_hh = 4
    kind = "st-lstm"
    states = ("h", "c", "m")

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        spatial_dims: int = 2,
        forget_bias: float = 1.0,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_channels, hidden_channels, kernel_size, bias, spatial_dims, device, dtype)
        C, kernel, one = self.hidden_channels, self.kernel_size, (1,) * self.spatial_dims
        self.weight_mm = nn.Parameter(torch.empty(3 * C, C, *kernel, device=device, dtype=dtype))
        self.weight_co = nn.Parameter(torch.empty(C, 2 * C, *kernel, device=device, dtype=dtype))
        self.weight_last = nn.Parameter(torch.empty(C, 2 * C, *one, device=device, dtype=dtype))
        self.forget_bias = finite("forget_bias", forget_bias)
        self.recompute = recompute
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all parameters: the biases of f and f' with `forget_bias` added.

        weight_co and weight_last are drawn from U(-a, a) with a = 1 / sqrt(2C taps), as torch.nn's
        convolutions, for the number of taps of each.
        """
        super().reset_parameters()
        with torch.no_grad():
            for weight in (self.weight_co, self.weight_last):
                bound = 1 / math.sqrt(weight[0].numel())
                weight.uniform_(-bound, bound)
            if self.bias is not None:
                _, f, _, _, _, f_m, _ = self.bias.chunk(7)
                f.add_(self.forget_bias)
                f_m.add_(self.forget_bias)

    def sequence(
        self, input: Tensor, *states: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run over `(T, B, I, *S)` from h0, c0 and m0; see `ConvCell.sequence`."""
        checks.check_st_lstm_parameters(*self.parameters_of_op())
        h0, c0, m0 = states
        input, lengths = ops._check(input, self.weight_ih, self.weight_hh, lengths, h0=h0, c0=c0, m0=m0)
        dtype = ops.compute_dtype(self.weight_hh)
        wide = torch.promote_types(dtype, torch.float32)
        h = ops._state(h0, input, self.weight_hh, dtype)
        c, m = (ops._state(state, input, self.weight_hh, wide) for state in (c0, m0))
        outputs, *last = reference.st_lstm(input, h, c, m, *self.parameters_of_op(), lengths, self.recompute)
        return ops._zero_past(outputs, lengths), *last

    def parameters_of_op(  # pyright: ignore[reportIncompatibleMethodOverride] (no layer reads them)
        self,
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Return weight_ih, weight_hh, bias, weight_mm, weight_co and weight_last."""
        return self.weight_ih, self.weight_hh, self.bias, self.weight_mm, self.weight_co, self.weight_last

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make one step; return the new states h, c and m."""
        h, c, m = self._step(input, *(check_states(hx, self.states) or (None, None, None)))
        return h, c, m


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
