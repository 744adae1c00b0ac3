"""Compare an imported model with what the foreign one computed."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from convlstm.importers.foreign import Imported
from convlstm.nn.base import ConvCell

AXES = "btcdhw"  # in our order: batch, time, channels, then space
TOLERANCE = 1e-5
"""Largest difference that rounding explains, relative to the largest value, or to 1."""


def check(imported: Imported, input: np.ndarray, output: np.ndarray) -> float:
    """Return the largest difference from what the foreign model computed.

    Args:
        imported: the model and its layouts.
        input: in the layout of the foreign model; whole numbers of 8 bits are scaled to [0, 1].
        output: what the foreign model gave, in its own layout.

    Raises:
        ValueError: arrays of other axes, sizes or types; or a difference above what rounding explains.
    """
    cell = next(module for module in imported.model.modules() if isinstance(module, ConvCell))
    frames = _to_ours("input", input, imported.input_layout, cell)
    expected = _to_ours("output", output, imported.output_layout, cell)
    if "t" not in imported.input_layout:
        frames = frames.unsqueeze(1)  # (B, 1, C, *S)
    with torch.no_grad():
        horizon = (expected.shape[1],) if imported.forecasts else ()
        result = imported.model(frames, *horizon)
    result = result[0] if isinstance(result, tuple) else result
    if result.shape != expected.shape:
        raise ValueError(
            f"the model gives {tuple(result.shape)} of this input, the output has {tuple(expected.shape)}, "
            f"in the axes {' '.join(_ours(imported.output_layout))}"
        )
    if not expected.isfinite().all():
        raise ValueError("output has values that are not finite; nothing can be compared with them")
    difference = float((result - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ValueError(
            f"the model differs from the output by {difference:.2g}, more than rounding explains: what was "
            "guessed or said of it is wrong, or the arrays are of another model"
        )
    return difference


def _to_ours(name: str, array: np.ndarray, layout: str, cell: ConvCell) -> Tensor:
    """Return an array in our order of the axes and a cell's type; vectors as frames of one pixel."""
    if array.ndim != len(layout.split()):
        raise ValueError(f"{name} has shape {array.shape}; the foreign model's has axes {layout}")
    if array.dtype == np.uint8:
        array = array / np.float32(255)
    if array.dtype.newbyteorder("=") not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} has type {array.dtype}; it needs floating numbers, or 8 bits for pixels")
    tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))).to(cell.weight_hh.dtype)
    ours = rearrange(tensor, f"{layout} -> {' '.join(_ours(layout))}")
    return ours if set(layout) & set("dhw") else ours.reshape(*ours.shape, *(1,) * cell.spatial_dims)


def _ours(layout: str) -> list[str]:
    return [axis for axis in AXES if axis in layout]
