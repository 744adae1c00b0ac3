"""python -m convlstm list: the networks that can be built by name."""

import argparse
from typing import Any

from convlstm.hub import pretrained


def add_command(commands: Any) -> None:
    """Add `list` to the commands of python -m convlstm."""
    command = commands.add_parser(
        "list",
        help="list the networks that can be built by name",
        description="List the networks that convlstm.create_model builds by name: the name, the number of "
        "parameters, and whether trained weights are shipped with the library.",
    )
    command.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    """Print the table."""
    shipped = pretrained.list_models(pretrained=True)
    width = max(map(len, pretrained.list_models()))
    print(f"{'name':<{width}}  {'parameters':>10}  weights")
    for name in pretrained.list_models():
        model = pretrained.create_model(name, device="meta")
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name:<{width}}  {count:>10,}  {'shipped' if name in shipped else 'not shipped'}")
