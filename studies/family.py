"""The recurrent family compared at an equal number of sequences, with and without convolutions.

    python studies/family.py train           train each row; run it again to resume
    python studies/family.py gradients       measure how far back gradients reach, trained and untrained
    python studies/family.py recall          train small networks to remember the first of 20 frames
    python studies/family.py show --write    print the tables, and write them for the documentation; draw the
                                             charts and the rollouts into assets/

Each row is a run of train.py on the same sequences in the same order, with a learning rate of its own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks.timing import add_write, write_measured
from convlstm.core.checks import positive
from convlstm.core.files import write_json
from convlstm.models.fully_connected import FullyConnectedForecasterConfig
from studies import family_gradients, family_report
from studies.study import ROOT, Row, Study, add_train

FULLY = ("--preset", "fully-connected", "--lr", "1e-3")
CONVOLUTIONAL = ("--model.kernel-size", "3", "--lr", "4e-3")
STUDY = Study(
    rows=(
        Row("fc-rnn", "FC-RNN", (*FULLY, "--model.cell", "rnn")),
        Row("fc-gru", "FC-GRU", (*FULLY, "--model.cell", "gru")),
        Row("fc-lstm", "FC-LSTM", (*FULLY, "--model.cell", "lstm")),
        Row("conv-rnn", "ConvRNN", (*CONVOLUTIONAL, "--model.cell", "rnn")),
        Row("conv-gru", "ConvGRU", (*CONVOLUTIONAL, "--model.cell", "gru")),
        Row("conv-lstm", "ConvLSTM", (*CONVOLUTIONAL, "--model.cell", "lstm")),
        Row(
            "conv-lstm-peepholes",
            "ConvLSTM, peepholes",
            (*CONVOLUTIONAL, "--model.cell", "lstm", "--model.peephole", "channel"),
        ),
    ),
    common=(
        *("--data.digits", "mnist", "--optimizer", "adamw", "--validations", "5"),
        *("--validation-sequences", "1000", "--test-sequences", "1000"),
    ),
)
GRADIENTS, RECALL = "gradients.json", "recall.json"
# Below each table: the last one writes all three, and needs what the others measured.
COMMANDS = [f"python studies/family.py {part}" for part in ("train", "gradients", "recall", "show --write")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, default=Path("runs/family"), help="folder of the runs")
    commands = parser.add_subparsers(dest="command", required=True)
    options: dict[str, Any] = {"parents": [shared], "formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    add_train(commands, **options)
    gradients = commands.add_parser("gradients", **options)
    gradients.add_argument("--sequences", type=int, default=32, help="validation sequences")
    gradients.add_argument("--context", type=int, default=20, help="frames before the one that is forecast")
    recall = commands.add_parser("recall", **options)
    recall.add_argument("--steps", type=int, default=800, help="training steps of each network")
    show = commands.add_parser("show", **options)
    add_write(show)
    show.add_argument("--assets", type=Path, default=ROOT / "assets", help="folder of the pictures")
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    try:
        for name in ("sequences", "context", "steps"):
            positive(f"--{name}", getattr(given, name, 1))
        if given.command == "train":
            return int(STUDY.train(folder, given.sequences, given.jobs, given.data_root) > 0)
        if given.command == "gradients":
            found = family_gradients.measure(STUDY, folder, given.sequences, given.context)
            write_json(folder / GRADIENTS, found)
        elif given.command == "recall":
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RECALL, recall_all(given.steps))
        else:
            show_all(folder, given.assets, given.write)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


def recall_all(steps: int) -> dict[str, Any]:
    """Train a small network of each kind of cell to recall; return the results by the row's name."""
    found = {}
    for row in STUDY.rows:
        model = STUDY.settings(row).model
        if getattr(model, "peephole", None) is None:
            convolutional = not isinstance(model, FullyConnectedForecasterConfig)
            found[row.name] = family_gradients.recall(model.cell, convolutional, steps=steps)
            print(f"{row.label}: squared error {found[row.name]['error']:.3f} per pixel", flush=True)
    return found


def show_all(folder: Path, assets: Path, write: bool) -> None:
    """Print the tables, write them if wanted, and draw the pictures."""
    tables, measured = {"family": family_report.results_table(STUDY, folder)}, {}
    for name in (GRADIENTS, RECALL):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; run family.py {path.stem} first")
        measured[name] = json.loads(path.read_text(encoding="utf-8"))
    tables["family-gradients"] = family_report.gradients_table(STUDY, measured[GRADIENTS])
    tables["family-recall"] = family_report.recall_table(STUDY, measured[RECALL])
    for name, table in tables.items():
        print(table)
        if write:
            write_measured(name, table, *COMMANDS)
    assets.mkdir(parents=True, exist_ok=True)
    curves = family_report.validation_curves(STUDY, folder)
    family_report.draw_validation(curves, assets / "family-validation.svg")
    family_report.draw_rollouts(STUDY, folder, assets / "family-rollouts.png")
    panels = family_report.gradient_panels(STUDY, measured[GRADIENTS], measured[RECALL])
    family_report.draw_gradients(panels, assets / "family-gradients.svg")


if __name__ == "__main__":
    sys.exit(main())
