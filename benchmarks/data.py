"""Sequences per second of Moving MNIST, as a Markdown table: python benchmarks/data.py [--repeats 20]."""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks.timing import cpu_name
from datasets import MovingMNIST, moving_mnist

BATCH_SIZES = (4, 16, 64)


def main() -> None:
    """Time batches of consecutive sequences, and print the median of each size and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="batches timed (default: %(default)s)")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error(f"--repeats is {repeats}; it needs 1 or more")
    source, most = moving_mnist(), torch.get_num_threads()
    print(f"{cpu_name()}, {most} threads, torch {torch.__version__}; median of {repeats} batches\n")
    print("| sequences per second | " + " | ".join(f"batch of {size}" for size in BATCH_SIZES) + " |")
    print("|---" * (1 + len(BATCH_SIZES)) + "|")
    for threads in sorted({1, most}):
        torch.set_num_threads(threads)
        speeds = (size / seconds_per_batch(source, size, repeats) for size in BATCH_SIZES)
        label = "1 thread" if threads == 1 else f"{threads} threads"
        print(f"| {label} | " + " | ".join(f"{speed:,.0f}" for speed in speeds) + " |")


def seconds_per_batch(source: MovingMNIST, size: int, repeats: int) -> float:
    """Return the median time of a batch; the first, which warms up, is not counted."""
    seconds = []
    for number in range(repeats + 1):
        indices = torch.arange(number * size, (number + 1) * size)
        start = time.perf_counter()
        source.batch(indices)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
