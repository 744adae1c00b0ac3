"""The tables of the speed benchmark as Markdown, from its records."""

from collections.abc import Sequence
from typing import Any

from benchmarks.timing import markdown, milliseconds, ratio

SIZES = "T, B, I, C, frame, kernel"
NOTES = """\
In float32 and bfloat16 all have input, parameters and h in the named type; the cell state is in it for the
textbook, compiled and keras, and in float32 for reference, op and recompute. The floor is the bare
convolutions and one pass of the gates (benchmarks/floor.py), each in its cheapest arrangement. Times are in
milliseconds, in brackets sequences per second. Memory is the peak above parameters and inputs: on CUDA what
torch allocates outside of graphs, on the CPU the resident memory of a fresh process, after one call that
compiles. On CUDA, floor, op, recompute, reference, compiled and textbook-graph are timed inside a CUDA graph,
textbook, keras and op-eager outside; convolutions of float32 are TF32 and cudnn.benchmark is off, torch's
defaults."""


def time_table(records: Sequence[dict[str, Any]], mode: str, names: Sequence[str]) -> str:
    """Return the times of a mode as Markdown."""
    ratios = ("op/floor", "textbook/op", "textbook float32/op")
    rows = []
    for record in (r for r in records if r["mode"] == mode):
        conv, gates = record["floor"]["convolutions"], record["floor"]["gates"]
        cells = [
            label(record),
            record["type"],
            f"{milliseconds(conv)} + {milliseconds(gates)}",
        ]
        for name in names:
            one = record["contenders"].get(name)
            speed = f" ({one['sequences_per_second']:.0f})" if one else ""
            cells.append(milliseconds(one and one["seconds"]) + speed)
        rows.append([*cells, *(ratio(record["ratios"][name], 1.0) for name in ratios)])
    head = [SIZES, "type", "floor: convolutions + gates", *names, *ratios]
    return f"## {mode.capitalize()}, ms (sequences per second)\n\n{markdown(head, rows)}"


def memory_table(records: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Return the peak memory as Markdown."""
    rows = [
        [label(r), r["mode"], r["type"], *(megabytes(r["contenders"].get(name)) for name in names)]
        for r in records
    ]
    head = [SIZES, "mode", "type", *names]
    return f"## Peak memory above parameters and inputs, MB\n\n{markdown(head, rows)}"


def growth_table(records: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Return training in float32, by size, as Markdown."""
    ratios, rows = ("op/floor", "textbook/op"), []
    for record in records:
        found = [record["contenders"].get(name) for name in names]
        times = [milliseconds(one and one["seconds"]) for one in found]
        quotients = [ratio(record["ratios"][name], 1.0) for name in ratios]
        rows.append([label(record), *times, *quotients, *map(megabytes, found)])
    head = [SIZES, *(f"{n}, ms" for n in names), *ratios, *(f"{n}, MB" for n in names)]
    return f"## Growth with T, C and the frame: training, float32\n\n{markdown(head, rows)}"


def errors_line(records: Sequence[dict[str, Any]]) -> str:
    """Return the largest errors as a sentence."""
    largest: dict[str, float] = {}
    for record in records:
        errors = [result["error"] for result in record["contenders"].values()]
        largest[record["type"]] = max([largest.get(record["type"], 0.0), *errors])
    listed = ", ".join(f"{name} {error:.0e}" for name, error in largest.items())
    return (
        "Largest error of outputs and gradients (root mean square of a tensor, relative to the textbook's in "
        f"float32 from the same numbers): {listed}."
    )


def label(record: dict[str, Any]) -> str:
    """Return the sizes of a record's row."""
    return ", ".join(map(str, record["row"].values()))


def megabytes(result: dict[str, Any] | None) -> str:
    """Return a contender's memory in units of 10^6 bytes, or a dash."""
    peak = result["memory_bytes"] if result else None
    return f"{peak / 1e6:.1f}" if peak is not None else "-"
