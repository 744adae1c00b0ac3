"""Clips on the command line: the options that say what they are and how they are read."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.video.reading import guess_layout, read_clips
from convlstm.video.sources import ClipSource

__all__ = ["add_clips", "read_from", "source_from"]


def add_clips(command: argparse.ArgumentParser, *, physical: bool = False) -> None:
    """Add `clips` and its options to a command, for `read_from`; with `physical`, for `source_from`."""
    command.add_argument(
        "clips",
        type=Path,
        help="a film (MP4, AVI, MOV, WebM), a GIF, an array (.npy, .npz, HDF5), a folder of frames (PNG, "
        "JPEG, PGM, TIFF), or a folder of any of these",
    )
    command.add_argument(
        "--layout", help="axes of an array, such as NTHW or TNHW (default: guessed from its shape)"
    )
    command.add_argument("--variable", help="the array's name in a .npz or HDF5 file (default: the only one)")
    command.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="scale and centre-crop frames (default: as is)"
    )
    command.add_argument(
        "--stored",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="stored values that become 0 and 1 (default: 0 and 255 of 8 bits, 65535 of 16)",
    )
    if physical:
        command.add_argument(
            "--value-range",
            type=float,
            nargs=2,
            metavar=("LOW", "HIGH"),
            help="physical values that 0 and 1 stand for, such as 0 60; floats are taken for such "
            "(default: 0 1; --stored, --value-range and --unit: those that the network was trained with)",
        )
        command.add_argument("--unit", help="of the physical values, such as mm/h")
        command.add_argument(
            "--strict",
            action="store_true",
            help="stop at a file of a folder that cannot be read or is too short; otherwise it is named and "
            "left out",
        )


def read_from(
    options: argparse.Namespace, channels: int | None, first: int | None = None, frames: int | None = None
) -> tuple[NDArray[np.float32], str | None]:
    """Read the clips that the options of `add_clips` name.

    Args:
        options: as parsed.
        channels: of the model, 1 or 3, to which the frames are converted; None to leave them.
        first: see `read_clips`.
        frames: see `read_clips`.

    Returns:
        float32 (N, T, C, H, W) in [0, 1], and the layout that an array was read as, None for other files.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_clips`; or a size or stored values that make no sense.
        ImportError: see `read_clips`.
    """
    _check(options)
    layout = guess_layout(options.clips, options.variable) if options.layout is None else options.layout
    clips = read_clips(
        options.clips,
        layout,
        first,
        frames=frames,
        variable=options.variable,
        channels=channels,
        size=_pair(options.size),
        stored=_pair(options.stored),
    )
    return clips, layout


def source_from(
    options: argparse.Namespace,
    channels: int | None,
    length: int,
    held_out: tuple[Path, Collection[str]] | None = None,
) -> ClipSource:
    """Return the clips that the options of `add_clips` with units name, read as they are asked for.

    Args:
        options: as parsed.
        channels: of the model, 1 or 3, to which the frames are converted; None to leave them.
        length: frames of each clip.
        held_out: see `ClipSource`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `ClipSource`; or a size, stored values or a range that make no sense.
        ImportError: see `read_clips`.
    """
    _check(options)
    low, high = (0.0, 1.0) if options.value_range is None else options.value_range
    if not (low < high and np.isfinite(high - low)):
        raise ValueError(f"--value-range is {low:g} {high:g}; it needs two finite numbers, the lower first")
    return ClipSource(
        options.clips,
        length,
        layout=options.layout,
        variable=options.variable,
        channels=channels,
        size=_pair(options.size),
        stored=_pair(options.stored),
        value_range=(low, high),
        unit=options.unit or "",
        strict=options.strict,
        held_out=held_out,
    )


def _pair(values: Any) -> Any:
    return None if values is None else (values[0], values[1])


def _check(options: argparse.Namespace) -> None:
    if options.size is not None and min(options.size) < 1:
        raise ValueError(f"--size is {options.size[0]} {options.size[1]}; it needs 1 pixel or more each")
    if options.stored is not None and (np.ptp(options.stored) == 0 or not np.isfinite(options.stored).all()):
        raise ValueError(f"--stored is {options.stored}; it needs two different finite numbers")
