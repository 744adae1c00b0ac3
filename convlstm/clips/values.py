"""From stored values to pixels in [0, 1]."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["stored_range", "stored_values", "unit_range"]


def stored_range(name: object, kind: np.dtype) -> tuple[float, float]:
    """Return the stored values that 0 and 1 stand for if nothing else is said: the type's, [0, 1] of floats.

    Raises:
        ValueError: a type that has no such range, naming what holds it.
    """
    if kind.kind == "u" and kind.itemsize <= 2:
        return 0.0, float(np.iinfo(kind).max)
    if kind.kind in "bf":
        return 0.0, 1.0
    raise ValueError(f"{name} has values of type {kind}; it needs uint8, uint16, bool, or floats in [0, 1]")


def stored_values(
    kind: np.dtype, stored: tuple[float, float] | None, value_range: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the stored values for `unit_range`: those given, or of floats the physical ones if there are."""
    physical = kind.kind == "f" and tuple(value_range) != (0.0, 1.0)
    return value_range if stored is None and physical else stored


def unit_range(
    name: object, values: NDArray, stored: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Return values as float32 in [0, 1].

    Args:
        name: of the file, for errors.
        values: of any real type.
        stored: the values that become 0 and 1, what is beyond them clipped; None (default) for those of
            `stored_range`, beyond which floats are refused.

    Raises:
        ValueError: values that are no numbers or, without `stored`, of another type or out of [0, 1].
    """
    values = np.ascontiguousarray(values)
    kind = values.dtype
    low, high = stored_range(name, kind) if stored is None else stored
    if kind.kind not in "biuf":
        raise ValueError(f"{name} has values of type {kind}; it needs real numbers")
    if kind.kind == "f" and np.isnan(values).any():
        raise ValueError(
            f"{name} has values that are no numbers (nan); it needs floats"
            + (" in [0, 1]" if stored is None else ", such as 0 where nothing was measured")
        )
    if stored is None and kind.kind == "f" and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"{name} has values from {values.min():g} to {values.max():g}; scale floats to [0, 1], such as "
            "by dividing by 255, or save 8-bit pixels as uint8"
        )
    pixels = values.astype(np.float32)
    if (low, high) != (0.0, 1.0):
        pixels = (pixels - np.float32(low)) / np.float32(high - low)
    return pixels if stored is None else pixels.clip(0, 1)
