"""The settings of a run: checked, kept in config.json, read back, compared with what is asked for later."""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch

from convlstm.core.checks import choice, finite, positive
from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import config_from_dict, network_of
from convlstm.training.states import restore_settings

T = TypeVar("T")

MAY_CHANGE = {
    "resume": ("device", "compile", "accumulate", "recompute", "save_minutes"),
    "score": ("device", "bfloat16", "test_sequences", "data.digits", "data.root"),
}
"""Settings that may differ from a run's own, by the option that names the run."""
REMOVED = ("short_sequences", "small_frames")  # which earlier versions stored; at 0 they did nothing


def check_settings(settings: Any, most_sequences: int) -> None:
    """Raise ValueError if a setting of a run is out of range or does not go with another.

    Args:
        settings: `Config` of train.py.
        most_sequences: number of sequences in the validation set, and in the test set.
    """
    for name in ("context", "horizon", "steps", "batch_size", "accumulate", "validations"):
        positive(name, getattr(settings, name))
    for name in ("validation_sequences", "test_sequences"):
        positive(name, getattr(settings, name), most=most_sequences)
    positive("seed", settings.seed, least=-(2**63), most=2**64 - 1)
    finite("lr", settings.lr, above=0, most=1000)
    finite("clip_norm", settings.clip_norm, above=0)
    finite("save_minutes", settings.save_minutes, least=0)
    finite("weight_decay", settings.weight_decay, least=0, most=1000)
    if settings.minutes is not None:
        finite("minutes", settings.minutes, above=0, most=1e6)
    for name in ("warmup", "ema_decay"):
        if finite(name, getattr(settings, name), least=0, most=1) == 1:
            raise ValueError(f"{name} is 1; it needs 0 or more, below 1")
    finite("teacher_forcing", settings.teacher_forcing, least=0, most=1)
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal:
            choice(name, getattr(settings, name), get_args(hint))
    network = network_of(settings.model)
    if settings.teacher_forcing and not network.feedback:
        raise ValueError(
            f"teacher_forcing is {settings.teacher_forcing}, but {network.__name__} never reads its own "
            "predictions, nor true frames in their place; set it to 0"
        )
    if settings.loss == "cross-entropy" and settings.model.output != "sigmoid":
        raise ValueError(
            f"loss is cross-entropy, but model.output is {settings.model.output}, which gives no "
            "probabilities; pass --model.output sigmoid"
        )


def check_unseen(settings: Any, run: Path) -> None:
    """Raise ValueError if the network of a run or checkpoint may have been trained on the test digits."""
    if "training" in read_config(run):
        settings.data.require_unseen_by(settings_of(type(settings), run).data)


def test_clips(settings: Any, run: Path | None) -> dict[str, Any]:
    """Return a note of the clips that are kept for the test; {} for Moving MNIST.

    Raises:
        ValueError: the run has noted other clips.
    """
    length, noted = settings.context + settings.horizon, read_config(run) if run else None
    return settings.data.test_clips(noted, length=length, channels=settings.model.channels)


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Return the settings of a run as JSON values, those of its data and its network included."""
    values = dataclasses.asdict(settings)
    values["model"] = {"network": network_of(settings.model).__name__, **values["model"]}
    return json.loads(json.dumps(values, default=str))  # paths as texts, tuples as lists


def settings_from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Return the settings that `settings_to_dict` returned as a dict.

    Raises:
        ValueError: an unknown setting, or a value that does not fit.
    """
    hints, settings = get_type_hints(kind), {}
    for name, value in values.items():
        if name in REMOVED and not value:
            continue
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
    """Return a JSON value as its setting's type if that is a path or a tuple."""
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    is_tuple = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    return tuple(value) if isinstance(value, list) and is_tuple else value


def provenance(settings: Any) -> dict[str, Any]:
    """Return the settings, the command and the versions of a new run, for its config.json."""
    return {"training": settings_to_dict(settings), **origin()}


def origin() -> dict[str, Any]:
    """Return the command line of this process and the versions of its libraries."""
    return {"command": shlex.join([Path(sys.executable).name, *sys.argv]), "versions": versions()}


def resumed(notes: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Return the notes that a run's config.json goes on with: its own, and where and how the run goes on.

    Args:
        notes: what config.json holds.
        step: optimizer steps done.
    """
    kept = {name: note for name, note in notes.items() if name not in ("network", "step", "validation")}
    return kept | {"resumed": [*notes.get("resumed", []), {"step": step, **origin()}]}


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
        ValueError: the checkpoint was saved without settings, or they do not fit.
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
    arguments: list[str], kind: type[T], presets: Mapping[str, T], description: str | None
) -> T:
    """Read a command line that has an option for each setting, with the defaults of a preset or of a run.

    Args:
        arguments: the command line, without the name of the script.
        kind: dataclass of the settings, with the fields preset, resume and score.
        presets: settings by name, "default" among them.
        description: text of --help.

    Raises:
        SystemExit: an argument that does not fit, after the reason on stderr; or --help.
        FileNotFoundError: see `settings_of`.
        ValueError: see `settings_of`; settings that a run which is resumed or scored must keep.
    """
    import tyro  # slow to import, and needed by scripts alone

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(presets), default="default")
    for option in MAY_CHANGE:
        first.add_argument(f"--{option}", type=Path)
    known = first.parse_known_args(arguments)[0]
    if known.resume:
        restore_settings(known.resume)
    run = known.resume or known.score
    default = settings_of(kind, run) if run else presets[known.preset]
    # Without subcommands the kind of network is the preset's, and its settings are plain options.
    options = (tyro.conf.AvoidSubcommands,)
    settings = tyro.cli(kind, description=description, args=arguments, default=default, config=options)
    if run:
        require_same(settings, default, "resume" if known.resume else "score")
    return settings


def require_same(settings: Any, stored: Any, option: str) -> None:
    """Raise ValueError if settings differ from a run's stored ones in more than what `MAY_CHANGE` names.

    Args:
        settings: settings that are asked for.
        stored: settings that the run was made with.
        option: "resume" or "score".
    """
    asked, kept = _flat(settings_to_dict(settings)), _flat(settings_to_dict(stored))
    differing = {name for name in asked.keys() | kept.keys() if asked.get(name) != kept.get(name)}
    refused = sorted(differing - {option, *MAY_CHANGE[option]})
    if refused:
        raise ValueError(
            f"{option}: a run keeps its own settings, but {', '.join(refused)} was given; "
            f"what may be given with --{option}: {' '.join(MAY_CHANGE[option])}"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
