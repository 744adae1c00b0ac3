"""The pointwise parts of the fused ops on CUDA, float32, bfloat16 and float16.

The GRU's are torch's own operations so far.
"""

from convlstm.ops.kernels.cuda_lstm import lstm_backward, lstm_forward
from convlstm.ops.kernels.plain_gru import (
    gru_backward,
    gru_forward,
    gru_gates_backward,
    gru_gates_forward,
    gru_new_backward,
    gru_new_forward,
)

__all__ = [
    "gru_backward",
    "gru_forward",
    "gru_gates_backward",
    "gru_gates_forward",
    "gru_new_backward",
    "gru_new_forward",
    "lstm_backward",
    "lstm_forward",
]
