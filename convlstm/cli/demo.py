"""python -m convlstm demo: a page on which you draw shapes and watch a network forecast their flight."""

import argparse
import socket
from typing import Any

from convlstm import demo
from convlstm.cli import CHECKPOINT
from convlstm.core.checks import positive


def add_command(commands: Any) -> None:
    """Add `demo` to the commands of python -m convlstm."""
    command = commands.add_parser(
        "demo",
        help="draw shapes in the browser, and watch a network forecast their flight",
        description="Serve a page on which you draw shapes, take digits or choose a clip, and watch a "
        'network forecast what follows. It needs pip install "convlstm[demo]".',
    )
    command.add_argument(
        "network", nargs="?", default="moving_mnist_small", help=f"{CHECKPOINT} (default: %(default)s)"
    )
    command.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(64, 64),
        metavar=("H", "W"),
        help="height and width of the frames in pixels (default: 64 64)",
    )
    command.add_argument("--port", type=int, help="port of the page (default: the first free one from 7860)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    height, width = (positive("--size", side) for side in options.size)
    if options.port is not None:
        _check_port(options.port)
    demo.launch(options.network, (height, width), server_port=options.port)


def _check_port(port: int) -> None:
    positive("--port", port, most=2**16 - 1)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise OSError(
            f"--port is {port}: {error.strerror}; give another, or none for the first free one"
        ) from error
