"""torch.nn.RNN, LSTM, GRU and their cells, as convolutional ones with a 1x1 kernel."""

from typing import Any

import torch
from torch import nn

from convlstm.base import ConvCell, ConvRecurrent
from convlstm.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from convlstm.layers import ConvGRU, ConvLSTM, ConvRNN

_LAYERS = {nn.RNN: ConvRNN, nn.LSTM: ConvLSTM, nn.GRU: ConvGRU}
_CELLS = {nn.RNNCell: ConvRNNCell, nn.LSTMCell: ConvLSTMCell, nn.GRUCell: ConvGRUCell}


def from_torch(module: nn.RNNBase | nn.RNNCellBase, *, spatial_dims: int = 2) -> ConvRecurrent | ConvCell:
    """Turn a torch.nn.RNN, LSTM or GRU, or a cell of theirs, into the same thing with a 1x1 kernel.

    On 1x1 frames the result computes what the module computes, and on H x W frames what the module computes
    on each pixel. Gate orders are the same on both sides (i, f, g, o and r, z, n). torch keeps two biases:
    they are added into one, but for the GRU's b_hn, which stands inside the reset gate's product.

    Args:
        module: the torch module; its weights are copied, its device, type and training mode kept, and
            frozen weights stay frozen (a bias if both of torch's are).
        spatial_dims: 1, 2 (default) or 3.

    Returns:
        A ConvRNN, ConvLSTM or ConvGRU for a layer, a ConvRNNCell, ConvLSTMCell or ConvGRUCell for a cell.

    Raises:
        TypeError: the module is none of these.
        ValueError: the module has a proj_size, which has no convolutional counterpart here, or weights that
            are computed from others, as weight normalisation does.
    """
    kind = next((type_ for type_ in (*_LAYERS, *_CELLS) if isinstance(module, type_)), None)
    if kind is None:
        known = ", ".join(f"torch.nn.{type_.__name__}" for type_ in (*_LAYERS, *_CELLS))
        raise TypeError(f"module is a {type(module).__name__}; from_torch converts {known}")
    if getattr(module, "proj_size", 0):
        raise ValueError(
            f"module has proj_size={module.proj_size}; a projected LSTM cannot be expressed: use proj_size=0"
        )
    options: dict[str, Any] = {"bias": module.bias, "spatial_dims": spatial_dims}
    if kind in (nn.RNN, nn.RNNCell):
        options["nonlinearity"] = module.nonlinearity
    parameters = dict(module.named_parameters())
    first = "weight_ih" if kind in _CELLS else "weight_ih_l0"
    weight = _parameter(parameters, first)
    options.update(device=weight.device, dtype=weight.dtype)
    if kind in _CELLS:
        cell = _CELLS[kind](module.input_size, module.hidden_size, 1, **options)
        _copy(cell, parameters)
        return cell.train(module.training)
    options.update(
        num_layers=module.num_layers,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
    )
    layer = _LAYERS[kind](module.input_size, module.hidden_size, 1, **options)
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    ends = [f"_l{number}{suffix}" for number in range(options["num_layers"]) for suffix in suffixes]
    for cell, end in zip(layer.cells, ends, strict=True):
        _copy(cell, parameters, end)
    return layer.train(module.training)


def _parameter(parameters: dict[str, nn.Parameter], name: str) -> nn.Parameter:
    if name not in parameters:
        raise ValueError(
            f"module has no parameter {name}, as where it is computed from others (weight_norm, "
            "parametrizations, pruning); fold them into it first: "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r}), or the remove function "
            "of what was applied"
        )
    return parameters[name]


@torch.no_grad()
def _copy(cell: nn.Module, parameters: dict[str, nn.Parameter], end: str = "") -> None:
    """Copy the torch parameters whose names end so (as in weight_ih_l0_reverse) into one cell."""
    assert isinstance(cell, ConvCell)
    own = dict(cell.named_parameters())
    for name in ("weight_ih", "weight_hh"):
        weight = _parameter(parameters, name + end)
        own[name].copy_(weight.reshape(own[name].shape))  # (rows, I) -> (rows, I, 1, ...)
        own[name].requires_grad_(weight.requires_grad)
    if "bias" not in own:
        return
    bias_ih, bias_hh = (_parameter(parameters, name + end) for name in ("bias_ih", "bias_hh"))
    outside = bias_hh.clone()  # (rows)
    if isinstance(cell, ConvGRUCell):
        n_gate = slice(2 * cell.hidden_channels, None)
        own["bias_hn"].copy_(outside[n_gate]).requires_grad_(bias_hh.requires_grad)
        outside[n_gate] = 0
    own["bias"].copy_(bias_ih + outside).requires_grad_(bias_ih.requires_grad or bias_hh.requires_grad)
