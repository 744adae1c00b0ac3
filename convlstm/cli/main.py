"""The command line: python -m convlstm rollout | evaluate | import | export | list."""

import argparse
import shlex
import sys
from pathlib import Path

from convlstm import clips as video
from convlstm import training
from convlstm.cli.clips import add_clips, source_from
from convlstm.cli.evaluate import add_command as add_evaluate
from convlstm.cli.export import add_command as add_export
from convlstm.cli.import_weights import add_command as add_import
from convlstm.clips import pictures
from convlstm.hub import pretrained
from convlstm.hub.checkpoint import read_config
from convlstm.models import rollouts


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status.

    That is 0, 2 with one line on stderr for what was wrong, or 130 where Ctrl-C ended it.
    """
    parser = argparse.ArgumentParser(prog="python -m convlstm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "rollout",
        help="forecast clips and show them as an animated GIF or an MP4",
        description=_rollout.__doc__,
    )
    command.add_argument(
        "checkpoint",
        help="a run of train.py or another checkpoint directory, a name with shipped weights, hf://OWNER/NAME",
    )
    add_clips(command)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("rollout.gif"),
        help="a .gif or an .mp4 (default: %(default)s)",
    )
    command.add_argument("--context", type=int, default=10, help="frames given (default: %(default)s)")
    command.add_argument("--horizon", type=int, default=10, help="frames forecast (default: %(default)s)")
    command.add_argument(
        "--count", type=int, default=3, help="clips shown, from the first on (default: %(default)s)"
    )
    command.add_argument(
        "--sharpen",
        type=float,
        default=0.0,
        metavar="STRENGTH",
        help="have the network read its own predictions sharpened, so that shapes last over long horizons, "
        "at the cost of a larger error; 3 suits moving_mnist_small (default: %(default)g, not at all)",
    )
    command.add_argument("--fps", type=float, default=5.0, help="frames per second (default: %(default)s)")
    command.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first there is)")
    command.set_defaults(run=_rollout)
    command = commands.add_parser(
        "list", help="list the networks that have a name", description=_list.__doc__
    )
    command.set_defaults(run=_list)
    add_evaluate(commands)
    add_import(commands)
    add_export(commands)
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "-m", "convlstm", *(arguments or sys.argv[1:])])
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:  # the last where an extra is not installed
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def _rollout(options: argparse.Namespace) -> None:
    """Forecast what follows the first frames of each clip, and write the comparison as a GIF or an MP4."""
    for name in ("context", "horizon", "count"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it needs 1 or more")
    video.check_clip(options.output, options.fps)
    if options.output.resolve() == options.clips.resolve():
        raise ValueError(f"--output {options.output} is the file of the clips; give another name")
    device = training.choose_device(options.device)
    model = pretrained.from_pretrained(options.checkpoint, device=device)
    rollouts.check_strength(model, options.sharpen)
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
    written = video.write_clip(options.output, frames, options.fps)
    rounded = (
        "" if written == options.fps else f" (not {options.fps:g}: {_why_not(options.output, options.fps)})"
    )
    print(
        f"{options.output}: {count}, {options.context} context and {options.horizon} forecast "
        f"frames, {written:.4g} frames per second{rounded}"
    )


def _list(_: argparse.Namespace) -> None:
    """List the networks of create_model: names, numbers of parameters, whether weights are shipped."""
    shipped = pretrained.list_models(pretrained=True)
    width = max(map(len, pretrained.list_models()))
    print(f"{'name':<{width}}  {'parameters':>10}  weights")
    for name in pretrained.list_models():
        model = pretrained.create_model(name, device="meta")
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name:<{width}}  {count:>10,}  {'shipped' if name in shipped else 'not shipped'}")


def _why_not(path: Path, fps: float) -> str:
    """Say why a GIF or MP4 cannot have a frame rate."""
    if path.suffix.lower() == ".mp4":
        return "an MP4 counts thousandths"
    hundredths = 100 / fps
    if hundredths < video.SHORTEST:
        return f"viewers slow down frames of less than {video.SHORTEST} hundredths of a second"
    if hundredths > video.LONGEST:
        return f"a frame of a GIF lasts {video.LONGEST / 100} s at most"
    return "a GIF counts hundredths of a second"
