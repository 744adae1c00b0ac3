"""python -m convlstm import PATH -o DIRECTORY: turn a checkpoint of another project into a model."""

import argparse
import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convlstm.core.checks import shortened
from convlstm.core.files import open_npy
from convlstm.importers.checking import check
from convlstm.importers.foreign import Imported
from convlstm.importers.sources import SOURCES, import_foreign


def add_command(commands: Any) -> None:
    """Add the command to those of the command line (what argparse's `add_subparsers` returns)."""
    command = commands.add_parser(
        "import", help="read a checkpoint of another project", description=run.__doc__
    )
    command.add_argument("path", type=Path, help="checkpoint file of another project")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="directory to write the model to (default: it is not written)",
    )
    command.add_argument(
        "--source",
        default="auto",
        help=f"project of the file: {', '.join(SOURCES)} or auto, by its content (default: %(default)s)",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fact that the file does not record, such as a gate order; the error that asks for it lists "
        "names and values; repeat it for several",
    )
    command.add_argument(
        "--check",
        type=Path,
        nargs=2,
        metavar=("INPUT.npy", "OUTPUT.npy"),
        help="compare with the foreign model: an input and its output, in that model's layout",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Import a checkpoint of another project: print what it is, check it if asked, and write it."""
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; it needs a directory")
    chosen = dict(_option(text) for text in options.option)
    imported = import_foreign(options.path, options.source, chosen)
    print("\n".join(_lines(options.path, imported)), flush=True)
    if options.check is not None:
        input, output = (open_npy(path) for path in options.check)
        difference = check(imported, input, output)
        print(f"  check      largest difference from {options.check[1]}: {difference:.1e}", flush=True)
    if options.output is None:
        print("  not written: give -o DIRECTORY")
        return
    imported.model.save_pretrained(options.output, _notes(options.path, imported, chosen))
    print(f"{options.output}: model.safetensors, config.json, README.md")


def _lines(path: Path, imported: Imported) -> list[str]:
    """Return the lines that say what was recognized."""
    count = sum(parameter.numel() for parameter in imported.model.parameters())
    lines = [
        f"{path}",
        f"  source     {imported.source}",
        f"  becomes    {type(imported.model).__name__}, {count:,} parameters",
    ]
    lines += [f"  {'layers' if n == 0 else '':10} {line}" for n, line in enumerate(imported.layers)]
    lines += [f"  gates      {imported.gates} in the file"]
    lines += [f"  guessed    {guess}" for guess in imported.guesses]
    reasons: dict[str, list[str]] = {}
    for name, reason in imported.dropped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        lines.append(f"  dropped    {shortened(names)}: {reason}")
    return lines


def _notes(path: Path, imported: Imported, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json keeps of where the weights came from."""
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    facts = {"file": path.name, "source": imported.source, "options": options}
    return {"imported": facts | {"guesses": list(imported.guesses), "dropped": dict(imported.dropped)}}


def _option(text: str) -> tuple[str, Any]:
    """Return the name and value of NAME=VALUE: numbers, true and false and lists of them, else words."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--option is {text!r}; it needs NAME=VALUE")
    try:
        parsed = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value
    return name, parsed if isinstance(parsed, bool | int | float | tuple | list) else value
