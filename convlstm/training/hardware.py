"""What a run computes on and in: the device, its precision, its memory and its clock."""

import contextlib
import copy
import math
import sys
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import usable_device
from convlstm.evaluation import Predict
from convlstm.models.forecaster import Forecaster
from convlstm.models.rollouts import rollout
from convlstm.nn.base import ConvCell

BFloat16 = Literal["auto", "on", "off"]
BFLOAT16_TIME = 0.9  # bfloat16 is used where it takes less than this share of the time of float32

WARMUP_STEPS = 5  # first steps of a trial, which are not counted: compilers, caches
TRIAL_STEPS = 25  # steps of a trial after those
DISTURBED_STEPS = 2  # slowest steps of a trial, which are not counted either
SPARE_TIME = 0.02  # share of a run's minutes that is left for logs, states and samples


def choose_device(name: str) -> torch.device:
    """Return the named device, or for "auto" the first available one of cuda, mps and cpu.

    Raises:
        ValueError: the device is not available.
    """
    if name == "auto":
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, found in available.items() if found)
    return usable_device(name)


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether autocast to bfloat16 saves time: whether the device multiplies it in hardware, and fast.

    A CPU may have the instructions and be slower with them than in float32 (seen: an Intel Xeon that shows
    avx512_bf16 and no AMX), so there a convolution like a cell's is timed in both types, once in a process.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # An older torch cannot say what a CPU has.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        kernel, frames = torch.ones(256, 64, 3, 3, dtype=dtype), torch.ones(4, 64, 16, 16, dtype=dtype)
        convolve = partial(F.conv2d, frames, kernel, padding=1)
        seconds[dtype] = min(timeit.repeat(convolve, repeat=8, number=1))  # the least disturbed
    return seconds[torch.bfloat16] < BFLOAT16_TIME * seconds[torch.float32]


def choose_bfloat16(setting: BFloat16, device: torch.device) -> Literal["on", "off"]:
    """Return whether to compute in bfloat16; "auto" is on where that is faster, see `has_fast_bfloat16`."""
    if setting == "auto":
        return "on" if has_fast_bfloat16(device) else "off"
    return setting


def autocast(setting: BFloat16, device: torch.device) -> torch.autocast:
    """Return the autocast context of a run, which computes in bfloat16 as `choose_bfloat16` says."""
    enabled = choose_bfloat16(setting, device) == "on"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def describe(device: torch.device, setting: BFloat16, processes: int = 1) -> str:
    """Return the device, the precision and the number of processes in words."""
    names = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: f"{torch.get_num_threads()} threads"}
    name = f"{device} ({names[device.type](device)})" if device.type in names else str(device)
    short = choose_bfloat16(setting, device) == "on"
    fused = ops.is_fused(device, torch.bfloat16 if short else torch.float32)
    many = f", {processes} processes" if processes > 1 else ""
    return f"{name} in {'bfloat16' if short else 'float32'}{'' if fused else ', without fused ops'}{many}"


def predictor(model: Forecaster, setting: BFloat16) -> Predict:
    """Return a function that forecasts with a model, in the precision that `choose_bfloat16` says."""

    def predict(context: Tensor, horizon: int) -> Tensor:
        with autocast(setting, context.device):
            return rollout(model, context, horizon)

    return predict


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Set whether all cells recompute activations in the backward pass: less memory, slower."""
    for module in model.modules():
        if isinstance(module, ConvCell):
            module.recompute = recompute


def count_parameters(model: nn.Module) -> str:
    """Return the number of parameters, and the number of frozen ones, in words."""
    count = sum(parameter.numel() for parameter in model.parameters())
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    return f"{count:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")


def memory_peak(device: torch.device) -> float:
    """Return the peak memory so far, in GiB, of the GPU or else of the process (NaN on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return math.nan
    import resource  # not on Windows

    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Stopwatch:
    """Measures the time from lap to lap, without the time spent in `paused`."""

    def __init__(self, device: torch.device):
        self.device = device
        self._start = self._now()

    def lap(self) -> float:
        """Return the seconds since the last lap, and start the next."""
        start, self._start = self._start, self._now()
        return self._start - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that a block takes."""
        start = self._now()
        yield
        self._start += self._now() - start

    def _now(self) -> float:
        if self.device.type != "cpu":  # an accelerator runs asynchronously
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def steps_in_time(
    settings: Any,
    parts: Mapping[str, Any],
    losses: Callable[[int], Iterable[Tensor]],
    validate: Callable[[], object],
    check: Callable[[], object],
    device: torch.device,
) -> int:
    """Measure some steps and a validation, and return how many steps fit into a run's minutes.

        steps = ((1 - SPARE_TIME) * (minutes left) - validations * validation) / step

    At least one step is returned. The model, the average and the optimizer are restored afterwards.

    Args:
        settings: `Config` of train.py, with its minutes and number of validations.
        parts: model, ema and optimizer, by name.
        losses: returns the losses of the parts of a step, by its number.
        validate: runs a validation.
        check: called after each step; may raise `Stopped`.
        device: device of the run.
    """
    start = time.perf_counter()
    states = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    watch, laps = Stopwatch(device), []
    for step in range(WARMUP_STEPS + TRIAL_STEPS):
        parts["optimizer"].zero_grad()
        for loss in losses(step):
            loss.backward()
        parts["optimizer"].step()
        parts["ema"].update_parameters(parts["model"])
        check()
        laps.append(watch.lap())
    validate()
    validation = watch.lap()
    for name, part in parts.items():
        part.load_state_dict(states[name])
    # The slowest steps are left out: something else was running.
    counted = sorted(laps[WARMUP_STEPS:])[:-DISTURBED_STEPS]
    left = 60 * settings.minutes - (time.perf_counter() - start)
    left = (1 - SPARE_TIME) * left - settings.validations * validation
    return max(1, int(left * len(counted) / sum(counted)))
