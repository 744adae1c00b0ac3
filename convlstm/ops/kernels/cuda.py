"""The pointwise parts of the fused ops on CUDA, float32, bfloat16 and float16: one pass over memory each."""

from convlstm.ops.kernels.cuda_lstm import lstm_backward, lstm_forward

__all__ = ["lstm_backward", "lstm_forward"]
