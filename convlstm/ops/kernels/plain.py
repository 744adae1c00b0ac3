"""The pointwise parts of the fused ops in torch's own operations: for any device and type."""

from convlstm.ops.kernels.plain_gru import (
    gru_backward,
    gru_forward,
    gru_gates_backward,
    gru_gates_forward,
    gru_new_backward,
    gru_new_forward,
)
from convlstm.ops.kernels.plain_lstm import lstm_backward, lstm_forward

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
