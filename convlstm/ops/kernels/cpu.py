"""The pointwise parts of the fused ops on the CPU, float32 and bfloat16: one pass over memory each."""

from convlstm.ops.kernels.cpu_gru import gru_backward, gru_forward
from convlstm.ops.kernels.cpu_gru_before import (
    gru_gates_backward,
    gru_gates_forward,
    gru_new_backward,
    gru_new_forward,
)
from convlstm.ops.kernels.cpu_lstm import lstm_backward, lstm_forward

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
