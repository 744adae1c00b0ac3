"""How long saving a state takes, and how much faster several machines can train.

    python benchmarks/scaling.py                     the default preset
    python benchmarks/scaling.py --device cuda

A step, a saved state and the size of the gradients are measured. The time of a step on N machines follows
from them: t(N) = t(1) / N + 2 (N - 1) / N * bytes / bandwidth. The second term is a ring all-reduce of which
the backward pass hides nothing, an upper bound. The script prints Markdown.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
import train
from benchmarks import timing
from benchmarks.train_step import PRESETS, Step
from convlstm import training

NETWORKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8, "100 Gbit/s": 1e11 / 8}
MACHINES = (2, 4, 8, 16)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    device, config = training.choose_device(options.device), train.PRESETS[options.preset]
    step = Step(config, "auto", training.choose_bfloat16("auto", device), 0.0, device)
    with tempfile.TemporaryDirectory() as folder:
        run = training.RunDirectory(Path(folder), training.World(), step.parts)
        run.save_best(step.model, {})

        def save() -> None:
            run.progress.step += 1
            run.save()

        seconds = timing.medians(timing.interleave({"step": step, "save": save}, options.rounds, device))
        size = training.states_of(run.path)[0].stat().st_size
    gradients = sum(p.numel() * p.element_size() for p in step.model.parameters())
    header = timing.header(device, options.rounds)
    print(f"{timing.format_header(header)}\n")
    step_ms, save_ms = (timing.milliseconds(seconds[name]) for name in ("step", "save"))
    share = seconds["save"] / (60 * config.save_minutes)
    print(
        f"{options.preset}: a step of {config.batch_size} sequences takes {step_ms} ms; its gradients are "
        f"{gradients / 1e6:.2f} MB. A saved state of {size / 1e6:.1f} MB takes {save_ms} ms, which every "
        f"{config.save_minutes:g} minutes is {100 * share:.3f}% of the time.\n"
    )
    rows = []
    for name, bandwidth in NETWORKS.items():
        cells = []
        for n in MACHINES:
            shared = seconds["step"] / n + 2 * (n - 1) / n * gradients / bandwidth
            cells.append(f"{seconds['step'] / shared:.1f}")
        rows.append([name, *cells])
    print(timing.markdown(["times as fast, at best", *(f"{n} machines" for n in MACHINES)], rows))


if __name__ == "__main__":
    main()
