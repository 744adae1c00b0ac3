"""The command line's entry: python -m convlstm COMMAND."""

import argparse
import shlex
import sys

from convlstm.cli import demo, evaluate, export, import_weights, list_models, rollout
from convlstm.core import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    The status is 0, or 2 after one line on stderr that says what was wrong, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m convlstm",
        description="Forecast video with convolutional recurrent networks; score, import and export them.",
        epilog="python -m convlstm COMMAND --help describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"convlstm {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for command in (rollout, evaluate, import_weights, export, list_models, demo):
        command.add_command(commands)
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):  # no command
        parser.print_help(sys.stderr)
        return 2
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
