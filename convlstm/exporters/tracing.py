"""Graphs traced by torch.export, with sizes left free where it allows, and checked against the network."""

import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from convlstm import ops
from convlstm.core import __version__
from convlstm.exporters.graphs import Graph

Shape = tuple[int | str, ...]
"""Sizes: numbers where they are fixed, else names such as "batch" or "4*rows"."""
Run = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]
"""Runs an exported graph: its inputs, in order, to its outputs."""

AXES: dict[int, str] = {0: "batch", -2: "rows", -1: "columns"}  # of frames, contexts and states
FREE = (("batch", "rows", "columns"), ("batch",), ())  # what is left free: tried in this order
LARGEST = 2**20  # of a free size: where there is no limit, torch 2.6 leaves none free
TOLERANCE = 1e-4


class Traced(NamedTuple):
    """A traced graph; `convlstm.exporters.Exported` describes the shapes and the free sizes."""

    program: ExportedProgram
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    free: tuple[str, ...]


def trace(graph: Graph) -> Traced:
    """Trace a graph with as many free sizes as torch.export allows.

    Raises:
        ValueError: torch.export cannot trace the network at all.
    """
    for free in FREE:
        # A batch of one would be taken as always one.
        example = graph.example(2 if "batch" in free else 1, graph.size)
        shapes = _dynamic_shapes(graph, example, free)
        try:
            with ops.use_implementation("reference"):
                program = torch.export.export(graph.module, example, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # of many kinds, for a size that cannot be free
            if free:
                continue
            network, reason = type(graph.network).__name__, str(error).strip().partition("\n")[0]
            raise ValueError(f"torch.export cannot trace this {network}: {reason}") from error
        program.graph.eliminate_dead_code()  # torch 2.6 traces torch.promote_types, which it cannot load
        # Stack traces are lines of this library's files, and most of what a program takes on disk.
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        return Traced(program, *_named_shapes(graph, program, free), free)
    raise AssertionError


def program_file(graph: Graph) -> tuple[bytes, Traced, Run]:
    """Return a graph as the bytes of a .pt2 file, its trace, and a call that runs the file."""
    traced, buffer = trace(graph), io.BytesIO()
    torch.export.save(traced.program, buffer, extra_files={"convlstm.json": json.dumps(notes(graph))})
    buffer.seek(0)
    program: Any = torch.export.load(buffer).module()
    return buffer.getvalue(), traced, lambda inputs: _as_tuple(program(*inputs))


def notes(graph: Graph) -> dict[str, Any]:
    """Return what a file says of itself: JSON values by name."""
    lengths = {"context": graph.context} if graph.form != "step" else {}
    if graph.form == "rollout":
        lengths["horizon"] = graph.horizon
    return {
        "form": graph.form,
        **lengths,
        "network": {"network": type(graph.network).__name__, **graph.network.arguments()},
        "pixels": [0, 1],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "convlstm": __version__,
        "torch": torch.__version__,
    }


def largest_difference(graph: Graph, free: tuple[str, ...], run: Run) -> float:
    """Run an exported graph on frames of its size, and of others if they are free; compare with the network.

    Returns:
        The largest difference: absolute, and for values beyond -1 and 1 relative to them.

    Raises:
        ValueError: outputs that differ by more than 1e-4.
    """
    (H, W), (row, column) = graph.size, graph.unit
    other = (3 * row, 5 * column) if "rows" in free else (H, W)
    cases = [(1, (H, W)), (3, other)] if "batch" in free else [(1, (H, W))]
    largest = 0.0
    for batch, size in cases:
        inputs = graph.example(batch, size)
        with torch.no_grad():
            expected = _as_tuple(graph.module(*inputs))
        for name, actual, right in zip(graph.outputs, run(inputs), expected, strict=True):
            difference = ((actual - right).abs() / right.abs().clamp(min=1)).max().item()
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the exported {name} differs from the network's by {difference:.2g} on frames of "
                    f"{size[0]} x {size[1]} pixels; it needs {TOLERANCE:g} at most, and nothing was written"
                )
            largest = max(largest, difference)
    return largest


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _dynamic_shapes(graph: Graph, example: tuple[Tensor, ...], free: tuple[str, ...]) -> dict[str, Any]:
    """Return the free axes of each input of an example, as torch.export takes them."""
    roots = {name: Dim(name, min=1, max=LARGEST) for name in free}
    # An axis that has a multiple of these in the example always has this multiple.
    rows, columns = (pixels // unit for pixels, unit in zip(graph.size, graph.unit, strict=True))
    counts = {"batch": len(example[0]), "rows": rows, "columns": columns}

    def axis(name: str, size: int) -> Any:
        times = size // counts[name]
        return roots[name] if times == 1 else times * roots[name]

    shapes = tuple(
        {number % t.dim(): axis(name, t.shape[number]) for number, name in AXES.items() if name in free}
        for t in example
    )
    return {"inputs": shapes} if graph.form == "step" else {"context": shapes[0]}


def _named_shapes(
    graph: Graph, program: ExportedProgram, free: tuple[str, ...]
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return the shapes of inputs and outputs, with our names for the sizes that torch calls s3 or 4*s17."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [values[name] for name in program.graph_signature.user_inputs]
    outputs = [values[name] for name in program.graph_signature.user_outputs]
    names: dict[str, str] = {}
    for tensor in inputs:
        for number, name in AXES.items():
            if name in free:
                (symbol,) = tensor.shape[number].node.expr.free_symbols
                names[str(symbol)] = name

    def named(size: Any) -> int | str:
        if isinstance(size, int):
            return size
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(size.node.expr))

    def shapes(names_of: tuple[str, ...], tensors: list[Any]) -> dict[str, Shape]:
        return {name: tuple(map(named, t.shape)) for name, t in zip(names_of, tensors, strict=True)}

    return shapes(graph.inputs, inputs), shapes(graph.outputs, outputs)
