"""The settings of a run: checked, kept in config.json, read back, compared with what is asked for later."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch

from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import ForecasterConfig, config_from_dict, config_to_dict

T = TypeVar("T")


def check_range(settings: Any, names: str, fits: Callable[[Any], bool], needs: str) -> None:
    """Raise ValueError unless every named attribute fits.

    Args:
        settings: the object whose attributes they are.
        names: of the attributes, separated by spaces.
        fits: whether a value will do.
        needs: the values that would do, in words.
    """
    for name in names.split():
        value = getattr(settings, name)
        try:
            good = fits(value)
        except TypeError:  # a string in a file, say, where a number belongs
            good = False
        if not good:
            raise ValueError(f"{name} is {value!r}; it needs {needs}")


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Return a dataclass of settings as JSON values, nested ones and a network's config included."""

    def value(setting: Any) -> Any:
        if isinstance(setting, ForecasterConfig):
            return config_to_dict(setting)
        if dataclasses.is_dataclass(setting):
            return settings_to_dict(setting)
        return str(setting) if isinstance(setting, Path) else setting

    return {field.name: value(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def settings_from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Return the dataclass of settings that `settings_to_dict` made a dict of.

    Raises:
        ValueError: a setting that does not fit.
    """
    hints, settings = get_type_hints(kind), {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"settings have {name!r}, which {kind.__name__} does not know")
        if isinstance(value, dict) and "network" in value:
            settings[name] = config_from_dict(value)
        elif isinstance(value, dict):
            settings[name] = settings_from_dict(hints[name], value)
        else:
            settings[name] = _from_json(hints[name], value)
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"settings do not fit {kind.__name__}: {error}") from error


def _from_json(hint: Any, value: Any) -> Any:
    """Return a value as the type that JSON has none for: a path or a tuple."""
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    is_tuple = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    return tuple(value) if isinstance(value, list) and is_tuple else value


def provenance(settings: Any) -> dict[str, Any]:
    """Return the settings, the command and the versions that a run is made with, for its config.json."""
    return {
        "training": settings_to_dict(settings),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": versions(),
    }


def resumed(notes: Mapping[str, Any], settings: Any, step: int) -> dict[str, Any]:
    """Return the notes that a run's config.json goes on with: its own, and from where and how it goes on.

    Args:
        notes: what config.json holds.
        settings: those that it goes on with.
        step: optimizer steps done.
    """
    kept = {name: note for name, note in notes.items() if name not in ("network", "step", "validation")}
    return kept | {"resumed": [*notes.get("resumed", []), {"step": step, **provenance(settings)}]}


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def settings_of(kind: type[T], run: Path) -> T:
    """Return the settings that a run was made with, as `provenance` noted them.

    Raises:
        FileNotFoundError: no such run.
        ValueError: a checkpoint that was saved without settings, or settings that do not fit.
    """
    values = read_config(run).get("training")
    if not isinstance(values, dict):
        raise ValueError(
            f"{run} has no training settings: this checkpoint was not written by train.py; give a run of it"
        )
    try:
        return settings_from_dict(kind, values)
    except ValueError as error:
        raise ValueError(f"the settings in {run} do not fit: {error}") from error


def parse_settings(
    arguments: list[str],
    kind: type[T],
    presets: Mapping[str, T],
    description: str | None,
    mend: Callable[[Path], object] = lambda run: None,
) -> T:
    """Read a command line with a setting an option, whose defaults are those of a preset or of a stored run.

    Args:
        arguments: of the command line.
        kind: the dataclass of settings, with the fields preset, resume and score.
        presets: by name, "default" among them.
        description: for --help.
        mend: called with the run that is to be resumed, before its settings are read.

    Raises:
        SystemExit: an argument that does not fit, after the reason on stderr; or --help.
        FileNotFoundError: see `settings_of`.
        ValueError: see `settings_of`.
    """
    import tyro  # slow to import, and needed by scripts alone

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(presets), default="default")
    first.add_argument("--resume", type=Path)
    first.add_argument("--score", type=Path)
    known = first.parse_known_args(arguments)[0]
    if known.resume:
        mend(known.resume)
    run = known.resume or known.score
    default = settings_of(kind, run) if run else presets[known.preset]
    # Without subcommands the kind of network is the preset's, and its settings are plain options.
    options = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(kind, description=description, args=arguments, default=default, config=options)


def require_same(settings: Any, stored: Any, option: str, free: str) -> None:
    """Raise ValueError if settings differ from a run's stored ones in more than the free ones.

    Args:
        settings: what is asked for.
        stored: what the run was made with.
        option: the setting that named the run, which may differ, too.
        free: names of those that may differ, separated by spaces, such as "device data.root".
    """
    asked, kept = _flat(settings_to_dict(settings)), _flat(settings_to_dict(stored))
    differing = {name for name in asked.keys() | kept.keys() if asked.get(name) != kept.get(name)}
    refused = sorted(differing - {option, *free.split()})
    if refused:
        raise ValueError(
            f"{option}: a run keeps its own settings, but {', '.join(refused)} was given; "
            f"what may be given with --{option}: {free}"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
