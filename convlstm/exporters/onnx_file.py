"""ONNX files: a graph traced by torch.export, translated, stripped to what a reader needs, and checked."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convlstm.core.files import write_atomically
from convlstm.exporters.graphs import Graph
from convlstm.exporters.program import Exported, Shape, check_place, largest_difference, notes, trace

OPSET = 18
"""Of ONNX's operators: the one that torch translates to, so that nothing is converted once more."""
MOST = 2**31 - 1  # bytes of a protocol buffer


def save_onnx(graph: Graph, path: Path) -> Exported:
    """Write a graph as one ONNX file, once onnxruntime gives the network's numbers with it."""
    onnx, _ = packages()
    check_place(path)
    weights = list(graph.network.parameters())
    kinds = {str(weight.dtype) for weight in weights}
    if kinds != {"torch.float32"}:
        raise ValueError(
            f"model has weights of {', '.join(sorted(kinds))}; ONNX needs torch.float32, "
            "as model.float() makes"
        )
    if sum(weight.nbytes for weight in weights) > MOST:
        raise ValueError(f"model has more weights than the 2 GB that {path.name} can hold; write a .pt2 file")
    graph.module.cpu()
    traced = trace(graph)
    # They warn of each operator of torchvision where that is missing, and of what they do not fold.
    with _quiet("torch.onnx"), _quiet("onnxscript"), _quiet("onnx_ir"):
        exported = torch.onnx.export(
            traced.program,
            input_names=graph.inputs,
            output_names=graph.outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    _strip(proto)
    _name_sizes(proto.graph.input, traced.inputs)
    _name_sizes(proto.graph.output, traced.outputs)
    proto.producer_name = "convlstm"
    for key, value in notes(graph).items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.add(key=f"convlstm.{key}", value=text)
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString()
    session = open_session(data)
    difference = largest_difference(graph, traced.free, lambda inputs: run_session(session, inputs))
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return Exported(path, len(data), traced.inputs, traced.outputs, traced.free, difference)


def packages() -> tuple[Any, Any]:
    """Return onnx and onnxruntime.

    Raises:
        ImportError: one of the packages that ONNX export needs is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (what torch translates with)
    except ImportError as error:
        raise ImportError(
            f'ONNX export needs {error.name}, which is not installed: pip install "convlstm[export]"'
        ) from error
    return onnx, onnxruntime


def open_session(model: bytes | str) -> Any:
    """Open an ONNX file, or its bytes, in onnxruntime on the CPU with as many threads as torch has."""
    onnxruntime = packages()[1]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: its warnings are about its own choices
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Run a graph on its inputs, in order."""
    names = [value.name for value in session.get_inputs()]
    arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, arrays)]


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Within, a logger tells errors alone."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _strip(proto: Any) -> None:
    """Remove what the exporter notes for those who debug it: the lines of code that each node is from."""
    graph = proto.graph
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_sizes(values: Any, shapes: dict[str, Shape]) -> None:
    """Give the free sizes of inputs or outputs their names."""
    for value in values:
        for dimension, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            if isinstance(size, str):
                dimension.dim_param = size
