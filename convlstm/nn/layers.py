"""ConvRNN, ConvLSTM and ConvGRU: stacked and bidirectional layers with the interface of torch.nn.LSTM.

Letters: T time, B batch, I input channels, C hidden channels, L layers, D directions (1 or 2), S the spatial
axes: (W), (H, W) or (D, H, W).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from convlstm.core.checks import check_single, check_states
from convlstm.core.registry import register_model
from convlstm.nn.base import ConvRecurrent
from convlstm.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell

__all__ = ["ConvGRU", "ConvLSTM", "ConvRNN"]


@register_model
class ConvRNN(ConvRecurrent):
    """A stacked convolutional Elman network over a sequence of frames, used like `torch.nn.RNN`.

    Each layer computes, at each step::

        h_t = tanh(W_ih * x_t + W_hh * h_(t-1) + b)

    where `*` is a convolution that keeps the frame size. With a 1x1 kernel and 1x1 frames it is
    `torch.nn.RNN` (`convlstm.from_torch` converts one).

    Letters in shapes: T time, B batch, S the spatial axes (H, W in 2D), D directions, 1 or 2.

    Args:
        input_channels: I, the channels of a frame. With 0 there is no input convolution; the input
            `(T, B, 0, *S)` only sets batch and frame size.
        hidden_channels: C, the channels of each layer's state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        num_layers: L, the number of layers; each reads the outputs of the one below. Default: 1.
        bias: add a bias per channel. Default: True.
        batch_first: take and return `(B, T, ...)` instead of `(T, B, ...)`, except states. Default: False.
        dropout: probability of zeroing a number between layers, in training. Default: 0.0.
        bidirectional: run each layer forward and backward in time and concatenate both. Default: False.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        nonlinearity: "tanh" or "relu". Default: "tanh".
        device, dtype: of the parameters.

    Inputs:
        input: `(T, B, I, *S)`, `(B, T, I, *S)` with batch_first, or `(T, I, *S)` unbatched.
        hx: the initial state `(D * L, B, C, *S)`, or `(D * L, C, *S)` unbatched. Default: zeros.
        lengths: `(B,)`, the steps of each sequence, as for `ConvLSTM`. Default: T for all.

    Outputs:
        output: `(T, B, D * C, *S)`, `(B, T, D * C, *S)` or `(T, D * C, *S)`, the states of the last layer.
        h_n: `(D * L, B, C, *S)` or `(D * L, C, *S)`, the last state of each layer and direction.

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> layer = convlstm.ConvRNN(1, 8, kernel_size=3, batch_first=True)
        >>> output, h_n = layer(torch.rand(4, 10, 1, 16, 16))
        >>> output.shape, h_n.shape
        (torch.Size([4, 10, 8, 16, 16]), torch.Size([1, 4, 8, 16, 16]))
    """

    cell_type = ConvRNNCell

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        spatial_dims: int = 2,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        sizes = (input_channels, hidden_channels, kernel_size)
        options = {"spatial_dims": spatial_dims, "nonlinearity": nonlinearity}
        where = {"device": device, "dtype": dtype}
        super().__init__(*sizes, num_layers, bias, batch_first, dropout, bidirectional, **options, **where)

    def forward(
        self, input: Tensor, hx: Tensor | None = None, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over a sequence; return the outputs and the last states."""
        output, (h_n,) = self._run(input, check_single(hx), lengths)
        return output, h_n


