"""python -m convlstm export: a network as a file that runs without this library."""

import argparse
from pathlib import Path
from typing import Any

from convlstm.cli import CHECKPOINT
from convlstm.exporters import FORMATS, export
from convlstm.exporters.graphs import FORMS
from convlstm.hub import pretrained


def add_command(commands: Any) -> None:
    """Add `export` to the commands of python -m convlstm."""
    command = commands.add_parser(
        "export",
        help="write a network for ONNX, torch.export, Keras or torch.nn",
        description="Write a network as one file that runs without this library. Files for ONNX and "
        "torch.export hold a forecaster as a graph, which is checked against the network before it is "
        "written. Files for Keras and torch.nn hold the weights of plain layers.",
    )
    command.add_argument("checkpoint", help=CHECKPOINT)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("model.onnx"),
        help="file to write (default: %(default)s)",
    )
    command.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="onnx (.onnx), program (.pt2, for torch.export), keras (.keras or .weights.h5) or torch (.pt or "
        ".pth, for torch.nn) (default: by the suffix of --output)",
    )
    command.add_argument(
        "--form",
        choices=FORMS,
        help="what a graph computes. rollout: all forecast frames from the context; step: the next frame "
        "from a frame and the states; encode: the states from the context (default: rollout)",
    )
    command.add_argument(
        "--context", type=int, metavar="FRAMES", help="context frames of a rollout or encode (default: 10)"
    )
    command.add_argument(
        "--horizon", type=int, metavar="FRAMES", help="forecast frames of a rollout (default: 10)"
    )
    command.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width of the frames. A graph is traced with them (default: 64 64) and takes other "
        "sizes, too, unless this command says otherwise; a .keras file is for this size alone",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export the network, and print what was written."""
    model = pretrained.from_pretrained(options.checkpoint)
    print(f"{options.checkpoint}: {type(model).__name__}", flush=True)
    exported = export(
        model,
        options.output,
        options.format,
        form=options.form,
        context=options.context,
        horizon=options.horizon,
        size=options.size,
    )
    print(f"{exported.path}: {exported.size / 1e6:.2f} MB")
    if exported.difference is None:
        return
    width = max(map(len, (*exported.inputs, *exported.outputs)))
    for label, shapes in (("in ", exported.inputs), ("out", exported.outputs)):
        for name, shape in shapes.items():
            print(f"  {label}  {name:{width}}  {' x '.join(map(str, shape))}")
    for size, words in (("rows", "frames of this size"), ("batch", "batches of this size")):
        if size not in exported.free:
            print(f"  for {words} only: the exporter could not leave it free")
    print(f"  differs from the network by {exported.difference:.1e} at most")
