"""What an evaluation spends on its metrics, and the memory that many sequences take.

    python benchmarks/evaluation.py                          the default network, beside its bare rollouts
    python benchmarks/evaluation.py --thresholds 0.3 0.5 0.7 --device cuda
    python benchmarks/evaluation.py --memory 10000           peak memory (1.03 GiB), with the tiny preset

Rounds are interleaved, the fastest of each counts: the whole evaluation with all metrics of the network and
the three baselines, and the same sequences, rollouts and baselines without metrics. The difference is the
cost of the metrics and their intervals; the target is at most 10%.
"""

import argparse
import resource
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
import train
from benchmarks import timing
from convlstm import evaluate, rollout
from convlstm.evaluation import BASELINES
from convlstm.models.forecaster import build
from convlstm.training.hardware import choose_device


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--memory", type=int, metavar="SEQUENCES", help="the peak of so many, in place of times"
    )
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    config = train.PRESETS["tiny" if options.memory else "default"]
    torch.manual_seed(0)
    model = build(config.model).to(device)
    source = train.make_source(config, "test")
    thresholds = [
        255 * threshold for threshold in options.thresholds
    ]  # of pixels in [0, 1], in the source's unit
    if options.memory:
        evaluate(
            model, source, sequences=options.memory, batch_size=options.batch_size, thresholds=thresholds
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{options.memory:,} sequences of 20 frames of 64 x 64: {peak:.2f} GiB of memory at most")
        return

    def whole() -> None:
        evaluate(
            model, source, sequences=options.sequences, batch_size=options.batch_size, thresholds=thresholds
        )

    def bare() -> None:
        for start in range(0, options.sequences, options.batch_size):
            indices = range(start, min(start + options.batch_size, options.sequences))
            context = source.batch(indices, device)[:, :10]
            for predict in (partial(rollout, model), *BASELINES.values()):
                predict(context, 10)

    # On one thread the process's own time, which no work of others disturbs.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else partial(timing.now, device)
    seconds: dict[str, list[float]] = {"whole": [], "bare": []}
    for _ in range(options.rounds):
        for name, job in (("whole", whole), ("bare", bare)):
            start = clock()
            job()
            seconds[name].append(clock() - start)
    times = {name: min(values) for name, values in seconds.items()}
    per = {name: timing.milliseconds(value / options.sequences) for name, value in times.items()}
    print(
        f"{options.sequences} sequences on {timing.cpu_name() if device.type == 'cpu' else device}, "
        f"{torch.get_num_threads()} threads: {per['whole']} ms each, {per['bare']} without metrics: they add "
        f"{100 * (times['whole'] / times['bare'] - 1):.1f}%"
    )


if __name__ == "__main__":
    main()
