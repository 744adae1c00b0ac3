"""The shipped networks in the tables of the field: Moving MNIST, ten frames from ten.

    python studies/field.py --write                      from the notes of the shipped weights
    python studies/field.py --write --speed              frames per second, too, measured now
    python studies/field.py --write --checkpoints runs/NAME     cross-entropy of runs, too

The numbers of shipped weights are those that studies/ship.py noted, and those of a run are in its
evaluation.json, which `python -m convlstm evaluate RUN CLIPS --json RUN/evaluation.json` writes. With
--write the tables are written into README.md and the documentation.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
import train
from benchmarks.timing import add_write, exact_convolutions, interleave, markdown, medians, write_measured
from convlstm import Forecaster, rollout
from convlstm.evaluation import Evaluation, Score
from convlstm.evaluation.results import PredictorScores
from convlstm.hub.checkpoint import read_config, read_evaluations
from convlstm.hub.pretrained import ARCHITECTURES
from convlstm.training.hardware import choose_device
from convlstm.training.settings import settings_of
from studies.ship import LENGTHS, WEIGHTS, hardware
from studies.study import macs

ROUNDS = 20  # of forecasts that are timed

METHOD = ("method", "parameters (M)", "MACs (G)")
METRICS = ("MSE", "MAE", "SSIM (range 2)", "PSNR")
HEAD = (*METHOD, "training sequences", *METRICS, "MSE, 2000 epochs")
IN_README = (*METHOD, "training sequences", "MSE", "SSIM (range 2)")
IN_DOCS = (*METHOD, *METRICS, "MSE, 2000 epochs")  # the text before it has the training sequences
BESIDE = (*METHOD, "training sequences", "MSE")
README_ROWS = ("ConvLSTM-S", "TAU", "PredRNN", "copy last frame")
# OpenSTL's published table, after 200 epochs of 10,000 sequences: github.com/chengtan9907/OpenSTL,
# docs/en/model_zoos/video_benchmarks.md.
PUBLISHED = (
    ("ConvLSTM-S", "15.0", "56.8", "2,000,000", "29.80", "90.64", ".9288", "22.10", "22.41"),
    ("ConvLSTM-L", "33.8", "127.0", "2,000,000", "27.78", "86.14", ".9343", "22.44", ""),
    ("PhyDNet", "3.1", "15.3", "2,000,000", "28.19", "78.64", ".9374", "22.62", "20.35"),
    ("SimVP+gSTA-S", "46.8", "16.5", "2,000,000", "26.69", "77.19", ".9402", "22.78", "15.05"),
    ("TAU", "44.7", "16.0", "2,000,000", "24.60", "71.93", ".9454", "23.19", "15.69"),
    ("PredRNN", "23.8", "116.0", "2,000,000", "23.97", "72.82", ".9462", "23.28", "26.43"),
    ("PredRNN++", "38.6", "171.7", "2,000,000", "22.06", "69.58", ".9509", "23.65", "14.07"),
)
EVALUATION = "evaluation.json"  # in a run
NOTE = """\
MSE and MAE are summed over the pixels of a frame, of unclipped predictions; SSIM and PSNR are of predictions
clipped to [0, 1]. MACs are those of one forecast. The published rows are OpenSTL's, on the canonical test
file; ours are on 10,000 test sequences made by the same rules from MNIST's test digits. Elsewhere, after up
to 2,000 epochs: SwinLSTM 17.7, VMRNN-D 16.5, PredFormer 12.4."""
OF_SHIPPED = """\
Ten frames from ten, on 10,000 test sequences of digits that are in neither the training nor the validation
set; each network beside the last frame copied, on the same sequences."""

# Nats per frame: table 1 of Kalchbrenner et al. 2016 (arXiv 1610.00527), but FC-LSTM from Shi et al. 2015
# (arXiv 1506.04214).
CROSS_ENTROPY = (
    ("FC-LSTM", 483.2),
    ("ConvLSTM (2015)", 367.2),
    ("conditional future predictor", 341.2),
    ("DFN", 285.2),
    ("Patraucean et al.", 179.8),
    ("VPN (each pixel given the true ones before it)", 87.6),
    ("floor of the data", 86.3),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write them if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=WEIGHTS, help="folder of all weights (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        default=(),
        help=f"runs of train.py with an {EVALUATION} and a probability as output",
    )
    parser.add_argument("--speed", action="store_true", help="measure frames per second")
    parser.add_argument("--device", default="auto", help="of --speed: cuda, mps or cpu")
    add_write(parser)
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
        configs = shipped(options.folder)
        runs = [cross_entropy_of(run) for run in options.checkpoints]
        rows = errors(options.folder, configs)
        tables = [
            ("field", "", f"{columns(rows, IN_DOCS)}\n{NOTE}"),
            ("field-in-short", "", columns(in_short(rows, *README_ROWS), IN_README)),
            ("beside-the-published", "", columns(in_short(rows, "ConvLSTM-S"), BESIDE)),
            ("shipped", "", shipped_table(options.folder)),
        ]
        if options.speed:
            given = " --speed" + (f" --device {options.device}" if options.device != "auto" else "")
            tables.append(("forecast-speed", given, speed_table(options.folder, configs, device)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if runs:
        given = " ".join([" --checkpoints", *map(str, options.checkpoints)])
        tables.append(("cross-entropy", given, cross_entropy_table(runs)))
    base = "python studies/field.py --write"
    if options.folder != WEIGHTS:
        base += f" --folder {options.folder}"
    for name, given, table in tables:
        print(f"{table}\n")
        if options.write:
            write_measured(name, table, f"{base}{given}", show_commands=name != "field-in-short")


def shipped(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the config.json, by name, of the shipped weights that were trained on MNIST's own digits."""
    there = {name: read_config(folder / name) for name in ARCHITECTURES if (folder / name).is_dir()}
    return {
        name: config
        for name, config in there.items()
        if {"trained", "training"} <= config.keys() and config["training"]["data"]["digits"] == "mnist"
    }


