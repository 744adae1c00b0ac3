"""What a training run needs and a reader of train.py need not see: hardware, schedule, run directory."""

import contextlib
import json
import math
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from convlstm import ops
from convlstm.evaluation import Predict, Scores
from convlstm.files import METRICS, read_metrics, write_atomically, write_json
from convlstm.forecaster import Forecaster
from convlstm.pictures import comparison
from convlstm.rollouts import rollout
from convlstm.video import write_gif

STATE = "training.pt"


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
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; it needs a name such as cuda, cuda:1, mps or cpu") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise ValueError(
            f"device is {name!r}, but this machine has {count} of the kind; "
            f"it needs {device.type}:0{f' to {device.type}:{count - 1}' if count > 1 else ''}"
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that autocast to it saves time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


BFloat16 = Literal["auto", "on", "off"]


def choose_bfloat16(setting: BFloat16, device: torch.device) -> Literal["on", "off"]:
    """Return whether to compute in bfloat16; "auto" is on where the hardware multiplies it."""
    if setting == "auto":
        return "on" if has_bfloat16(device) else "off"
    return setting


def autocast(setting: BFloat16, device: torch.device) -> torch.autocast:
    """Return the autocast to bfloat16; the setting as for `choose_bfloat16`."""
    enabled = choose_bfloat16(setting, device) == "on"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def describe(device: torch.device, setting: BFloat16) -> str:
    """Return what a run computes on and in, for the terminal; the setting as for `choose_bfloat16`."""
    names = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: f"{torch.get_num_threads()} threads"}
    name = f"{device} ({names[device.type](device)})" if device.type in names else str(device)
    short = choose_bfloat16(setting, device) == "on"
    fused = ops.is_fused(None, device, torch.bfloat16 if short else torch.float32)
    return f"{name} in {'bfloat16' if short else 'float32'}{'' if fused else ', without fused ops'}"


def predictor(model: Forecaster, setting: BFloat16) -> Predict:
    """Return the model's rollout in a run's precision; the setting as for `choose_bfloat16`."""

    def predict(context: Tensor, horizon: int) -> Tensor:
        with autocast(setting, context.device):
            return rollout(model, context, horizon)

    return predict


def new_path(name: str | None, preset: str) -> Path:
    """Return the directory of a run that begins: runs/NAME, or without a name the preset, date and time.

    Raises:
        ValueError: a name that is no folder's, or of a run that is there.
    """
    if name is not None and (name in ("", "..") or Path(name).name != name):
        raise ValueError(f"name is {name!r}; it needs the name of a folder, which is made under runs/")
    path = Path("runs") / (name or f"{preset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        go_on = f", or go on with it: --resume {path}" if (path / STATE).exists() else ""
        raise ValueError(f"name: {path} exists; choose another --name{go_on}")
    return path


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


class Stopwatch:
    """Measures what a device takes for the steps alone: from lap to lap, less what is done in `paused`."""

    def __init__(self, device: torch.device):
        self._device = device
        self._start = self._now()

    def lap(self) -> float:
        """Return the seconds since the last lap, and start the next."""
        start, self._start = self._start, self._now()
        return self._start - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done meanwhile."""
        start = self._now()
        yield
        self._start += self._now() - start

    def _now(self) -> float:
        if self._device.type != "cpu":  # what was asked of an accelerator may not be done yet
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()


class RunDirectory:
    """The files of a run: metrics.jsonl and the TensorBoard log as they grow, training.pt to go on from.

    Args:
        path: the run's directory; made if it is missing.
        step: optimizer steps already done; what a stopped run logged beyond them is dropped.

    Raises:
        ValueError: a line of metrics.jsonl that no run wrote.
    """

    def __init__(self, path: Path, step: int = 0):
        from torch.utils.tensorboard.writer import SummaryWriter

        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        if (path / METRICS).exists():
            kept = [line for line, values in read_metrics(path / METRICS) if values["step"] <= step]
            write_atomically(path / METRICS, lambda temporary: temporary.write_bytes(b"".join(kept)))
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


@contextlib.contextmanager
def open_run(path: Path, step: int = 0, *, new: bool = False) -> Iterator[RunDirectory]:
    """Open a `RunDirectory` for as long as its run lasts; a new run's directory must not be there yet.

    Where an error comes before the first state is saved, what was made of the directory is removed; where a
    run is interrupted after that, the KeyboardInterrupt says how to go on.
    """
    parents = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = True
    try:
        path.mkdir()
    except FileExistsError as error:
        made = False
        if new:
            raise ValueError(f"name: {path} exists; choose another --name") from error
    try:
        with contextlib.closing(RunDirectory(path, step)) as run:
            yield run
    except KeyboardInterrupt as stop:
        if (path / STATE).exists():
            raise KeyboardInterrupt(f"stopped; go on with --resume {path}") from stop
        raise
    finally:
        if made and not (path / STATE).exists():
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run may have been made beside it
                for folder in parents:
                    folder.rmdir()


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
        return int(state["step"]), float(state["best"])
    except FileNotFoundError as error:
        raise ValueError(f"resume is {str(path)!r}, which has no {STATE}: nothing to continue") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path / STATE} holds more than tensors and numbers, which is never loaded; "
            "it needs the file that train.py wrote"
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # torch.load raises whatever the damage leads to
        reason = "it is cut short" if isinstance(error, OSError | EOFError) else " ".join(str(error).split())
        raise ValueError(f"{path / STATE} is damaged or does not fit: {reason}") from error


def write_scores(path: Path, title: str, scores: Mapping[str, Scores]) -> None:
    """Write the scores of several predictors as JSON, what they were scored on under "set"."""
    results = {"set": title} | {name: scores[name].to_dict() for name in scores}
    write_json(path, results)


def write_rollout(
    path: Path, predict: Predict, clips: Tensor, context: int, horizon: int, fps: float
) -> None:
    """Write a forecast of clips (B, T, C, H, W) from their first `context` frames, beside them, as a GIF.

    The horizon is T - context or more; beyond T the truth is not known.
    """
    given, truth = clips[:, :context], clips[:, context:]
    forecast = predict(given, horizon)
    write_gif(path, comparison(*(x.float().cpu().numpy() for x in (given, forecast, truth))), fps)


def exit_status(script: str, run: Callable[[], object]) -> int:
    """Run a script; return 0, 2 after one line on stderr for what was wrong, or 130 after an interruption.

    SIGTERM ends it as an error does, so that nothing unfinished is left behind.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run()
    except (ArithmeticError, ValueError, OSError) as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"{script}: {stop}" if str(stop) else f"{script}: stopped", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
