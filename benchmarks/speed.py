"""How fast a stack of two ConvLSTM layers is, beside other ways to compute it and beside the floor.

    python benchmarks/speed.py                          all contenders on the rows that fit the device
    python benchmarks/speed.py --quick --only textbook op

All contenders compute from the same numbers and must agree before they are timed: inference, and training (a
forward pass and the gradients of all parameters). The script prints Markdown; --json writes all measurements.
"""

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks import timing
from benchmarks.contenders import KINDS, LAYERS, Contender, Problem, Row, memory_of, name_of, textbook
from benchmarks.floor import Floor, Layer, make_floor
from convlstm.core.files import write_json

ROWS = {
    "tiny": [Row(2, 1, 2, 3, 6, 3)],
    "small": [
        Row(10, 4, 16, 64, 32, 3),
        Row(10, 8, 16, 64, 16, 3),
        Row(10, 8, 16, 128, 16, 5),
        Row(10, 16, 1, 16, 16, 3),
        Row(10, 2, 1, 32, 64, 3),
        Row(19, 4, 16, 32, 16, 5),  # the layers of the default preset
    ],
    "large": [Row(20, 16, 16, 128, 64, 5), Row(20, 16, 16, 64, 64, 3), Row(10, 16, 1, 64, 64, 3)],
}
MODES = ("inference", "training")
TYPES = (torch.float32, torch.bfloat16)
# Largest relative root mean square errors on the CPU and on CUDA, where float32 convolutions are TF32.
TOLERANCES = {torch.float32: {"cpu": 1e-4, "cuda": 1e-2}, torch.bfloat16: {"cpu": 0.1, "cuda": 0.1}}
RATIOS = ("op/floor", "textbook/op", "textbook float32/op")
SIZES = "T, B, I, C, frame, kernel"
NOTES = """\
Input, parameters and h have the named type. The cell state has it for the textbook, compiled and keras; it is
float32 for reference, op and recompute. The floor is the bare convolutions and one pass of the gates
(benchmarks/floor.py), each in its fastest arrangement. Times are in milliseconds, with sequences per second
in brackets. Memory is the peak above parameters and inputs, after one call that compiles: on CUDA what torch
allocates outside of graphs, on the CPU the resident memory of a fresh process; --json has it in bytes. On
CUDA the floor, op, recompute, reference, compiled and textbook-graph are timed in a CUDA graph, textbook,
keras and op-eager outside; float32 convolutions are TF32 and cudnn.benchmark is off, torch's defaults.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 if a contender failed or disagreed."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--rows", choices=ROWS, help="default: small on a CPU, large on CUDA")
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 11")
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), metavar="NAME")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    timing.add_write(parser)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not cuda:
        parser.error("--device is cuda, which this machine does not have; choose cpu")
    device, rounds = torch.device(options.device), 3 if options.quick else 11
    names = [n for n in KINDS if n in options.only and (device.type == "cuda" or not KINDS[n].cuda_only)]
    header = timing.header(device, rounds)
    print(f"{timing.format_header(header)}\n{NOTES}", flush=True)
    start, records, failures = time.perf_counter(), [], []
    for row in ROWS[options.rows or ("large" if device.type == "cuda" else "small")]:
        found, wrong = measure(row, names, device, rounds)
        print("".join(f"NOT TIMED: {failure}\n\n" for failure in wrong), end="", flush=True)
        print(f"{tuple(row)} after {time.perf_counter() - start:.0f} s", file=sys.stderr)
        records, failures = records + found, failures + wrong
    for mode in MODES:
        print(time_table([record for record in records if record["mode"] == mode], mode, names))
    print(ratio_table(records))
    for type_name in map(name_of, TYPES):
        of_type = (record["contenders"].values() for record in records if record["type"] == type_name)
        error = max((result["error"] for results in of_type for result in results), default=0.0)
        print(f"Largest relative error of outputs and gradients in {type_name}: {error:.0e}.\n")
    if options.json:
        write_json(options.json, {"header": header, "records": records, "failures": failures})
    if options.write:
        timing.write_measured("speed", f"{ratio_table(records)}\n{timing.format_header(header)}")
    return 1 if failures else 0


def measure(
    row: Row,
    names: Sequence[str],
    device: torch.device,
    rounds: int,
    types: Sequence[torch.dtype] = TYPES,
    modes: Sequence[str] = MODES,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a record for each mode and type, and what is wrong with contenders that are not timed."""
    torch._dynamo.reset()  # each row is compiled for its own sizes
    problem = Problem(row, device)
    contenders, failures = agreeing(problem, names, types)
    memory: dict[str, int | None] = {}
    for name in names:
        agreed = [dtype for dtype in types if f"{name} {name_of(dtype)}" in contenders]
        if device.type == "cpu" and agreed:
            memory |= in_fresh_process(name, row, agreed, modes)
        elif agreed:
            for type_name in map(name_of, agreed):
                for mode in modes:
                    job = contenders[f"{name} {type_name}"].job(mode)
                    memory[f"{name} {mode} {type_name}"] = timing.peak_memory(job, device)
    records = [record for mode in modes for record in time_mode(problem, mode, types, contenders, rounds)]
    for record in records:
        for name, result in record["contenders"].items():
            result["memory_bytes"] = memory[f"{name} {record['mode']} {record['type']}"]
    del contenders
    gc.collect()
    return records, failures


