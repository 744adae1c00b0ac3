"""How fast a stack of two ConvLSTM layers is, beside other ways to compute it and beside the floor.

    python benchmarks/speed.py                          all contenders on the rows that fit the device
    python benchmarks/speed.py --quick --only textbook op
    python benchmarks/speed.py --compile-times          what torch.compile takes of the textbook and of ours

All contenders get the same numbers and must agree before they are timed: inference, and training (a forward
pass and the gradients of all parameters). Prints Markdown; --json writes all that was measured.
"""

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks import timing
from benchmarks.compile_times import compile_times
from benchmarks.contenders import KINDS, LAYERS, Contender, Problem, Row, memory_of, name_of, textbook
from benchmarks.floor import Floor, Layer, make_floor
from benchmarks.tables import NOTES, errors_line, growth_table, memory_table, time_table
from convlstm.core.files import write_json

ROWS = {
    "tiny": [Row(2, 1, 2, 3, 6, 3)],
    "small": [
        Row(10, 4, 16, 64, 32, 3),
        Row(10, 8, 16, 64, 16, 3),
        Row(10, 8, 16, 128, 16, 5),
        Row(10, 16, 1, 16, 16, 3),
        Row(10, 2, 1, 32, 64, 3),
        Row(19, 4, 16, 32, 16, 5),  # the default preset's layers
    ],
    "large": [Row(20, 16, 16, 128, 64, 5), Row(20, 16, 16, 64, 64, 3), Row(10, 16, 1, 64, 64, 3)],
}
GROWTH: dict[str, tuple[Row, dict[str, Sequence[int]]]] = {
    "tiny": (ROWS["tiny"][0], {"T": (3,)}),
    "small": (Row(10, 2, 16, 32, 32, 3), {"T": (5, 10, 20, 40), "C": (16, 32, 64, 128), "S": (16, 32, 64)}),
    "large": (
        Row(20, 16, 16, 64, 64, 3),
        {"T": (5, 10, 20, 40), "C": (16, 32, 64, 128), "S": (32, 64, 128)},
    ),
}
MODES = ("inference", "training")
TYPES = (torch.float32, torch.bfloat16)
# Root mean square errors, relative, allowed on the CPU and on CUDA, where float32 convolutions are TF32.
TOLERANCES = {torch.float32: {"cpu": 1e-4, "cuda": 1e-2}, torch.bfloat16: {"cpu": 0.1, "cuda": 0.1}}


class Agreed(NamedTuple):
    """A contender that agrees with the truth."""

    contender: Contender
    first: dict[str, float]
    """The seconds of its first call in each mode."""
    error: float
    """The largest relative error of its results."""


class Report:
    """What goes wrong on the way: printed, and counted."""

    def __init__(self) -> None:
        self.broken = 0

    def line(self, text: str) -> None:
        """Print a line at once."""
        print(f"{text}\n", flush=True)

    def check(self, name: str, problem: Problem, dtype: torch.dtype, truth: list[Tensor]) -> Agreed | None:
        """Return a contender if it runs and agrees with the truth."""
        who, tolerance = f"{name} in {name_of(dtype)}", TOLERANCES[dtype][problem.device.type]
        try:
            contender, first = KINDS[name].make(problem, dtype), {}
            for mode in MODES:
                start = timing.now(problem.device)
                contender.job(mode)()
                first[mode] = timing.now(problem.device) - start
            results = contender.results()
            wrong = timing.disagreement(results, truth, tolerance)
            if not wrong:
                if name == "compiled":
                    times = ", ".join(f"{mode} {seconds:.0f} s" for mode, seconds in first.items())
                    self.line(
                        f"{who} on {tuple(problem.row)}: first calls, which compile where no "
                        f"cache has it: {times}"
                    )
                return Agreed(contender, first, max(timing.relative_errors(results, truth)))
        except ImportError as error:
            self.line(f"{name} skipped: {error}")
            return None
        except Exception as error:  # others are timed all the same
            wrong = f"{type(error).__name__}: {error}"
        self.broken += 1
        self.line(f"NOT TIMED: {who} on {tuple(problem.row)}: {wrong}")
        return None


def measure(
    row: Row,
    names: Sequence[str],
    device: torch.device,
    rounds: int,
    report: Report,
    types: Sequence[torch.dtype] = TYPES,
    modes: Sequence[str] = MODES,
) -> list[dict[str, Any]]:
    """Return one record per mode and type: floor, contenders, ratios."""
    torch._dynamo.reset()  # each row is compiled for its own sizes
    problem = Problem(row, device)
    with timing.exact_convolutions():
        truth = textbook(problem, torch.float32).results()
    contenders: dict[str, Agreed] = {}
    memory: dict[str, int | None] = {}
    for name in names:
        for dtype in types:
            key = f"{name} {name_of(dtype)}"
            if found := report.check(name, problem, dtype, truth):
                contenders[key] = found
        agreed = [dtype for dtype in types if f"{name} {name_of(dtype)}" in contenders]
        if device.type == "cpu" and agreed:
            memory |= in_fresh_process(name, row, agreed, modes)
    del truth
    if device.type != "cpu":
        for key, found in contenders.items():
            name, type_name = key.split()
            for mode in modes:
                memory[f"{name} {mode} {type_name}"] = timing.peak_memory(found.contender.job(mode), device)
    records = [record for mode in modes for record in time_mode(problem, mode, types, contenders, rounds)]
    for record in records:
        for name, result in record["contenders"].items():
            result["memory_bytes"] = memory[f"{name} {record['mode']} {record['type']}"]
    del contenders
    gc.collect()
    return records