@register_model
class ConvLSTM(ConvRecurrent):
    """A stacked convolutional LSTM over a sequence of frames, used like `torch.nn.LSTM`.

    Each layer computes, at each step::

        i_t = sigmoid(W_ii * x_t + W_hi * h_(t-1) + w_ci . c_(t-1) + b_i)
        f_t = sigmoid(W_if * x_t + W_hf * h_(t-1) + w_cf . c_(t-1) + b_f)
        g_t = tanh   (W_ig * x_t + W_hg * h_(t-1)                  + b_g)
        c_t = f_t . c_(t-1) + i_t . g_t
        o_t = sigmoid(W_io * x_t + W_ho * h_(t-1) + w_co . c_t     + b_o)
        h_t = o_t . tanh(c_t)

    where `*` is a convolution that keeps the frame size and a dot an elementwise product. With a 1x1 kernel
    and 1x1 frames it is `torch.nn.LSTM` (`convlstm.from_torch` converts one). Source: Shi et al. 2015,
    "Convolutional LSTM Network", equation 3.

    Letters in shapes: T time, B batch, S the spatial axes (H, W in 2D), D directions, 1 or 2.

    Args:
        input_channels: I, the channels of a frame. With 0 there is no input convolution; the input
            `(T, B, 0, *S)` only sets batch and frame size.
        hidden_channels: C, the channels of each layer's state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        num_layers: L, the number of layers; each reads the outputs of the one below. Default: 1.
        bias: add a bias per gate and channel. Default: True.
        batch_first: take and return `(B, T, ...)` instead of `(T, B, ...)`, except states. Default: False.
        dropout: probability of zeroing a number between layers, in training. Default: 0.0.
        bidirectional: run each layer forward and backward in time and concatenate both. Default: False.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        peephole: None for no w_c, "channel" for one weight per channel, or a frame size `(H, W)` for one per
            channel and pixel, which fits frames of that size only. Peepholes start at zero. Default: None.
        forget_bias: added to b_f at initialization, if there is a bias. Default: 1.0.
        recompute: compute the gates again in the backward pass: less memory, more time. Default: False.
        device, dtype: of the parameters.

    Inputs:
        input: `(T, B, I, *S)`, `(B, T, I, *S)` with batch_first, or `(T, I, *S)` unbatched.
        hx: initial states (h_0, c_0), each `(D * L, B, C, *S)`, or `(D * L, C, *S)` unbatched. Default:
            zeros.
        lengths: `(B,)`, the steps of each sequence, 1 to T. Frames past a length are not read, outputs there
            are zero, the last states are those at the length, and the backward direction starts there. It
            takes the place of a PackedSequence. Default: T for all.

    Outputs:
        output: `(T, B, D * C, *S)`, `(B, T, D * C, *S)` or `(T, D * C, *S)`, the states h of the
            last layer.
        (h_n, c_n): each `(D * L, B, C, *S)` or `(D * L, C, *S)`, the last states of each layer and direction.
            h_n has the type of the convolutions (autocast's), c_n is float32 (float64 for float64).

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> layer = convlstm.ConvLSTM(1, 16, kernel_size=3, num_layers=2, batch_first=True)
        >>> output, (h_n, c_n) = layer(torch.rand(4, 10, 1, 32, 24))
        >>> output.shape, h_n.shape
        (torch.Size([4, 10, 16, 32, 24]), torch.Size([2, 4, 16, 32, 24]))
        >>> more = torch.rand(4, 5, 1, 32, 24)
        >>> output, (h_n, c_n) = layer(more, (h_n, c_n))  # from the state on
    """

    cell_type = ConvLSTMCell

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        spatial_dims: int = 2,
        peephole: str | tuple[int, ...] | None = None,
        forget_bias: float = 1.0,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        sizes = (input_channels, hidden_channels, kernel_size)
        options = {
            "spatial_dims": spatial_dims,
            "peephole": peephole,
            "forget_bias": forget_bias,
            "recompute": recompute,
        }
        where = {"device": device, "dtype": dtype}
        super().__init__(*sizes, num_layers, bias, batch_first, dropout, bidirectional, **options, **where)

    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over a sequence; return the outputs and the last states."""
        output, (h_n, c_n) = self._run(input, check_states(hx, self.cell_type.states), lengths)
        return output, (h_n, c_n)


@register_model
class ConvGRU(ConvRecurrent):
    """A stacked convolutional GRU over a sequence of frames, used like `torch.nn.GRU`.

    Each layer computes, at each step::

        r_t = sigmoid(W_ir * x_t + W_hr * h_(t-1) + b_r)
        z_t = sigmoid(W_iz * x_t + W_hz * h_(t-1) + b_z)
        n_t = tanh(W_in * x_t + b_n + r_t . (W_hn * h_(t-1) + b_hn))     reset_after=True
        n_t = tanh(W_in * x_t + b_n + W_hn * (r_t . h_(t-1)))            reset_after=False
        h_t = (1 - z_t) . n_t + z_t . h_(t-1)

    where `*` is a convolution that keeps the frame size and a dot an elementwise product. With a 1x1 kernel
    and 1x1 frames it is `torch.nn.GRU` (`convlstm.from_torch` converts one). Source: Ballas et al. 2016,
    "Delving Deeper into Convolutional Networks for Learning Video Representations".

    Letters in shapes: T time, B batch, S the spatial axes (H, W in 2D), D directions, 1 or 2.

    Args:
        input_channels: I, the channels of a frame. With 0 there is no input convolution; the input
            `(T, B, 0, *S)` only sets batch and frame size.
        hidden_channels: C, the channels of each layer's state.
        kernel_size: of the convolutions, one number or one per axis. Odd or even, the frame size is kept.
        num_layers: L, the number of layers; each reads the outputs of the one below. Default: 1.
        bias: add a bias per gate and channel. Default: True.
        batch_first: take and return `(B, T, ...)` instead of `(T, B, ...)`, except states. Default: False.
        dropout: probability of zeroing a number between layers, in training. Default: 0.0.
        bidirectional: run each layer forward and backward in time and concatenate both. Default: False.
        spatial_dims: number of spatial axes, 1 to 3. Default: 2.
        reset_after: apply the reset gate after the recurrent convolution, as torch.nn.GRU, or before it, as
            most ConvGRU papers. Only the former has a fused implementation. Default: True.
        recompute: compute the gates again in the backward pass: less memory, more time. Default: False.
        device, dtype: of the parameters.

    Inputs:
        input: `(T, B, I, *S)`, `(B, T, I, *S)` with batch_first, or `(T, I, *S)` unbatched.
        hx: the initial state `(D * L, B, C, *S)`, or `(D * L, C, *S)` unbatched. Default: zeros.
        lengths: `(B,)`, the steps of each sequence, as for `ConvLSTM`. Default: T for all.

    Outputs:
        output: `(T, B, D * C, *S)`, `(B, T, D * C, *S)` or `(T, D * C, *S)`, the states of the last layer.
        h_n: `(D * L, B, C, *S)` or `(D * L, C, *S)`, the last state of each layer and direction.

    Raises:
        ValueError: an argument, input or state does not fit.

    Example:
        >>> layer = convlstm.ConvGRU(3, 8, kernel_size=(3, 5), bidirectional=True)
        >>> output, h_n = layer(torch.rand(10, 4, 3, 16, 16))
        >>> output.shape, h_n.shape
        (torch.Size([10, 4, 16, 16, 16]), torch.Size([2, 4, 8, 16, 16]))
    """

    cell_type = ConvGRUCell

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, ...],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        spatial_dims: int = 2,
        reset_after: bool = True,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        sizes = (input_channels, hidden_channels, kernel_size)
        options = {"spatial_dims": spatial_dims, "reset_after": reset_after, "recompute": recompute}
        where = {"device": device, "dtype": dtype}
        super().__init__(*sizes, num_layers, bias, batch_first, dropout, bidirectional, **options, **where)

    def forward(
        self, input: Tensor, hx: Tensor | None = None, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over a sequence; return the outputs and the last states."""
        output, (h_n,) = self._run(input, check_single(hx), lengths)
        return output, h_n