def agreeing(
    problem: Problem, names: Sequence[str], types: Sequence[torch.dtype]
) -> tuple[dict[str, Contender], list[str]]:
    """Return the contenders that agree with the textbook, by "NAME TYPE", and what is wrong with others."""
    with timing.exact_convolutions():
        truth = textbook(problem, torch.float32).results()
    found, failures = {}, []
    for key, name, dtype in ((f"{name} {name_of(dtype)}", name, dtype) for name in names for dtype in types):
        try:
            contender = KINDS[name].make(problem, dtype)
            results = contender.results()
            wrong = timing.disagreement(results, truth, TOLERANCES[dtype][problem.device.type])
        except ImportError as error:
            print(f"{key} skipped: {error}\n", flush=True)
        except Exception as error:  # the others are timed all the same
            failures.append(f"{key} on {tuple(problem.row)}: {type(error).__name__}: {error}")
        else:
            if wrong:
                failures.append(f"{key} on {tuple(problem.row)}: {wrong}")
            else:
                contender.error = max(timing.relative_errors(results, truth))
                found[key] = contender
    return found, failures


def time_mode(
    problem: Problem,
    mode: str,
    types: Sequence[torch.dtype],
    contenders: Mapping[str, Contender],
    rounds: int,
) -> list[dict[str, Any]]:
    """Return a record for each type: the times of the floor and the contenders, and ratios."""
    row, device, pool = problem.row, problem.device, timing.graph_pool(problem.device)
    floors = {name_of(dtype): floor_of(row, dtype, device, mode == "training") for dtype in types}
    jobs = {}
    for type_name, floor in floors.items():
        jobs |= {f"convolutions {type_name}": floor.convolutions, f"gates {type_name}": floor.gates}
    for key, contender in contenders.items():
        kind, job = KINDS[key.split()[0]], contender.job(mode)
        if mode == "training" or not kind.training_only:
            jobs[key] = timing.graphed(job, device, pool) if kind.graph else job
    seconds = timing.interleave(jobs, rounds, device)
    medians = timing.medians(seconds)
    records = []
    for type_name, floor in floors.items():
        parts = {part: medians[f"{part} {type_name}"] for part in ("convolutions", "gates")}
        results = {
            name: {
                "seconds": medians[key],
                "all_seconds": seconds[key],
                "sequences_per_second": row.B / medians[key],
                "error": contenders[key].error,
            }
            for name in KINDS
            if (key := f"{name} {type_name}") in jobs
        }
        op, loop = (medians.get(f"{name} {type_name}") for name in ("op", "textbook"))
        ratios = (
            quotient(op, sum(parts.values())),
            quotient(loop, op),
            quotient(medians.get("textbook float32"), op),
        )
        record = {"row": row._asdict(), "mode": mode, "type": type_name}
        record |= {"floor": parts | {"arrangements": floor.chosen}, "contenders": results}
        records.append(record | {"ratios": dict(zip(RATIOS, ratios, strict=True))})
    return records


