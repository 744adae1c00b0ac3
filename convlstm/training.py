"""What a training run needs and a reader of train.py need not see: hardware, schedule, run directory."""

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
import torch
from torch import Tensor

from convlstm.evaluation import Predict
from convlstm.files import write_atomically
from convlstm.forecaster import Forecaster, ForecasterConfig
from convlstm.networks import config_from_dict, config_to_dict
from convlstm.rollouts import rollout

T = TypeVar("T")

STATE = "training.pt"
METRICS = "metrics.jsonl"


def check_range(settings: Any, names: str, fits: Callable[[Any], bool], needs: str) -> None:
    """Raise ValueError unless every named attribute fits.

    Args:
        settings: the object whose attributes they are.
        names: of the attributes, separated by spaces.
        fits: whether a value will do.
        needs: the values that would do, in words.
    """
    for name in names.split():
        if not fits(getattr(settings, name)):
            raise ValueError(f"{name} is {getattr(settings, name)}; it needs {needs}")


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Return a dataclass of settings as JSON values, nested ones and a network's config included."""

    def value(setting: Any) -> Any:
        if isinstance(setting, ForecasterConfig):
            return config_to_dict(setting)
        if dataclasses.is_dataclass(setting):
            return settings_to_dict(setting)
        return str(setting) if isinstance(setting, Path) else setting

    return {field.name: value(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def settings_from_dict(kind: type[T], values: Any) -> T:
    """Return the dataclass of settings that `settings_to_dict` made a dict of.

    Raises:
        ValueError: not such a dict, or a setting that does not fit.
    """
    if not isinstance(values, dict):
        raise ValueError(f"settings are {values!r}; they need to be those that a run of train.py saved")
    hints, settings = get_type_hints(kind), {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"settings have {name!r}, which {kind.__name__} does not know")
        if isinstance(value, dict) and "network" in value:
            settings[name] = config_from_dict(value)
        elif isinstance(value, dict):
            settings[name] = settings_from_dict(hints[name], value)
        else:
            settings[name] = Path(value) if hints[name] is Path else value
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"settings do not fit {kind.__name__}: {error}") from error


def choose_device(name: str) -> torch.device:
    """Return the named device, or for "auto" the first there is of cuda, mps and cpu.

    Raises:
        ValueError: the device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    if not there.get(name.split(":")[0], False):
        found = ", ".join(kind for kind in there if there[kind])
        raise ValueError(f"device is {name!r}, which this machine does not have; it has {found}")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; it needs a name such as cuda, cuda:1, mps or cpu") from error


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that autocast to it saves time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def autocast(setting: str, device: torch.device) -> torch.autocast:
    """Return the autocast to bfloat16: "on", "off", or "auto" for on where the hardware multiplies it."""
    enabled = setting == "on" or (setting == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def describe(device: torch.device, autocast: torch.autocast) -> str:
    """Return what a run computes on and in, for the terminal."""
    names = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: f"{torch.get_num_threads()} threads"}
    name = f"{device} ({names[device.type](device)})" if device.type in names else str(device)
    return f"{name} in {'bfloat16' if autocast._enabled else 'float32'}"


def predictor(model: Forecaster, bfloat16: str) -> Predict:
    """Return the model's rollout in a run's precision; `bfloat16` as for `autocast`."""

    def predict(context: Tensor, horizon: int) -> Tensor:
        with autocast(bfloat16, context.device):
            return rollout(model, context, horizon)

    return predict


def lr_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """Return the learning rate at a step as a share of the highest.

    With s = (step + 1/2) / steps, the middle of the step, and w = warmup:

        cosine      s / w up to w, then (1 + cos(pi (s - w) / (1 - w))) / 2
        one-cycle   from 1/25 to 1 along half a cosine up to w, then as above

    Sources: Loshchilov and Hutter 2017, "SGDR"; Smith and Topin 2018, "Super-Convergence", as in
    torch.optim.lr_scheduler.OneCycleLR, but without its cycle of momentum and down to 0.

    Args:
        step: optimizer steps done, 0 to steps - 1.
        steps: optimizer steps of the whole run.
        schedule: "cosine" or "one-cycle".
        warmup: share of the run in which the rate rises, 0 to below 1.
    """
    # The middle of the step: the first is not at rate zero, nor is the last.
    progress = (step + 0.5) / steps
    if progress >= warmup:
        return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    rise = progress / warmup
    return rise if schedule == "cosine" else 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * rise)) / 2


class RunDirectory:
    """The files of a run: metrics.jsonl and the TensorBoard log as they grow, training.pt to go on from.

    Args:
        path: the run's directory; made if it is missing.
        step: optimizer steps already done; what a stopped run logged beyond them is dropped.
    """

    def __init__(self, path: Path, step: int = 0):
        from torch.utils.tensorboard.writer import SummaryWriter

        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        if (path / METRICS).exists():
            lines = (path / METRICS).read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_atomically(path / METRICS, lambda temporary: temporary.write_text("".join(kept)))
        self._board = SummaryWriter(str(path), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append values, by name such as "train/loss", to metrics.jsonl and to TensorBoard."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def save_state(self, step: int, best: float, **parts: Any) -> None:
        """Write what a resumed run goes on from, over the state before.

        Args:
            step: optimizer steps done.
            best: the best validation MSE so far.
            parts: whatever has a state_dict, by name: model, ema, optimizer.
        """
        state = {name: part.state_dict() for name, part in parts.items()} | {"step": step, "best": best}
        write_atomically(self.path / STATE, lambda path: torch.save(state, path))

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        self._board.close()


def load_state(path: Path, **parts: Any) -> tuple[int, float]:
    """Load what `RunDirectory.save_state` wrote into the parts; nothing in the file is executed.

    Returns:
        The optimizer steps done and the best validation MSE so far.

    Raises:
        ValueError: no such file, a damaged one, or one that does not fit.
    """
    try:
        # On the CPU, where Adam keeps its count of steps; each part copies its own to where it lies.
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["step"], state["best"]
    except FileNotFoundError as error:
        raise ValueError(f"resume is {str(path)!r}, which has no {STATE}: nothing to continue") from error
    except Exception as error:  # torch.load raises whatever the damage leads to
        reason = " ".join(str(error).split())
        raise ValueError(f"{path / STATE} is damaged or does not fit: {reason}") from error


def provenance(settings: Any) -> dict[str, Any]:
    """Return the settings, the command and the versions that a run is made with, for its config.json."""
    return {
        "training": settings_to_dict(settings),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
