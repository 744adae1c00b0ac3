"""python -m convlstm evaluate: a checkpoint's scores on clips, as a table and as JSON."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from convlstm import report
from convlstm.cli import CHECKPOINT
from convlstm.cli.clips import add_clips, source_from
from convlstm.clips.sources import ClipSource
from convlstm.core.files import check_output, write_json
from convlstm.evaluation.evaluating import evaluate
from convlstm.evaluation.protocols import PROTOCOLS
from convlstm.evaluation.results import Evaluation
from convlstm.evaluation.tables import format_evaluation
from convlstm.hub import pretrained
from convlstm.hub.checkpoint import read_config
from convlstm.training.hardware import choose_device
from convlstm.training.settings import versions


def add_command(commands: Any) -> None:
    """Add `evaluate` to the commands of python -m convlstm."""
    command = commands.add_parser(
        "evaluate",
        help="score a network on clips, beside baselines",
        description="Score a network on clips, beside three baselines: the last frame repeated, the mean of "
        "the frames given, and the last frame translated by the last motion.",
    )
    add = command.add_argument
    add("checkpoint", help=CHECKPOINT)
    add_clips(command)
    add("--context", type=int, default=10, metavar="FRAMES", help="frames given (default: %(default)s)")
    add("--horizon", type=int, default=10, metavar="FRAMES", help="frames to forecast (default: %(default)s)")
    add("--sequences", type=int, metavar="CLIPS", help="clips to score, from the first on (default: all)")
    add("--batch-size", type=int, default=32, metavar="CLIPS", help="clips at a time (default: %(default)s)")
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="strict",
        help="strict: every metric with its conventions; openstl: the columns and conventions of OpenSTL's "
        "tables (default: %(default)s)",
    )
    add(
        "--thresholds",
        type=float,
        nargs="+",
        metavar="VALUE",
        default=(),
        help="thresholds for CSI, POD, FAR and bias, in the clips' unit, or in [0, 1] if they have none "
        "(default: none)",
    )
    add("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    add("--report", type=Path, metavar="FILE", help="write a page with tables, curves and rollouts")
    add("--device", default="auto", help="cuda, mps or cpu (default: the first available)")
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    for path in (options.json, options.report):
        if path is not None:
            check_output(path)
        if path is not None and path.resolve() == options.clips.resolve():
            raise ValueError(f"{path} is the file of the clips; give another name")
    device = choose_device(options.device)
    model = pretrained.from_pretrained(options.checkpoint, device=device)
    folder = Path(options.checkpoint)  # or a name
    training_run = report.read_run(folder) if options.report and folder.is_dir() else None
    clips = _read(options, model, read_config(folder) if folder.is_dir() else {})
    evaluation = run(options, model, clips, device)
    print(format_evaluation(evaluation))
    best = evaluation.examples
    print(f"\nSequences by MSE, counted from 0: best {best.best}, median {best.median}, worst {best.worst}.")
    if options.json:
        write_json(options.json, evaluation.to_dict())
        print(f"{options.json}: all numbers")
    if options.report:
        horizon = report.FURTHER * options.horizon
        further = clips.longer(options.context + horizon)
        report.write_report(
            options.report,
            evaluation,
            report.example_rollouts(evaluation, model, clips, device),
            report.example_rollouts(evaluation, model, further, device, names=["median"], horizon=horizon),
            training_run,
        )
        print(f"{options.report}: the report, a page for any browser")


def _read(options: argparse.Namespace, model: nn.Module, config: Mapping[str, Any]) -> ClipSource:
    """Return the clips as the model takes them, without those that it was trained or validated on."""
    kept = config.get("test_clips")
    held_out = (Path(kept["of"]), set(kept["names"])) if isinstance(kept, dict) else None
    clips = source_from(options, model, config, options.context + options.horizon, held_out=held_out)
    if clips.layout and options.layout is None:
        count = "1 clip" if len(clips) == 1 else f"{len(clips):,} clips"
        print(f"{options.clips}: {count}, read as {clips.layout}; if its axes are others, give --layout.")
    return clips


def run(options: argparse.Namespace, model: nn.Module, clips: ClipSource, device: torch.device) -> Evaluation:
    """Return the evaluation that the command line asks for; show progress on stderr."""
    total, shown = options.sequences or len(clips), {"unit": "seq", "dynamic_ncols": True, "disable": None}
    with tqdm(total=total, desc="evaluate", leave=False, **shown) as bar:
        evaluation = evaluate(
            model,
            clips,
            options.context,
            options.horizon,
            protocol=options.protocol,
            thresholds=options.thresholds,
            sequences=options.sequences,
            batch_size=options.batch_size,
            device=device,
            progress=bar.update,
        )
    return dataclasses.replace(
        evaluation,
        checkpoint=str(options.checkpoint),
        clips=str(options.clips),
        command=options.command,
        versions=versions(),
    )
