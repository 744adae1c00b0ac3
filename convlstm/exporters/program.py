"""Graphs traced by torch.export, with sizes left free where it allows, and written as .pt2 files."""

import importlib.metadata
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from convlstm import ops
from convlstm.core.files import write_atomically
from convlstm.exporters.graphs import Graph

Shape = tuple[int | str, ...]
"""Sizes: numbers where they are fixed, else names, as "batch" or "4*rows"."""

AXES: dict[int, str] = {0: "batch", -2: "rows", -1: "columns"}  # of frames, of contexts and of states
LADDER = (("batch", "rows", "columns"), ("batch",), ())  # what is left free, at first and where that fails
TOLERANCE = 1e-4
NOTES = "convlstm.json"


class Traced(NamedTuple):
    """A traced graph.

    Attributes:
        program: what torch.export made.
        inputs: names and shapes.
        outputs: names and shapes.
        free: the sizes that are left free, of "batch", "rows" and "columns".
    """

    program: ExportedProgram
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    free: tuple[str, ...]


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        path: the file.
        size: of the file, in bytes.
        inputs: names and shapes: numbers where sizes are fixed, else names, as "batch" or "4*rows".
        outputs: names and shapes.
        free: the sizes that are left free, of "batch", "rows" and "columns".
        difference: the largest between what the file and the network compute.
    """

    path: Path
    size: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    free: tuple[str, ...]
    difference: float


def trace(graph: Graph) -> Traced:
    """Trace a graph with as many free sizes as torch.export allows.

    Raises:
        ValueError: a network that it cannot trace at all.
    """
    for free in LADDER:
        # Of a batch of one it would be taken for granted that it is always one.
        example = graph.example(2 if "batch" in free else 1, graph.size)
        shapes = _dynamic_shapes(graph, example, free)
        try:
            with ops.reference_only():
                program = torch.export.export(graph.module, example, dynamic_shapes=shapes)
        except Exception as error:  # of many kinds, for a size that cannot be free
            if free:
                continue
            network, reason = type(graph.network).__name__, str(error).strip().partition("\n")[0]
            raise ValueError(f"torch.export cannot trace this {network}: {reason}") from error
        # Traces are lines of this library's files, by far the most of what a program takes on disk.
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        return _described(graph, program, free)
    raise AssertionError


def save_program(graph: Graph, path: Path) -> Exported:
    """Trace a graph and write it for torch.export.load, once it gives the network's numbers."""
    check_place(path)
    traced = trace(graph)
    buffer = io.BytesIO()
    torch.export.save(traced.program, buffer, extra_files={NOTES: json.dumps(notes(graph))})
    buffer.seek(0)
    program: Any = torch.export.load(buffer).module()
    difference = largest_difference(graph, traced.free, lambda inputs: as_tuple(program(*inputs)))
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))
    return Exported(path, path.stat().st_size, traced.inputs, traced.outputs, traced.free, difference)


def check_place(path: Path) -> None:
    """Raise ValueError where a file cannot go, before the work that goes into it."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no directory, but {path} should go there; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the name of a file")


def notes(graph: Graph) -> dict[str, Any]:
    """What a file says of itself: JSON values."""
    try:
        version = importlib.metadata.version("convlstm")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
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
        "convlstm": version,
        "torch": torch.__version__,
    }


def largest_difference(
    graph: Graph, free: tuple[str, ...], run: Callable[[tuple[Tensor, ...]], Sequence[Tensor]]
) -> float:
    """Run an exported graph on frames of its size, and of others if they are free; compare with the network.

    Returns:
        The largest difference, of values beyond -1 and 1 a part of them.

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
            expected = as_tuple(graph.module(*inputs))
        for name, one, right in zip(graph.outputs, run(inputs), expected, strict=True):
            difference = ((one - right).abs() / right.abs().clamp(min=1)).max().item()
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the exported {name} differs from the network's by {difference:.2g} on frames of "
                    f"{size[0]} x {size[1]} pixels; it needs {TOLERANCE:g} at most, and nothing was written"
                )
            largest = max(largest, difference)
    return largest


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs of a graph, one or more."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _dynamic_shapes(graph: Graph, example: tuple[Tensor, ...], free: tuple[str, ...]) -> dict[str, Any]:
    """The free axes of each input of an example, as torch.export takes them."""
    roots = {name: Dim(name, min=1) for name in free}
    # How often each is there in the example: an axis of more is a multiple of it.
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


def _described(graph: Graph, program: ExportedProgram, free: tuple[str, ...]) -> Traced:
    """Name the sizes of what goes in and comes out, that torch.export calls s3 or 4*s17."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    tensors_in = [values[name] for name in program.graph_signature.user_inputs]
    tensors_out = [values[name] for name in program.graph_signature.user_outputs]
    names: dict[str, str] = {}
    for tensor in tensors_in:
        for number, name in AXES.items():
            if name in free:
                (symbol,) = tensor.shape[number].node.expr.free_symbols
                names[str(symbol)] = name

    def named(size: Any) -> int | str:
        if isinstance(size, int):
            return size
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(size.node.expr))

    def shape(tensor: Tensor) -> Shape:
        return tuple(map(named, tensor.shape))

    return Traced(
        program,
        dict(zip(graph.inputs, map(shape, tensors_in), strict=True)),
        dict(zip(graph.outputs, map(shape, tensors_out), strict=True)),
        free,
    )
