"""python -m convlstm export: a checkpoint as an ONNX or .pt2 file, checked, measured and described."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from convlstm.exporters.graphs import FORMS, Graph, make_graph
from convlstm.exporters.onnx_file import OPSET, open_session, packages, run_session, save_onnx
from convlstm.exporters.program import Exported, save_program
from convlstm.hub import pretrained
from convlstm.models.forecaster import as_forecaster
from convlstm.models.imported import ImportedNetwork

RUNS, SECONDS = 20, 3.0  # of a latency, at most


def add_command(commands: Any) -> None:
    """Add `export` to the commands of python -m convlstm."""
    command = commands.add_parser(
        "export",
        help="write a network as ONNX, or for torch.export",
        description="Write a network as a file that runs without this library: .onnx for onnxruntime, .pt2 "
        "for torch.export. What it computes is compared with the network before it is written.",
    )
    command.add_argument(
        "checkpoint",
        help="a run of train.py or another checkpoint directory, a name with shipped weights, hf://OWNER/NAME",
    )
    command.add_argument(
        "-o", "--output", type=Path, default=Path("model.onnx"), help=".onnx or .pt2 (default: %(default)s)"
    )
    command.add_argument(
        "--form",
        choices=FORMS,
        default="rollout",
        help="rollout: the context to all forecast frames; step: one frame and the states to the next; "
        "encode: the context to the states (default: %(default)s)",
    )
    command.add_argument("--context", type=int, default=10, help="frames given (default: %(default)s)")
    command.add_argument("--horizon", type=int, default=10, help="frames forecast (default: %(default)s)")
    command.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(64, 64),
        metavar=("H", "W"),
        help="pixels of the frames that are traced and timed; others run too, unless it is said that they do "
        "not (default: 64 64)",
    )
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    path = options.output
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(
            f"--output {path} ends in neither .onnx (for onnxruntime) nor .pt2 (for torch.export)"
        )
    to_onnx = path.suffix == ".onnx"
    if to_onnx:
        packages()  # said before anything is read
    model = pretrained.from_pretrained(options.checkpoint)
    if not isinstance(model, ImportedNetwork):
        model = as_forecaster(model, str(options.checkpoint))
    graph = make_graph(model, options.form, options.context, options.horizon, tuple(options.size))
    print(f"{options.checkpoint}: {type(model).__name__}, {_form_in_words(graph)}", flush=True)
    exported = save_onnx(graph, path) if to_onnx else save_program(graph, path)
    kind = f"ONNX, opset {OPSET}" if to_onnx else "torch.export"
    print(f"{path}: {exported.size / 1e6:.2f} MB, {kind}")
    _print_shapes(exported)
    print(f"  differs from the network by {exported.difference:.1e} at most")
    print(f"  {_latencies(graph, path, to_onnx)}")


def _form_in_words(graph: Graph) -> str:
    if graph.form == "step":
        return "one step" if "frame" in graph.inputs else "one step (its first states: --form encode)"
    if graph.form == "encode":
        return f"{graph.context} context frames encoded"
    return f"{graph.context} context and {graph.horizon} forecast frames"


def _print_shapes(exported: Exported) -> None:
    width = max(map(len, (*exported.inputs, *exported.outputs)))
    for mark, shapes in (("in ", exported.inputs), ("out", exported.outputs)):
        for name, shape in shapes.items():
            print(f"  {mark}  {name:{width}}  {' x '.join(map(str, shape))}")
    if "rows" not in exported.free:
        print("  for frames of this size only: the exporter could not leave it free")
    if "batch" not in exported.free:
        print("  for batches of this size only: the exporter could not leave it free")


def _latencies(graph: Graph, path: Path, to_onnx: bool) -> str:
    """What one call takes in the exported file and in torch, on this machine."""
    inputs = graph.example(1, graph.size)
    if to_onnx:
        name, session = "onnxruntime", open_session(str(path))
        exported = _median(lambda: run_session(session, inputs))
    else:
        name, module = "the exported program", torch.export.load(path).module()
        exported = _median(lambda: module(*inputs))
    network = _median(lambda: graph.module(*inputs))
    (H, W), threads = graph.size, torch.get_num_threads()
    return (
        f"on this machine, a batch of 1 of {H} x {W} pixels takes {exported} in {name}, {network} in torch "
        f"(medians, {threads} thread{'s' if threads > 1 else ''})"
    )


def _median(call: Callable[[], object]) -> str:
    """The median time of a call, of 20 runs or as many as 3 seconds allow."""
    times: list[float] = []
    with torch.no_grad():
        call()  # the first one compiles and allocates
        while len(times) < RUNS and sum(times) < SECONDS:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    milliseconds = 1e3 * statistics.median(times)
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"