def quotient(above: float | None, below: float | None) -> float | None:
    """Return a ratio, or None if a side is missing."""
    return above / below if above is not None and below else None


def floor_of(row: Row, dtype: torch.dtype, device: torch.device, training: bool) -> Floor:
    """Return the floor of a row's layers; the first one's input needs no gradient."""
    inputs = [row.I] + [row.C] * (LAYERS - 1)
    layers = [Layer(row.T, row.B, I, row.C, row.S, row.K, row.T if n else 0) for n, I in enumerate(inputs)]
    return make_floor(layers, dtype, device, training)


def in_fresh_process(
    name: str, row: Row, types: Sequence[torch.dtype], modes: Sequence[str]
) -> dict[str, int | None]:
    """Return `memory_of` of a contender, measured in a process that has run nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(memory_of, name, row, types, modes, torch.get_num_threads()).result()


def time_table(records: Sequence[dict[str, Any]], mode: str, names: Sequence[str]) -> str:
    """Return the times of a mode as Markdown."""
    rows = []
    for record in records:
        floor = (timing.milliseconds(record["floor"][part]) for part in ("convolutions", "gates"))
        cells = [", ".join(map(str, record["row"].values())), record["type"], " + ".join(floor)]
        for name in names:
            one = record["contenders"].get(name)
            cells.append(
                f"{timing.milliseconds(one['seconds'])} ({one['sequences_per_second']:.0f})" if one else "-"
            )
        rows.append([*cells, *("-" if r is None else f"{r:.2f}" for r in record["ratios"].values())])
    head = [SIZES, "type", "floor: convolutions + gates", *names, *RATIOS]
    return f"## {mode.capitalize()}, ms (sequences per second)\n\n{timing.markdown(head, rows)}"


def ratio_table(records: Sequence[dict[str, Any]]) -> str:
    """Return what the op's times and memory are beside those of others as Markdown."""
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        sizes = ",".join(map(str, record["row"].values()))
        pairs.setdefault((sizes, record["type"]), {})[record["mode"]] = record
    of_times: list[list[str]] = []
    of_memory: list[list[str]] = []
    for (sizes, type_name), of in pairs.items():
        times = [of[mode]["ratios"][ratio] for mode in MODES for ratio in RATIOS[:2]]
        contenders = of["training"]["contenders"]

        def ratio(above: str, below: str, what: str, found: Any = contenders) -> float | None:
            return quotient(*(found.get(name, {}).get(what) for name in (above, below)))

        times += [ratio(name, "op", "seconds") for name in ("compiled", "keras")]
        memory = [ratio(name, "textbook", "memory_bytes") for name in ("op", "recompute")]
        for rows, ratios in ((of_times, times), (of_memory, memory)):
            rows.append([sizes, type_name, *("-" if r is None else f"{r:.2f}" for r in ratios)])
    head = [SIZES.replace(" ", ""), "type"]
    times_head = ["inference: op / floor", "textbook / op", "training: op / floor", "textbook / op"]
    times_head += ["compiled / op", "Keras / op"]
    memory_head = ["memory of training: op / textbook", "op with `recompute` / textbook"]
    tables = ((head + times_head, of_times), (head + memory_head, of_memory))
    return "\n".join(timing.markdown(*table) for table in tables)


if __name__ == "__main__":
    sys.exit(main())
