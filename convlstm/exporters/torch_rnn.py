"""Layers and cells with a 1x1 kernel as the state dicts of torch.nn.RNN, LSTM, GRU and their cells."""

import io

import torch
from torch import Tensor, nn

from convlstm.nn.base import ConvCell
from convlstm.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from convlstm.nn.layers import ConvGRU, ConvLSTM, ConvRNN


def torch_file(model: nn.Module) -> bytes:
    """Return the bytes of a .pt file with the state dict of the torch.nn module that computes the same."""
    buffer = io.BytesIO()
    torch.save(_state_dict(model), buffer)
    return buffer.getvalue()


def _state_dict(model: nn.Module) -> dict[str, Tensor]:
    if isinstance(model, ConvRNNCell | ConvLSTMCell | ConvGRUCell):
        return _tensors(model, "")
    if not isinstance(model, ConvRNN | ConvLSTM | ConvGRU):
        raise ValueError(
            f"model is a {type(model).__name__}; torch.nn has layers for a ConvRNN, ConvLSTM or ConvGRU, and "
            "cells for their cells"
        )
    tensors, directions = {}, ("", "_reverse") if model.bidirectional else ("",)
    for number, cell in enumerate(model.cells):
        assert isinstance(cell, ConvCell)
        layer, direction = divmod(number, len(directions))
        tensors |= _tensors(cell, f"_l{layer}{directions[direction]}")
    return tensors


def _tensors(cell: ConvCell, end: str) -> dict[str, Tensor]:
    """Return one cell's weights by their names in torch.nn; `end` is such as "_l0_reverse"."""
    if set(cell.kernel_size) != {1}:
        taps = "x".join(map(str, cell.kernel_size))
        raise ValueError(f"model has a kernel of {taps}; torch.nn's layers need a kernel of 1")
    if cell.weight_ih is None:
        raise ValueError("model has input_channels=0; torch.nn's layers need an input")
    if isinstance(cell, ConvLSTMCell) and cell.weight_ch is not None:
        raise ValueError("model has peepholes; torch.nn.LSTM has none")
    if isinstance(cell, ConvGRUCell) and not cell.reset_after:
        raise ValueError("model has reset_after=False; torch.nn.GRU resets after the recurrent product")
    tensors = {
        f"weight_ih{end}": cell.weight_ih.flatten(1),  # (rows, I, 1, ...) -> (rows, I)
        f"weight_hh{end}": cell.weight_hh.flatten(1),
    }
    if cell.bias is not None:
        bias_hh = torch.zeros_like(cell.bias)
        if isinstance(cell, ConvGRUCell) and cell.bias_hn is not None:
            bias_hh[2 * cell.hidden_channels :] = cell.bias_hn  # of the n gate, inside r * ( )
        tensors |= {f"bias_ih{end}": cell.bias, f"bias_hh{end}": bias_hh}
    # Copies, because a storage that tensors share would be written whole.
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
