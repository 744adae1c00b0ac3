"""A forecast by a stack that reads its own predictions, as one op.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes, K kernel taps per axis.
"""

from torch import Tensor

from convlstm.ops import fused
from convlstm.ops.checks import compute_dtype


def forecast(
    kind: str,
    input: Tensor,
    layers: list[fused.Layer],
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
        kind: "lstm", "gru" or "gru_before" (reset_after=False).
        input: (T, B, I, *S) with T = steps if read_given is there, else T = given.
        layers: per layer weight_ih, weight_hh, bias, and weight_ch or bias_hn, as for `convlstm.ops`.
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
    options = {"given": given, "steps": steps, "first": first, "sigmoid": sigmoid}
    dtype = compute_dtype(head[0])
    return fused.forecast(kind, input, layers, head, read_given, dtype=dtype, **options)
