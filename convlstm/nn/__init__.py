"""Cells and layers, with the interface of torch.nn's: convolutional RNN, LSTM and GRU."""

from convlstm.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell, SpatiotemporalLSTMCell
from convlstm.nn.layers import ConvGRU, ConvLSTM, ConvRNN

__all__ = [
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvRNN",
    "ConvRNNCell",
    "SpatiotemporalLSTMCell",
]