def evaluation_of(folder: Path, protocol: str) -> Evaluation:
    """Return the evaluation of shipped weights under a protocol."""
    found = (Evaluation.from_dict(values) for values in read_evaluations(folder))
    return next(evaluation for evaluation in found if evaluation.protocol.name == protocol)


def errors(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of the field's table: the published ones, ours, and copying the last frame."""
    rows: list[tuple[str, ...]] = list(PUBLISHED)
    evaluations = {name: evaluation_of(folder / name, "openstl") for name in configs}
    for name, found in evaluations.items():
        model = Forecaster.from_pretrained(folder / name)
        sizes = (
            f"{parameters(model) / 1e6:.1f}",
            f"{macs(model, *found.frame[1:], found.context, found.horizon) / 1e9:.1f}",
            f"{configs[name]['trained']['sequences']:,}",
        )
        rows.append((f"**{name}** (ours)", *sizes, *scores(found.model, METRICS), ""))
    for found in list(evaluations.values())[:1]:  # all are on the same sequences
        rows += [(copy.name, "0", "0", "0", *scores(copy, METRICS), "") for copy in found.baselines]
    return rows


def parameters(model: Forecaster) -> int:
    """Return how many parameters a network has."""
    return sum(p.numel() for p in model.parameters())


def scores(found: PredictorScores, names: Sequence[str]) -> list[str]:
    """Return scores as texts."""
    metrics = found.metrics
    texts = {
        "MSE": f"{metrics['mse'].mean:.2f}",
        "MAE": f"{metrics['mae'].mean:.2f}",
        "SSIM (range 2)": f"{metrics['ssim_range2'].mean:.4f}".lstrip("0"),
        "PSNR": f"{metrics['psnr'].mean:.2f}",
    }
    if "ssim" in metrics:
        texts["SSIM (range 1)"] = f"{metrics['ssim'].mean:.4f}".lstrip("0")
    return [texts[name] for name in names]


def shipped_table(folder: Path) -> str:
    """Return the scores of all shipped networks as Markdown, each beside copying the last frame."""
    names = ("MSE", "MAE", "SSIM (range 1)", "SSIM (range 2)", "PSNR")
    rows, notes = [], []
    for name in ARCHITECTURES:
        if (folder / name / EVALUATION).is_file():
            found, trained = evaluation_of(folder / name, "strict"), read_config(folder / name)["trained"]
            size = f"{parameters(Forecaster.from_pretrained(folder / name)):,}"
            sequences = f"{trained['sequences']:,}"
            rows.append((f"`{name}`", size, sequences, *scores(found.model, names)))
            rows += [(copy.name, "0", "0", *scores(copy, names)) for copy in found.baselines]
            mse = found.model["mse"]
            notes.append(
                f"- `{name}`: 95% bootstrap interval of the MSE {mse.low:.2f} to {mse.high:.2f}; trained for "
                f"{trained['minutes']:.0f} minutes on {trained['hardware']}."
            )
    table = markdown(("network", "parameters", "training sequences", *names), rows)
    return "\n".join([table, OF_SHIPPED, "", *notes])


def in_short(rows: Iterable[Sequence[str]], *names: str) -> list[Sequence[str]]:
    """Return the rows of our networks, and those of these names."""
    return [row for row in rows if row[0].startswith("**") or row[0] in names]


def columns(rows: Iterable[Sequence[str]], names: Sequence[str]) -> str:
    """Return some columns of the field's table as Markdown."""
    return markdown(names, ([row[HEAD.index(name)] for name in names] for row in rows))


def speed_table(folder: Path, names: Iterable[str], device: torch.device) -> str:
    """Return how many frames a second the networks forecast on a device, as Markdown."""
    rows = []
    for name in names:
        model = Forecaster.from_pretrained(folder / name, device=device)
        speed = frames_per_second(model, evaluation_of(folder / name, "openstl"), device)
        rows.append((f"`{name}`", f"{speed:.1f}"))
    note = f"One sequence at a time, ten frames from ten, in float32: {hardware(device)}."
    return f"{markdown(('network', 'frames forecast per second'), rows)}\n{note}"


def frames_per_second(model: Forecaster, evaluation: Evaluation, device: torch.device) -> float:
    """Return how many frames a second are forecast; each forecast reads its context anew."""
    context = torch.rand(1, evaluation.context, *evaluation.frame, device=device)
    jobs = {"rollout": lambda: rollout(model, context, evaluation.horizon)}
    with exact_convolutions():
        return evaluation.horizon / medians(interleave(jobs, ROUNDS, device))["rollout"]


def cross_entropy_of(run: Path) -> tuple[str, str, float]:
    """Return the name of a run, the cross-entropy of its evaluation as text, and as number.

    Raises:
        FileNotFoundError: if there is no such run, or if it was not evaluated.
        ValueError: if the run's output is no probability, or if it trained on other digits than MNIST's.
    """
    settings = settings_of(train.Config, run)
    if settings.data.label != "mnist":
        raise ValueError(f"{run} is of other digits than MNIST's; it needs --data.digits mnist")
    file = run / EVALUATION
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there; it needs python -m convlstm evaluate {run} CLIPS --json {file}"
        )
    try:
        (found,) = map(Evaluation.from_dict, read_evaluations(run))
    except ValueError as error:
        raise ValueError(f"{file} is damaged, or no evaluation: {error}") from error
    if (found.context, found.horizon) != LENGTHS:
        raise ValueError(f"{file} is of {found.horizon} frames from {found.context}; it needs 10 from 10")
    if "cross_entropy" not in found.model.metrics:
        raise ValueError(f"{run} gives no probabilities; it needs --model.output sigmoid of train.py")
    score, size = found.model["cross_entropy"], parameters(Forecaster.from_pretrained(run)) / 1e6
    trained = settings.steps * settings.batch_size
    label = f"**{run.name}** (ours), {size:.2f} M parameters, {trained:,} training sequences"
    return label, with_interval(score, 1), score.mean


def cross_entropy_table(ours: Sequence[tuple[str, str, float]]) -> str:
    """Return the published values and ours, from the highest to the lowest, as Markdown."""
    rows = [*((name, f"{value}", value) for name, value in CROSS_ENTROPY), *ours]
    ordered = sorted(rows, key=lambda row: -row[2])
    table = markdown(["method", "cross-entropy, nats per frame"], [row[:2] for row in ordered])
    note = "Ours: probabilities from 1e-6 to 1 - 1e-6; in brackets is the 95% bootstrap interval."
    return f"{table}\n{note}"


def with_interval(score: Score, digits: int) -> str:
    """Return a mean and its 95% interval."""
    return f"{score.mean:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


if __name__ == "__main__":
    main()
