"""A forecast by a stack that reads its own predictions, as one op.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes, K kernel taps per axis.
"""

import torch
from torch import Tensor

from convlstm.ops import fused
from convlstm.ops.checks import compute_dtype


def forecast(
    input: Tensor,
    layers: list[tuple[Tensor | None, ...]],
    head: tuple[Tensor, Tensor],
    read_given: Tensor | None = None,
    *,
    given: int,
    steps: int,
    first: int = 0,
    sigmoid: bool = False,
) -> Tensor:
    """Predict the next input again and again, reading the given ones first and then the predictions.

        y_t = W (h_(1,t), ..., h_(L,t)) + b, after a sigmoid if so asked
        x_t = input_t for t < given and where read_given says so, else y_(t-1)

    All of it is one op with one gradient per weight, where a loop of single steps would make one per step.
    It does what `StackedForecaster` does frame by frame, the definition that it is tested against.

    Args:
        input: (T, B, I, *S) with T = steps if read_given is there, else T = given.
        layers: per LSTM layer weight_ih, weight_hh, bias and weight_ch, as for `convlstm.ops.lstm`.
        head: weight (I, C_1 + ... + C_L, 1, ...) and bias (I,) of the 1x1 convolution over all states.
        read_given: bool (steps - given, B), where a step after the given ones reads input and not the
            prediction; None (default): nowhere.
        given: inputs that are read in any case, 1 or more.
        steps: time steps in all.
        first: the first step whose prediction is returned, below `given` (default 0).
        sigmoid: whether a sigmoid follows the head (default False).

    Returns:
        The predictions (steps - first, B, I, *S), in the type that the op computes in.
    """
    dtype = compute_dtype(head[0])
    wide = torch.promote_types(dtype, torch.float32)
    cast = [[*fused.cast(dtype, ih, hh, bias), *fused.cast(wide, ch)] for ih, hh, bias, ch in layers]
    weight, bias = (tensor.to(dtype) for tensor in head)
    options = {"given": given, "steps": steps, "first": first, "sigmoid": sigmoid}
    return fused.forecast(input.to(dtype), cast, (weight, bias), read_given, **options)