def time_mode(
    problem: Problem,
    mode: str,
    types: Sequence[torch.dtype],
    contenders: Mapping[str, Agreed],
    rounds: int,
) -> list[dict[str, Any]]:
    """Return one record per type: the floor, the contenders' times, ratios."""
    row, device, pool = problem.row, problem.device, timing.graph_pool(problem.device)
    floors = {name_of(dtype): floor_of(row, dtype, device, mode == "training") for dtype in types}
    jobs = {}
    for type_name, floor in floors.items():
        jobs |= {f"convolutions {type_name}": floor.convolutions, f"gates {type_name}": floor.gates}
    for key, found in contenders.items():
        kind, job = KINDS[key.split()[0]], found.contender.job(mode)
        if mode == "training" or not kind.training_only:
            jobs[key] = timing.graphed(job, device, pool) if kind.graph else job
    seconds = timing.interleave(jobs, rounds, device)
    medians = timing.medians(seconds)
    records = []
    for type_name, floor in floors.items():
        parts = {part: medians[f"{part} {type_name}"] for part in ("convolutions", "gates")}
        results = {
            name: {
                "seconds": medians[f"{name} {type_name}"],
                "all_seconds": seconds[f"{name} {type_name}"],
                "sequences_per_second": row.B / medians[f"{name} {type_name}"],
                "first_call_seconds": contenders[f"{name} {type_name}"].first[mode],
                "error": contenders[f"{name} {type_name}"].error,
            }
            for name in KINDS
            if f"{name} {type_name}" in jobs
        }
        op, loop = (medians.get(f"{name} {type_name}") for name in ("op", "textbook"))
        ratios = {
            "op/floor": quotient(op, sum(parts.values())),
            "textbook/op": quotient(loop, op),
            "textbook float32/op": quotient(medians.get("textbook float32"), op),
        }
        record = {"row": row._asdict(), "mode": mode, "type": type_name}
        record |= {"floor": parts | {"arrangements": floor.chosen}, "contenders": results, "ratios": ratios}
        records.append(record)
    return records


def quotient(above: float | None, below: float | None) -> float | None:
    """Return a ratio, or None where a side is missing."""
    return above / below if above is not None and below else None


def floor_of(row: Row, dtype: torch.dtype, device: torch.device, training: bool) -> Floor:
    """Return the floor of a row's layers; nobody wants the gradient of the input of the first."""
    inputs = [row.I] + [row.C] * (LAYERS - 1)
    layers = [Layer(row.T, row.B, I, row.C, row.S, row.K, row.T if n else 0) for n, I in enumerate(inputs)]
    return make_floor(layers, dtype, device, training)


def in_fresh_process(
    name: str, row: Row, types: Sequence[torch.dtype], modes: Sequence[str]
) -> dict[str, int | None]:
    """Return `memory_of` of a contender, of a process that has run nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(memory_of, name, row, types, modes, torch.get_num_threads()).result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 where a contender disagreed or failed."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--rows", choices=(*ROWS, "all"), help="default: small on a CPU, large on CUDA")
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 11")
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), metavar="NAME")
    parser.add_argument("--compile-times", action="store_true", help="print these and nothing else")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not cuda:
        parser.error("--device is cuda, which this machine does not have; choose cpu")
    device, rounds = torch.device(options.device), 3 if options.quick else 11
    report = Report()
    results: dict[str, Any] = {"header": timing.header(device, rounds)}
    report.line(timing.format_header(results["header"]))
    if options.compile_times:
        results["compile_times"], table = compile_times(device)
        print(table)
        if options.json:
            write_json(options.json, results)
        return 0
    report.line(NOTES)
    names = [n for n in KINDS if n in options.only and (device.type == "cuda" or not KINDS[n].cuda_only)]
    chosen = options.rows or ("large" if device.type == "cuda" else "small")
    sets = ("small", "large") if chosen == "all" else (chosen,)
    start, records, growth = time.perf_counter(), [], []
    for row in (row for name in sets for row in ROWS[name]):
        records += measure(row, names, device, rounds, report)
        print(f"{tuple(row)} after {time.perf_counter() - start:.0f} s", file=sys.stderr)
    results["records"] = records
    for mode in MODES:
        report.line(time_table(records, mode, names))
    report.line(memory_table(records, names))
    report.line(errors_line(records))
    pair = [name for name in ("textbook", "op") if name in names]
    for base, axes in (GROWTH[name] for name in sets):
        points = dict.fromkeys(base._replace(**{axis: n}) for axis, values in axes.items() for n in values)
        for row in points:
            growth += measure(row, pair, device, rounds, report, TYPES[:1], ("training",))
    results["growth"] = growth
    report.line(growth_table(growth, pair))
    if options.json:
        write_json(options.json, results)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
