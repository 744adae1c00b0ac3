"""torch.nn.RNN, LSTM, GRU and their cells, modules or files, as convolutional ones with a 1x1 kernel."""

from typing import Any

import torch
from torch import nn

from convlstm.importers.building import load, numbered
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.nn.base import ConvCell, ConvRecurrent
from convlstm.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from convlstm.nn.layers import ConvGRU, ConvLSTM, ConvRNN

_LAYERS = {nn.RNN: ConvRNN, nn.LSTM: ConvLSTM, nn.GRU: ConvGRU}
_CELLS = {nn.RNNCell: ConvRNNCell, nn.LSTMCell: ConvLSTMCell, nn.GRUCell: ConvGRUCell}
# By the rows of weight_hh per hidden unit: a layer and its gates.
_KINDS = {1: (nn.RNN, "none"), 3: (nn.GRU, "r, z, n"), 4: (nn.LSTM, "i, f, g, o")}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def from_torch(module: nn.RNNBase | nn.RNNCellBase, *, spatial_dims: int = 2) -> ConvRecurrent | ConvCell:
    """Convert a torch.nn.RNN, LSTM or GRU, or one of their cells, to a convolutional one with a 1x1 kernel.

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
            are computed from others, as weight normalization does.

    Example:
        >>> layer = convlstm.from_torch(torch.nn.LSTM(3, 8, num_layers=2))
        >>> output, (h_n, c_n) = layer(torch.rand(10, 4, 3, 16, 16))  # the LSTM on each pixel
        >>> output.shape
        torch.Size([10, 4, 8, 16, 16])
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


def convert(foreign: Foreign) -> Imported:
    """Return a batch-first ConvRNN, ConvLSTM or ConvGRU with a 1x1 kernel; of a cell, one of one layer."""
    tensors, end = foreign.tensors, _end(foreign)
    if end == "":
        tensors, end = {f"{name}_l0": tensor for name, tensor in tensors.items()}, "_l0"
    if end is None:  # where the user named the source
        raise ValueError("weight_ih_l0 and weight_hh_l0 are missing, or a cell's weight_ih and weight_hh")
    if projection := next((name for name in tensors if name.startswith("weight_hr_l")), None):
        raise ValueError(f"{projection} is in the file: an LSTM with a proj_size cannot be expressed")
    weight_ih, weight_hh = (tensors[name + end] for name in ("weight_ih", "weight_hh"))
    inputs, hidden = weight_ih.shape[1], weight_hh.shape[1]
    gates, rest = divmod(len(weight_hh), hidden) if hidden else (0, 0)
    if rest or gates not in _KINDS or not inputs:
        raise ValueError(
            f"weight_ih{end} has shape {tuple(weight_ih.shape)} and weight_hh{end} {tuple(weight_hh.shape)}; "
            "they need (n H, I) and (n H, H), n of 1 (RNN), 3 (GRU) or 4 (LSTM)"
        )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or dtypes.isdisjoint(_DTYPES):
        found = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"the file's tensors are of {found}; they need one real floating type")
    layer, order = _KINDS[gates]
    options: dict[str, Any] = {"bias": f"bias_ih{end}" in tensors, "dtype": weight_ih.dtype}
    if layer is nn.RNN:
        options["nonlinearity"] = foreign.option("nonlinearity", ("tanh", "relu"), "an RNN may have either")
    spatial_dims = foreign.options.get("spatial_dims", 2)
    if spatial_dims not in (1, 2, 3):
        raise ValueError(f"spatial_dims is {spatial_dims!r}; it needs 1, 2 or 3")
    options["num_layers"] = len(numbered(tensors, "weight_ih_l", ""))
    options["bidirectional"] = f"weight_ih{end}_reverse" in tensors
    options["batch_first"] = True
    module = layer(inputs, hidden, device="meta", **options).to_empty(device="cpu")
    load(module, tensors)
    model = from_torch(module, spatial_dims=spatial_dims)
    assert isinstance(model, ConvRecurrent)
    time_first = not foreign.flag("batch_first", default=True)
    layout = "t b c" if time_first else "b t c"
    return Imported(
        model,
        source=f"torch.nn.{type(module).__name__}",
        layers=(f"{type(model).__name__} {inputs} -> {hidden}, {model.extra_repr()}",),
        gates=order,
        input_layout=layout,
        output_layout=layout,
        guesses=() if "batch_first" in foreign.options else ("the input has its batch first",),
    )


def _end(foreign: Foreign) -> str | None:
    """Return what the names of the first weights end in: "_l0" in a layer, nothing in a cell; or None."""
    for end in ("_l0", ""):
        weights = [foreign.tensors.get(name + end) for name in ("weight_ih", "weight_hh")]
        if all(weight is not None and weight.dim() == 2 for weight in weights):
            return end
    return None


SOURCE = Source(
    "torch",
    lambda foreign: _end(foreign) is not None,
    convert,
    {
        "nonlinearity": "tanh or relu; needed of an RNN",
        "spatial_dims": "spatial axes of the frames that the model is to read: 1, 2 (default) or 3",
        "batch_first": "False where the module was built so: only its input's layout depends on it",
    },
)
