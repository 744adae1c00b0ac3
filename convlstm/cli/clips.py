"""Clips on the command line: the options that say what they are and how they are read."""

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from convlstm.clips.sources import ClipSource

__all__ = ["add_clips", "source_from"]


def add_clips(command: argparse.ArgumentParser) -> None:
    """Add `clips` and its options to a command, for `source_from`."""
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


def source_from(
    options: argparse.Namespace,
    model: nn.Module,
    config: Mapping[str, Any],
    length: int,
    *,
    first: int | None = None,
    held_out: tuple[Path, Collection[str]] | None = None,
) -> ClipSource:
    """Return the clips that the options of `add_clips` name, as the model takes them.

    What is taken from its training and what is left out is printed.

    Args:
        options: as parsed.
        model: to whose channels, if they are 1 or 3, the frames are converted.
        config: the config.json of its run, with the values that it was trained with; {} where there is none.
        length: frames of each clip, at least.
        first: see `ClipSource`, as the next.
        held_out: as there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `ClipSource`; or a size, stored values or a range that make no sense.
        ImportError: see `read_clips`.
    """
    _take_values(options, config)
    _check(options)
    low, high = (0.0, 1.0) if options.value_range is None else options.value_range
    if not (low < high and np.isfinite(high - low)):
        raise ValueError(f"--value-range is {low:g} {high:g}; it needs two finite numbers, the lower first")
    channels = getattr(getattr(model, "config", None), "channels", None)
    clips = ClipSource(
        options.clips,
        length,
        layout=options.layout,
        variable=options.variable,
        channels=channels if channels in (1, 3) else None,  # of imported networks, some have others
        size=_pair(options.size),
        stored=_pair(options.stored),
        value_range=(low, high),
        unit=options.unit or "",
        strict=options.strict,
        first=first,
        held_out=held_out,
    )
    if clips.report:
        print(f"{options.clips}: {clips.report}")
    return clips


def _take_values(options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Set what the options leave open to what the clips of the training meant, if it was of clips."""
    training = config.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    if not isinstance(data, dict) or not data.get("clips"):
        return
    # In other units than those trained on, every number would be wrong, and none would look so.
    taken = [name for name in ("stored", "value_range", "unit") if data.get(name)]
    taken = [name for name in taken if getattr(options, name) is None]
    for name in taken:
        setattr(options, name, data[name])
    if taken:
        words = (f"{name.replace('_', '-')} {_words(data[name])}" for name in taken)
        print(f"Values as in training: {', '.join(words)}.")


def _words(value: Any) -> str:
    return " to ".join(f"{end:g}" for end in value) if isinstance(value, list | tuple) else str(value)


def _pair(values: Any) -> Any:
    return None if values is None else (values[0], values[1])


def _check(options: argparse.Namespace) -> None:
    if options.size is not None and min(options.size) < 1:
        raise ValueError(f"--size is {options.size[0]} {options.size[1]}; it needs 1 pixel or more each")
    if options.stored is not None and (np.ptp(options.stored) == 0 or not np.isfinite(options.stored).all()):
        raise ValueError(f"--stored is {options.stored}; it needs two different finite numbers")
