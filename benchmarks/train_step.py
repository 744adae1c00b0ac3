"""How long a whole step of train.py takes, stage by stage, beside the sum of its bare convolutions.

    python benchmarks/train_step.py                     the default preset, the step as train.py does it
    python benchmarks/train_step.py --quick --json FILE

The stages are data, forward (with the loss), backward and optimizer (clipping, step, averaged weights). The
fused op and the reference start from the same weights and must agree on the gradients before they are timed.
The script prints Markdown; --json writes all measurements.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
import train
from benchmarks import timing
from benchmarks.floor import Floor, Layer, make_floor
from convlstm import StackedForecasterConfig
from convlstm.core.files import write_json
from convlstm.models.forecaster import build
from convlstm.ops.choice import VARIABLE
from convlstm.training import optimizers
from convlstm.training.sampling import draw_use_target

PRESETS = ("tiny", "default")
IMPLEMENTATIONS = ("fused", "reference")
TEACHER_FORCING = (0.5, 0.0)
STAGES = ("data", "forward", "backward", "optimizer")
TYPES: dict[Literal["off", "on"], torch.dtype] = {"off": torch.float32, "on": torch.bfloat16}
TOLERANCES = {torch.float32: {"cpu": 1e-3, "cuda": 2e-2}, torch.bfloat16: {"cpu": 0.1, "cuda": 0.1}}
MAX_FLOORS, MAX_DATA = 1.3, 0.03  # targets: a step's time in floors, and the data's share of it
NOTES = """\
The floor is the bare convolutions of the forward and the backward pass with the products of the head, and one
pass of the gates forward and back (benchmarks/floor.py), with the network's sizes, each in its fastest
arrangement; the first layer has gradients of its input at the steps that may read a prediction. On CUDA it
is timed in a CUDA graph, the step as train.py runs it, and float32 convolutions are TF32, torch's default.
bfloat16 is autocast. Stages are timed in separate runs, which wait for the device after each stage."""


class Step:
    """A network that trains step by step as in train.py's loop.

    Args:
        config: Settings of a run.
        implementation: Implementation of the ops.
        bfloat16: Whether to compute in bfloat16, "on" or "off".
        teacher_forcing: Probability of reading true frames.
        device: Device of the network.
    """

    def __init__(
        self,
        config: train.Config,
        implementation: str,
        bfloat16: Literal["off", "on"],
        teacher_forcing: float,
        device: torch.device,
    ):
        self._config = dataclasses.replace(config, bfloat16=bfloat16)
        self._implementation, self._teacher_forcing, self._device = implementation, teacher_forcing, device
        self._source = train.make_source(config, "train")
        torch.manual_seed(config.seed)
        self.model = build(config.model).to(device)
        self._ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self._optimizer = optimizers.make_optimizer(
            config.optimizer, self.model, weight_decay=config.weight_decay, bfloat16=bfloat16 == "on"
        )
        for group in self._optimizer.param_groups:
            group["lr"] = config.lr
        self._step = 0
        self.stages: dict[str, list[float]] = {name: [] for name in STAGES}

    def __call__(self, end: Callable[[str], object] = lambda stage: None) -> None:
        """Do one step; call `end` with the name of each stage when it ends."""
        os.environ[VARIABLE] = self._implementation
        config, model, device = self._config, self.model, self._device
        indices = torch.arange(self._step * config.batch_size, (self._step + 1) * config.batch_size)
        context, targets, _ = train.get_batch(config, self._source, self._step, indices, device)
        end("data")
        draw = self._teacher_forcing, config.seed, self._step, indices, config.horizon
        use_target = draw_use_target(*draw).to(device)
        loss = train.forecast_loss(config, model, context, targets, use_target)
        end("forward")
        self._optimizer.zero_grad()
        loss.backward()
        end("backward")
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        self._optimizer.step()
        self._ema.update_parameters(model)
        end("optimizer")
        self._step += 1

    def gradients(self) -> list[Tensor]:
        """Do one step and return its gradients."""
        made: list[Tensor] = []

        def keep(stage: str) -> None:
            if stage == "backward":  # before they are clipped
                made.extend(p.grad.clone() for p in self.model.parameters() if p.grad is not None)

        self(keep)
        return made

    def staged(self) -> None:
        """Do one step and add the seconds of each stage to `stages`."""
        start = timing.now(self._device)

        def lap(stage: str) -> None:
            nonlocal start
            end = timing.now(self._device)
            self.stages[stage].append(end - start)
            start = end

        self(lap)


def floor_of(config: train.Config, dtype: torch.dtype, device: torch.device) -> Floor:
    """Return the floor of a step."""
    network, B = config.model, config.batch_size
    assert isinstance(network, StackedForecasterConfig)
    T, S = config.context + config.horizon - 1, config.data.image_size // network.patch_size
    widths = (network.patch_channels, *network.hidden_channels)
    layers = [
        Layer(T, B, I, C, S, network.kernel_size, T if n else config.horizon - 1)
        for n, (I, C) in enumerate(pairwise(widths))
    ]
    states, frames = sum(network.hidden_channels), network.patch_channels
    rows = torch.randn(T * B * S * S, states, device=device).to(dtype)
    d_rows = torch.randn(T * B * S * S, frames, device=device).to(dtype)
    weight = torch.randn(frames, states, device=device).to(dtype)

    def head() -> None:
        for row, d_row in zip(rows.chunk(T), d_rows.chunk(T), strict=True):
            torch.mm(row, weight.t())
            torch.mm(d_row, weight)
        torch.mm(d_rows.t(), rows)

    return make_floor(layers, dtype, device, training=True, others=[head])


def measure(config: train.Config, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Return a record for each type, teacher forcing and implementation.

    Raises:
        ArithmeticError: if the implementations disagree.
    """
    check(config, device)
    steps: dict[tuple[str, str, float], Step] = {
        (bfloat16, implementation, teacher): Step(config, implementation, bfloat16, teacher, device)
        for bfloat16 in TYPES
        for teacher in TEACHER_FORCING
        for implementation in IMPLEMENTATIONS
    }
    floors = {bfloat16: floor_of(config, dtype, device) for bfloat16, dtype in TYPES.items()}
    jobs: dict[str, timing.Job] = {}
    for bfloat16, floor in floors.items():
        jobs |= {f"convolutions {bfloat16}": floor.convolutions, f"gates {bfloat16}": floor.gates}
    for key, step in steps.items():
        jobs |= {f"step {key}": step, f"stages {key}": step.staged}
    seconds = timing.interleave(jobs, rounds, device)
    medians = timing.medians(seconds)
    records = []
    for (bfloat16, implementation, teacher), step in steps.items():
        key = (bfloat16, implementation, teacher)
        whole = medians[f"step {key}"]
        stages = timing.medians({name: laps[timing.WARM_UP :] for name, laps in step.stages.items()})
        parts = {part: medians[f"{part} {bfloat16}"] for part in ("convolutions", "gates")}
        records.append(
            {
                "type": "bfloat16" if bfloat16 == "on" else "float32",
                "teacher_forcing": teacher,
                "implementation": implementation,
                "seconds": whole,
                "all_seconds": seconds[f"step {key}"],
                "sequences_per_second": config.batch_size / whole,
                "stages": stages,
                "shares": {name: value / sum(stages.values()) for name, value in stages.items()},
                "floor": parts | {"arrangements": floors[bfloat16].chosen},
                "step/floor": whole / sum(parts.values()),
            }
        )
    return records


