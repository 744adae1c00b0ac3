"""What a forecaster is best made of: each change of the baseline alone, at an equal number of sequences.

    python studies/design_study.py train                train each row; run it again to resume
    python studies/design_study.py train --seeds 3      train each change from three seeds, as the baseline
    python studies/design_study.py show --write         print the table, and write it for the documentation

Each row is a run of train.py. Rows of the same seed train on the same sequences in the same order (of MNIST's
training digits), and all rows are scored on the same 1,000 sequences of held-out digits. A change counts only
if its MSE differs from the baselines' mean by more than the baselines differ among themselves.
docs/design-study.md says what follows from it.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
import train
from benchmarks.timing import add_write, markdown, write_measured
from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import Forecaster
from convlstm.training.settings import settings_of
from studies.study import Row, Study, add_train, machines_of, macs, run_of, seconds_per_sequence

BASELINE, MAX_SEEDS = "baseline", 9
BASELINES = tuple(Row(f"baseline-{seed}", BASELINE, (), seed=seed) for seed in range(3))
STRIDED = (
    *("--preset", "paper", "--batch-size", "4", "--lr", "4e-3", "--model.peephole", "None"),
    *("--model.hidden-channels", "32", "64", "96", "--model.strides", "1", "2", "2"),
    *("--model.patch-size", "2"),
)
CROSS_ENTROPY = ("--loss", "cross-entropy", "--model.output", "sigmoid")
STUDY = Study(
    rows=(
        *BASELINES,
        Row("wider", "width: 64 channels", ("--model.hidden-channels", *["64"] * 3)),
        Row("deeper", "depth: 6 layers", ("--model.hidden-channels", *["32"] * 6)),
        Row("kernel-5", "kernel: 5x5", ("--model.kernel-size", "5")),
        Row("residual", "residual sums between layers", ("--model.residual",)),
        Row("norm", "group norm between layers", ("--model.norm", "group")),
        Row("head-last", "head over the last layer alone", ("--model.head", "last")),
        Row("cross-entropy", "loss: cross-entropy, of a sigmoid", CROSS_ENTROPY),
        Row("no-teacher", "feedback: from the first step on", ("--teacher-forcing", "0")),
        Row("teacher-half", "feedback alone in the last half, not fifth", ("--teacher-forcing", "0.5")),
        Row("lr-half", "learning rate: 2e-3", ("--lr", "2e-3")),
        Row("lr-double", "learning rate: 8e-3", ("--lr", "8e-3")),
        Row("batch-8", "batch: 8, half the steps", ("--batch-size", "8")),
        Row("muon", "optimizer: Muon", ("--optimizer", "muon")),
        Row("strided", "form: strided encoder-forecaster, 32, 64, 96 channels", STRIDED),
    ),
    common=(
        *("--data.digits", "mnist", "--model.kernel-size", "3", "--optimizer", "adamw"),
        *("--validations", "2", "--validation-sequences", "1000", "--test-sequences", "1"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, default=Path("runs/design-study"), help="folder of the runs")
    commands = parser.add_subparsers(dest="command", required=True)
    options = {"parents": [shared], "formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    add_train(commands, **options).add_argument(
        "--seeds",
        type=int,
        choices=range(1, MAX_SEEDS + 1),
        default=1,
        help="seeds of each change; the baseline has at least three",
    )
    add_write(commands.add_parser("show", **options))
    given = parser.parse_args(arguments)
    try:
        if given.command == "train":
            study = STUDY.repeated(given.seeds)
            return int(study.train(given.folder, given.sequences, given.jobs, given.data_root) > 0)
        found = table(STUDY.repeated(MAX_SEEDS), given.folder)
        print(found)
        if given.write:
            script = "python studies/design_study.py"
            write_measured("design-study", found, f"{script} train", f"{script} show --write")
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


def table(study: Study, folder: Path) -> str:
    """Return a line for each change that has a finished row: its MSE, the difference, its time.

    The MSE of several seeds is their mean; the time is that of the first.

    Raises:
        FileNotFoundError: if fewer than two baselines are finished.
    """
    changes: dict[str, list[Row]] = {}
    for row in study.finished(folder):
        changes.setdefault(row.label, []).append(row)
    scores = {
        label: [read_config(run_of(folder, row))["validation"]["mse"] for row in rows]
        for label, rows in changes.items()
    }
    baselines = scores.get(BASELINE, [])
    if len(baselines) < 2:
        raise FileNotFoundError(
            f"{folder} has {len(baselines)} finished baselines; it needs two or more, for their spread"
        )
    mean, spread = statistics.mean(baselines), max(baselines) - min(baselines)
    lines = []
    for label, rows in changes.items():
        found, run = scores[label], run_of(folder, rows[0])
        settings, model = settings_of(train.Config, run), Forecaster.from_pretrained(run)
        change = statistics.mean(found) - mean
        mse = f"{statistics.mean(found):.1f}"
        if len(found) > 1:
            mse += f" ({len(found)} seeds: {min(found):.1f} to {max(found):.1f})"
        size = macs(model, *settings.data.frame_size, settings.context, settings.horizon)
        lines.append(
            [
                label,
                f"{sum(p.numel() for p in model.parameters()):,}",
                f"{size / 1e9:.1f} G",
                mse,
                "" if label == BASELINE else f"{change:+.1f}" if abs(change) > spread else "none",
                f"{1e3 * seconds_per_sequence(run):.0f}",
            ]
        )
    head = "change, parameters, MACs of a forecast, validation MSE, difference, ms per sequence"
    notes = (
        f"Every row: `python train.py {' '.join(study.common)} --steps STEPS --seed SEED` and its arguments.",
        f"Baselines: mean {mean:.1f}, spread {spread:.1f}.",
        machines_of(folder, [row for rows in changes.values() for row in rows]),
    )
    return "\n".join((markdown(head.split(", "), lines), *notes))


if __name__ == "__main__":
    sys.exit(main())
