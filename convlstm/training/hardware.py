"""What a run computes on and in: the device, its precision, its memory and its clock."""

import contextlib
import copy
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm import ops
from convlstm.evaluation import Predict
from convlstm.models.forecaster import Forecaster
from convlstm.models.rollouts import rollout
from convlstm.nn.base import ConvCell

BFloat16 = Literal["auto", "on", "off"]
BFLOAT16_TIME = 0.9  # of float32's, which bfloat16 must stay below, so that chance does not decide

WARMUP_STEPS = 5  # of a trial, which are not counted: compilers, caches
TRIAL_STEPS = 25
DISTURBED_STEPS = 2  # of them, the slowest, which are not counted either
SPARE_TIME = 0.02  # share of a run's minutes that is left for logs, states and samples


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


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether autocast to bfloat16 saves time: whether the device multiplies it in hardware, and fast.

    A CPU may have the instructions and be slower with them than in float32 (seen: an Intel Xeon that shows
    avx512_bf16 and no AMX), so there a convolution is timed in both types, once in a process.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        known = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return known and convolution_seconds(torch.bfloat16) < BFLOAT16_TIME * convolution_seconds(
            torch.float32
        )
    return False


def convolution_seconds(dtype: torch.dtype) -> float:
    """Return what a convolution like a cell's takes on the CPU."""
    kernel, frames = torch.ones(256, 64, 3, 3, dtype=dtype), torch.ones(4, 64, 16, 16, dtype=dtype)
    return least_seconds(lambda: F.conv2d(frames, kernel, padding=1), torch.device("cpu"), times=8)


def choose_bfloat16(setting: BFloat16, device: torch.device) -> Literal["on", "off"]:
    """Return whether to compute in bfloat16; "auto" is on where that is faster, see `has_bfloat16`."""
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
    fused = ops.is_fused(device, torch.bfloat16 if short else torch.float32)
    return f"{name} in {'bfloat16' if short else 'float32'}{'' if fused else ', without fused ops'}"


def predictor(model: Forecaster, setting: BFloat16) -> Predict:
    """Return the model's rollout in a run's precision; the setting as for `choose_bfloat16`."""

    def predict(context: Tensor, horizon: int) -> Tensor:
        with autocast(setting, context.device):
            return rollout(model, context, horizon)

    return predict


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Have all cells keep less for the backward pass and compute the rest anew in it, or not."""
    for module in model.modules():
        if isinstance(module, ConvCell):
            module.recompute = recompute


def count_parameters(model: nn.Module) -> str:
    """Return the number of parameters, and of those that are frozen, in words."""
    count = sum(parameter.numel() for parameter in model.parameters())
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    return f"{count:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")


def memory_peak(device: torch.device) -> float:
    """Return the most memory used so far, in GiB: of the GPU, or else of the process (nan on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return math.nan
    import resource  # which Windows has not

    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Stopwatch:
    """Measures what a device takes for the steps alone: from lap to lap, less what is done in `paused`."""

    def __init__(self, device: torch.device):
        self.device = device
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
        if self.device.type != "cpu":  # what was asked of an accelerator may not be done yet
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def least_seconds(action: Callable[[], object], device: torch.device, times: int) -> float:
    """Return how long an action takes on a device, undisturbed: the least of so many times."""
    watch, laps = Stopwatch(device), []
    for _ in range(times):
        action()
        laps.append(watch.lap())
    return min(laps)


def steps_in_time(
    settings: Any,
    parts: Mapping[str, Any],
    losses: Callable[[], Iterable[Tensor]],
    validate: Callable[[], object],
    device: torch.device,
) -> int:
    """Measure some steps and a validation, and return how many steps fit into a run's minutes.

        steps = ((1 - SPARE_TIME) * (minutes left) - validations * validation) / step

    At least one step is left. What the measured steps did to the weights is undone.

    Args:
        settings: `Config` of train.py, with its minutes and number of validations.
        parts: model, ema and optimizer, by name.
        losses: returns the losses of the parts of a step.
        validate: runs a validation.
        device: device of the run.
    """
    start = time.perf_counter()
    states = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    watch, laps = Stopwatch(device), []
    for _ in range(WARMUP_STEPS + TRIAL_STEPS):
        parts["optimizer"].zero_grad()
        for loss in losses():
            loss.backward()
        parts["optimizer"].step()
        parts["ema"].update_parameters(parts["model"])
        laps.append(watch.lap())
    validate()
    validation = watch.lap()
    for name, part in parts.items():
        part.load_state_dict(states[name])
    # The slowest of the laps are left out: something else was going on.
    counted = sorted(laps[WARMUP_STEPS:])[:-DISTURBED_STEPS]
    left = 60 * settings.minutes - (time.perf_counter() - start)
    left = (1 - SPARE_TIME) * left - settings.validations * validation
    return max(1, int(left * len(counted) / sum(counted)))