def check(config: train.Config, device: torch.device) -> None:
    """Raise ArithmeticError unless the first step's gradients agree with the reference's in float32."""
    for teacher in TEACHER_FORCING:
        with timing.exact_convolutions():
            truth = Step(config, "reference", "off", teacher, device).gradients()
        for bfloat16, dtype in TYPES.items():
            for implementation in IMPLEMENTATIONS:
                gradients = Step(config, implementation, bfloat16, teacher, device).gradients()
                wrong = timing.disagreement(gradients, truth, TOLERANCES[dtype][device.type])
                if wrong:
                    who = f"{implementation} in {dtype} with teacher forcing {teacher}"
                    raise ArithmeticError(f"gradients of {who}, in the order of the parameters: {wrong}")


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records as Markdown."""
    rows = []
    for r in records:
        stages = (
            f"{timing.milliseconds(r['stages'][name])} ({100 * r['shares'][name]:.0f}%)" for name in STAGES
        )
        floor = " + ".join(timing.milliseconds(r["floor"][part]) for part in ("convolutions", "gates"))
        named = [r["type"], str(r["teacher_forcing"]), r["implementation"]]
        whole = f"{timing.milliseconds(r['seconds'])} ({r['sequences_per_second']:.1f})"
        rows.append([*named, whole, *stages, floor, f"{r['step/floor']:.2f}"])
    columns = ["type", "teacher forcing", "ops", "step, ms (sequences per second)"]
    columns += [f"{name}, ms" for name in STAGES]
    return timing.markdown([*columns, "floor: convolutions + gates, ms", "step/floor"], rows)


def targets(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each fused step: its time and its data's share beside the targets."""
    lines = []
    for r in (r for r in records if r["implementation"] == "fused"):
        floors, data = r["step/floor"], r["shares"]["data"]
        met = ["met" if ok else "missed" for ok in (floors <= MAX_FLOORS, data <= MAX_DATA)]
        lines.append(
            f"{r['type']}, teacher forcing {r['teacher_forcing']}: step {floors:.2f} times the floor "
            f"(at most {MAX_FLOORS}: {met[0]}), data {100 * data:.1f}% of the step "
            f"(at most {100 * MAX_DATA:.0f}%: {met[1]})"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 if the implementations disagree."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 21")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    timing.add_write(parser)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not cuda:
        parser.error("--device is cuda, which this machine does not have; choose cpu")
    device, rounds = torch.device(options.device), 3 if options.quick else 21
    header = timing.header(device, rounds)
    print(f"{timing.format_header(header)}\n{NOTES}\n", flush=True)
    try:
        records = measure(train.PRESETS[options.preset], device, rounds)
    except ArithmeticError as error:
        print(f"NOT TIMED: {error}")
        return 1
    size = 4 * sum(p.numel() for p in build(train.PRESETS[options.preset].model).parameters())
    lines = [*targets(records), f"each process sends {size / 1e6:.2f} MB of gradients per step to others"]
    found = "\n".join([table(records), *(f"- {line}" for line in lines)])
    print(found)
    if options.write:
        timing.write_measured("train-step", f"{found}\n\n{timing.format_header(header)}")
    if options.json:
        write_json(options.json, {"header": header, "preset": options.preset, "records": records})
    return 0


if __name__ == "__main__":
    sys.exit(main())
