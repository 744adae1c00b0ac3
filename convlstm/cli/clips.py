"""Clips on the command line: the options that say what they are and how they are read."""

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from convlstm.clips import ClipSource

__all__ = ["add_clips", "source_from"]


def add_clips(command: argparse.ArgumentParser) -> None:
    """Add `clips` and its options to a command, for `source_from`."""
    command.add_argument(
        "clips",
        type=Path,
        help="a video (MP4, AVI, MOV, WebM), a GIF, an array (.npy, .npz, HDF5), a folder of frames (PNG, "
        "JPEG, PGM, TIFF), or a folder of any of these",
    )
    command.add_argument(
        "--layout",
        metavar="AXES",
        help="axes of an array, such as NTHW or TNHW (default: guessed from its shape)",
    )
    command.add_argument(
        "--variable",
        metavar="NAME",
        help="name of the array in a .npz or HDF5 file (default: the only one of 3 or more axes)",
    )
    command.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width in pixels that frames are scaled and cropped to (default: as they are)",
    )
    command.add_argument(
        "--stored",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="stored integers that mean black and white (default: those that the network was trained with, "
        "or else the full range, 0 to 255 for 8 bits, 0 to 65535 for 16)",
    )
    command.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="physical values of black (0) and white (1), such as 0 60; float clips are taken to hold "
        "physical values (default: those that the network was trained with, or else 0 1)",
    )
    command.add_argument(
        "--unit", help="unit of the physical values, such as mm/h (default: that of the training, if any)"
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="fail on an unreadable or too short file in a folder instead of skipping it",
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
        first: see `ClipSource`.
        held_out: see `ClipSource`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `ClipSource`.
        ImportError: see `read_clips`.
    """
    _take_values(options, config)
    channels = getattr(getattr(model, "config", None), "channels", None)
    clips = ClipSource(
        options.clips,
        length,
        layout=options.layout,
        variable=options.variable,
        channels=channels if channels in (1, 3) else None,  # some imported networks have others
        size=options.size,
        stored=options.stored,
        value_range=options.value_range or (0.0, 1.0),
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
    names = [name for name in ("stored", "value_range", "unit") if data.get(name)]
    names = [name for name in names if getattr(options, name) is None]
    words = []
    for name in names:
        value = data[name]
        setattr(options, name, value)
        shown = " to ".join(f"{end:g}" for end in value) if isinstance(value, list | tuple) else value
        words.append(f"{name.replace('_', '-')} {shown}")
    if words:
        print(f"Values as in training: {', '.join(words)}.")
