"""The pointwise part of the GRU's step in torch's operations: the definition, for any device and type.

Letters: N rows (a row is a pixel of a frame), C hidden channels. All arguments are rows of channels. The
arithmetic is in float32, or in float64 for float64.
"""

import torch
from torch import Tensor

from convlstm.ops.layout import wide_type


def gru_forward(
    x_gates: Tensor, h_gates: Tensor, bias_hn: Tensor, h: Tensor, saved: Tensor | None, copies: list[Tensor]
) -> None:
    """Compute a step from what its two convolutions gave (reset_after=True).

    Args:
        x_gates: (N, 3C), the input's convolution with its bias, in the order r, z, n.
        h_gates: (N, 3C), the hidden state's convolution.
        bias_hn: (C,), the bias inside the reset gate's product.
        h: (N, C), the hidden state before the step; overwritten with the new one.
        saved: (N, 4C), where r, z, n and what r multiplies go, or None.
        copies: (N, C) each, where the new hidden state goes, too.
    """
    x_r, x_z, x_n = _wide(x_gates).chunk(3, dim=-1)
    h_r, h_z, h_n = _wide(h_gates).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    m = h_n + _wide(bias_hn)
    n = torch.tanh(x_n + r * m)
    if saved is not None:
        saved.copy_(torch.cat([r, z, n, m], dim=-1))
    h.copy_((1 - z) * n + z * h)
    for copy in copies:
        copy.copy_(h)


def gru_backward(
    saved: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor, d_x_gates: Tensor, d_h_gates: Tensor
) -> None:
    """Compute the gradients of `gru_forward`.

    Args:
        saved: (N, 4C), as saved.
        h: (N, C), the hidden state before the step.
        dh: (N, C) each, none or more, parts of the gradient of the new hidden state.
        carried: (N, C), float32 or float64, the rest of it; overwritten with that part of the gradient of the
            hidden state before which does not come through the convolution.
        d_x_gates: (N, 3C), where the gradient of `x_gates` goes.
        d_h_gates: (N, 3C), where the gradient of `h_gates` goes.
    """
    r, z, n, m = _wide(saved).chunk(4, dim=-1)
    total = sum(dh, start=carried)
    d_z, d_n = total * (h - n) * z * (1 - z), total * (1 - z) * (1 - n * n)
    carried.copy_(total * z)
    d_r = d_n * m * r * (1 - r)
    d_x_gates.copy_(torch.cat([d_r, d_z, d_n], dim=-1))
    d_h_gates.copy_(torch.cat([d_r, d_z, d_n * r], dim=-1))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(wide_type(tensor))
