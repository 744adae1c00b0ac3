"""ONNX files: a traced graph, translated, and stripped to what a reader needs."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from convlstm.core.checks import import_extra
from convlstm.exporters.graphs import Graph
from convlstm.exporters.tracing import Run, Shape, Traced, notes, trace

OPSET = 18
"""The operator set that torch translates to, so that nothing is converted a second time."""


def onnx_file(graph: Graph) -> tuple[bytes, Traced, Run]:
    """Return a graph as the bytes of an ONNX file, its trace, and a call that runs the file in onnxruntime.

    Raises:
        ImportError: a package that ONNX export needs is not installed.
        ValueError: weights that are not float32, or a network that cannot be traced.
    """
    # torch translates with onnxscript.
    packages = ("onnx", "onnxruntime", "onnxscript")
    onnx, onnxruntime, _ = (import_extra(package, "export", "ONNX export") for package in packages)
    types = {str(weight.dtype) for weight in graph.network.parameters()}
    if types != {"torch.float32"}:
        raise ValueError(
            f"model has weights of {', '.join(sorted(types))}; ONNX needs torch.float32, "
            "as model.float() makes"
        )
    graph.module.cpu()
    traced = trace(graph)
    with _errors_only():
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
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors alone: its warnings are about its own choices
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in zip(graph.inputs, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, arrays)]

    return data, traced, run


@contextmanager
def _errors_only() -> Iterator[None]:
    """Log no warnings: of each operator of torchvision where it is missing, of what is not folded."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _strip(proto: Any) -> None:
    """Remove what the exporter notes for debugging: the lines of code that each node comes from."""
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
