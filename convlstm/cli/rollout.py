"""python -m convlstm rollout: forecasts of clips, beside the truth, as a GIF or an MP4."""

import argparse
from pathlib import Path
from typing import Any

from convlstm import clips as video
from convlstm.cli import CHECKPOINT
from convlstm.cli.clips import add_clips, source_from
from convlstm.clips import pictures
from convlstm.core.checks import positive
from convlstm.hub import pretrained
from convlstm.hub.checkpoint import read_config
from convlstm.models import rollouts
from convlstm.training.hardware import choose_device


def add_command(commands: Any) -> None:
    """Add `rollout` to the commands of python -m convlstm."""
    command = commands.add_parser(
        "rollout",
        help="forecast clips and show them as an animated GIF or an MP4",
        description="Forecast what follows the first frames of each clip, and write truth, forecast and "
        "error side by side as an animated GIF or an MP4.",
    )
    command.add_argument("checkpoint", help=CHECKPOINT)
    add_clips(command)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("rollout.gif"),
        help="file to write, a .gif or an .mp4 (default: %(default)s)",
    )
    for name, words in (
        ("--context", "frames that the network is given"),
        ("--horizon", "frames to forecast"),
    ):
        command.add_argument(
            name, type=int, default=10, metavar="FRAMES", help=f"{words} (default: %(default)s)"
        )
    command.add_argument(
        "--count",
        type=int,
        default=3,
        metavar="CLIPS",
        help="clips to show, from the first on (default: %(default)s)",
    )
    command.add_argument(
        "--sharpen",
        type=float,
        default=0.0,
        metavar="STRENGTH",
        help="sharpen the predictions that the network reads, so that shapes last over long horizons, at the "
        "cost of a larger error; 3 suits moving_mnist_small (default: %(default)g, no sharpening)",
    )
    command.add_argument(
        "--fps", type=float, default=5.0, help="frames per second of the file (default: %(default)s)"
    )
    command.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first available)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Forecast the clips and write the comparison."""
    for name in ("context", "horizon", "count"):
        positive(f"--{name}", getattr(options, name))
    video.check_clip(options.output, options.fps)
    if options.output.resolve() == options.clips.resolve():
        raise ValueError(f"--output {options.output} is the file of the clips; give another name")
    device = choose_device(options.device)
    model = pretrained.from_pretrained(options.checkpoint, device=device)
    folder = Path(options.checkpoint)  # or a name
    config = read_config(folder) if folder.is_dir() else {}
    source = source_from(options, model, config, options.context, first=options.count)
    source = source.longer(options.context + options.horizon)
    clips = source.batch(range(len(source)))  # (N, T, C, H, W)
    count = "1 clip" if len(clips) == 1 else f"{len(clips)} clips"
    read_as = f" read as {source.layout.upper()}" if source.layout is not None else ""
    print(f"{options.clips}{read_as}: {count} of {clips.shape[1]} frames", flush=True)
    context = clips[:, : options.context]
    truth = clips[:, options.context : options.context + options.horizon]
    forecast = rollouts.rollout(model, context.to(device), options.horizon, sharpen=options.sharpen)
    shown = truth.numpy() if truth.shape[1] else None
    frames = pictures.comparison(context.numpy(), forecast.float().cpu().numpy(), shown)
    fps = video.write_clip(options.output, frames, options.fps)
    kind = options.output.suffix[1:].upper()
    rounded = "" if fps == options.fps else f" (the nearest to {options.fps:g} that is possible in {kind})"
    print(
        f"{options.output}: {count}, {options.context} context and {options.horizon} forecast "
        f"frames, {fps:.4g} frames per second{rounded}"
    )
