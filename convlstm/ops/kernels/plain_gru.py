"""The pointwise parts of the GRU in torch's own operations, computed in float32, or float64 for float64.

Letters: N rows (a row is a pixel of a frame), C hidden channels. All arguments are rows of channels.
"""

import torch
from torch import Tensor


def gru_forward(
    of_x: Tensor, of_h: Tensor, bias_hn: Tensor, h: Tensor, saved: Tensor | None, copies: list[Tensor]
) -> None:
    """The step after the convolutions, where the reset gate comes after the recurrent one.

    Args:
        of_x: (N, 3C), what the convolution of the input gave, in the order r, z, n.
        of_h: (N, 3C), what the convolution of the hidden state gave.
        bias_hn: (C,), the bias inside the reset gate's product.
        h: (N, C), the hidden state before the step; overwritten with the new one.
        saved: (N, 4C), where r, z, n and what r multiplies go, or None.
        copies: (N, C) each, where else the new hidden state goes.
    """
    x_r, x_z, x_n = _wide(of_x).chunk(3, dim=-1)
    h_r, h_z, h_n = _wide(of_h).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    m = h_n + _wide(bias_hn)
    n = torch.tanh(x_n + r * m)
    if saved is not None:
        saved.copy_(torch.cat([r, z, n, m], dim=-1))
    _mix(z, n, h, copies)


def gru_backward(
    saved: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor, d_of_x: Tensor, d_of_h: Tensor
) -> None:
    """The gradients of `gru_forward`.

    Args:
        saved: (N, 4C), as saved.
        h: (N, C), the hidden state before the step.
        dh: (N, C) each, none or more, parts of the gradient of the new hidden state.
        carried: (N, C), float32 or float64, the rest of it; overwritten with that part of the gradient of the
            hidden state before which does not come through the convolution.
        d_of_x: (N, 3C), where the gradient of what the convolution of the input gave goes.
        d_of_h: (N, 3C), where that of the hidden state's goes.
    """
    r, z, n, m = _wide(saved).chunk(4, dim=-1)
    d_z, d_n = _unmix(z, n, h, dh, carried)
    d_r = d_n * m * r * (1 - r)
    d_of_x.copy_(torch.cat([d_r, d_z, d_n], dim=-1))
    d_of_h.copy_(torch.cat([d_r, d_z, d_n * r], dim=-1))


def gru_gates_forward(gates: Tensor, h: Tensor, saved: Tensor | None, reset: Tensor) -> None:
    """The gates, where the reset gate comes before the recurrent convolution.

    Args:
        gates: (N, 2C), what the convolutions gave, in the order r, z; overwritten.
        h: (N, C), the hidden state before the step.
        saved: (N, 2C), where r and z go; None: to `gates`.
        reset: (N, C), where r . h goes.
    """
    both = torch.sigmoid(_wide(gates))
    (gates if saved is None else saved).copy_(both)
    reset.copy_(both.chunk(2, dim=-1)[0] * h)


def gru_new_forward(new: Tensor, z: Tensor, h: Tensor, saved: Tensor | None, copies: list[Tensor]) -> None:
    """The new hidden state, where the reset gate comes before the recurrent convolution.

    Args:
        new: (N, C), what the convolutions gave for n; overwritten.
        z: (N, C).
        h: (N, C), the hidden state before the step; overwritten with the new one.
        saved: (N, C), where n goes, or None.
        copies: (N, C) each, where else the new hidden state goes.
    """
    n = torch.tanh(_wide(new))
    if saved is not None:
        saved.copy_(n)
    _mix(_wide(z), n, h, copies)


def gru_new_backward(
    saved: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor, d_z: Tensor, d_n: Tensor
) -> None:
    """The gradients of `gru_new_forward`.

    Args:
        saved: (N, 3C), r, z and n.
        h: (N, C), the hidden state before the step.
        dh: (N, C) each, none or more, parts of the gradient of the new hidden state.
        carried: (N, C), float32 or float64, the rest of it; overwritten with what z carries of it to the
            hidden state before.
        d_z: (N, C), where the gradient of what the convolutions gave for z goes.
        d_n: (N, C), where that for n goes.
    """
    _, z, n = _wide(saved).chunk(3, dim=-1)
    of_z, of_n = _unmix(z, n, h, dh, carried)
    d_z.copy_(of_z)
    d_n.copy_(of_n)


def gru_gates_backward(
    saved: Tensor, h: Tensor, d_reset: Tensor, carried: Tensor, d_r: Tensor, reset: Tensor
) -> None:
    """The gradients of r . h.

    Args:
        saved: (N, 3C), r, z and n.
        h: (N, C), the hidden state before the step.
        d_reset: (N, C), the gradient of r . h.
        carried: (N, C), float32 or float64, to which is added what r lets through to the hidden state before.
        d_r: (N, C), where the gradient of what the convolutions gave for r goes.
        reset: (N, C), where r . h goes once more.
    """
    r = _wide(saved).chunk(3, dim=-1)[0]
    d_r.copy_(r * (1 - r) * d_reset * h)
    reset.copy_(r * h)
    carried += d_reset * r


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mix(z: Tensor, n: Tensor, h: Tensor, copies: list[Tensor]) -> None:
    """The new hidden state, in place of the one before, and wherever it is copied to."""
    h.copy_((1 - z) * n + z * h)
    for copy in copies:
        copy.copy_(h)


def _unmix(z: Tensor, n: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of z and n before their functions; `carried` goes one step back."""
    total = sum(dh, start=carried)
    d_z, d_n = total * (h - n) * z * (1 - z), total * (1 - z) * (1 - n * n)
    carried.copy_(total * z)
    return d_z, d_n
