"""The recurrent family compared at an equal number of sequences, with and without convolutions.

    python studies/family.py train           every row; again, to go on where it stopped
    python studies/family.py gradients       how far back gradients reach, trained and untrained
    python studies/family.py recall          small networks that must remember the first of 20 frames
    python studies/family.py show            the tables; charts and rollouts into assets/

Every row (studies/family_rows.py) is a run of train.py on the same sequences in the same order, with a
learning rate of its own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from convlstm.core.files import write_json
from convlstm.models.fully_connected import FullyConnectedForecasterConfig
from studies import family_gradients, family_report
from studies.family_rows import STUDY
from studies.studies import ROOT, add_train

GRADIENTS, RECALL = "gradients.json", "recall.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return 0, or 1 where a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, default=Path("runs/family"), help="of the runs")
    commands = parser.add_subparsers(dest="command", required=True)
    options: dict[str, Any] = {"parents": [shared], "formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    add_train(commands, **options)
    gradients = commands.add_parser("gradients", **options)
    gradients.add_argument("--sequences", type=int, default=32, help="of the validation set")
    gradients.add_argument(
        "--context", type=int, default=20, help="frames before the one that the loss is of"
    )
    recall = commands.add_parser("recall", **options)
    recall.add_argument("--steps", type=int, default=800, help="of training")
    showing = commands.add_parser("show", **options)
    showing.add_argument("--assets", type=Path, default=ROOT / "assets", help="where the pictures go")
    given = parser.parse_args(arguments)
    for name, value in vars(given).items():
        if isinstance(value, int) and value < 1:
            parser.error(f"--{name} is {value}; it needs 1 or more")
    folder: Path = given.folder
    try:
        if given.command == "train":
            return int(STUDY.train(folder, given.sequences, given.jobs, given.data_root) > 0)
        if given.command == "gradients":
            write_json(folder / GRADIENTS, family_gradients.measure(folder, given.sequences, given.context))
        elif given.command == "recall":
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RECALL, recall_all(given.steps))
        else:
            show(folder, given.assets)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


def recall_all(steps: int) -> dict[str, Any]:
    """Train small networks of each kind of cell to recall; return what came of it, by the row's name."""
    found = {}
    for row in STUDY.rows:
        model = STUDY.settings(row).model
        peephole = getattr(model, "peephole", None)
        if peephole is None:
            convolutional = not isinstance(model, FullyConnectedForecasterConfig)
            found[row.name] = family_gradients.recall(model.cell, convolutional, steps=steps)
            print(f"{row.label}: squared error {found[row.name]['error']:.3f} per pixel", flush=True)
    return found


def show(folder: Path, assets: Path) -> None:
    """Print the tables and write the pictures."""
    print(family_report.results_table(folder))
    assets.mkdir(parents=True, exist_ok=True)
    family_report.draw_validation(folder, assets / "family-validation.svg")
    family_report.draw_rollouts(folder, assets / "family-rollouts.png")
    measured = {}
    for name in (GRADIENTS, RECALL):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: it needs family.py {path.stem} first")
        measured[name] = json.loads(path.read_text(encoding="utf-8"))
    print(family_report.gradients_table(measured[GRADIENTS]))
    print(family_report.recall_table(measured[RECALL]))
    family_report.draw_gradients(measured[GRADIENTS], measured[RECALL], assets / "family-gradients.svg")


if __name__ == "__main__":
    sys.exit(main())
