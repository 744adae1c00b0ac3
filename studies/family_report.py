"""Results of the recurrent family: tables as Markdown, two charts, and rollouts side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

import train
from benchmarks.timing import markdown
from convlstm import rollout
from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import Forecaster
from convlstm.report import read_run
from convlstm.training.settings import settings_of
from studies.study import Study, macs, run_of

COPY = "copy last frame"
COLUMNS = (1, 4, 7, 10)  # forecast frames of the rollouts, after the last frame of the context
BACK = (5, 19)  # frames before the last given one, in the table of gradients

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""(x, y) of each line of a chart, by its label."""

# Okabe and Ito's colors, which every kind of color vision tells apart; fully connected networks are dashed.
COLORS = {"RNN": "#E69F00", "GRU": "#009E73", "LSTM": "#0072B2", "LSTM, peepholes": "#CC79A7"}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 11,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.markersize": 3.5,
    "svg.hashsalt": "convlstm",  # the same numbers give the same file
}


def results_table(study: Study, folder: Path) -> str:
    """Return a line for each finished row: sizes and scores."""
    head = ["cell", "parameters", "MACs per frame", "validation MSE", "test MSE", "SSIM (range 1)"]
    lines, copied = [], {}
    for row in study.finished(folder):
        run = run_of(folder, row)
        config = settings_of(train.Config, run)
        model, scores = Forecaster.from_pretrained(run), test_scores(run)
        copied = scores[COPY]
        lines.append(
            [
                row.label,
                f"{sum(p.numel() for p in model.parameters()):,}",
                f"{macs(model, *config.data.frame_size) / 1e6:.1f} M",
                f"{read_config(run)['validation']['mse']:.1f}",
                *mse_and_ssim(scores[type(model).__name__]),
            ]
        )
    lines.append([COPY, "0", "0", "", *mse_and_ssim(copied)])
    return markdown(head, lines)


def test_scores(run: Path) -> Mapping[str, Any]:
    """Return the test scores of a run by predictor, those on the most sequences if there are several."""
    newest = max(run.glob("test-*.json"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    return json.loads(newest.read_text(encoding="utf-8"))


def mse_and_ssim(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Return the MSE with its standard error, and the SSIM."""
    return (
        f"{scores['mse']:.1f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{scores['mse_stderr'] or 0:.1f}",
        f"{scores['ssim']:.3f}",
    )


def gradients_table(study: Study, gradients: Mapping[str, Any]) -> str:
    """Return how much of the gradient is left some frames back."""
    back = [n for n in BACK if n < gradients["context"]]
    head = ["cell", *(f"{when}, {n} back" for when in ("untrained", "trained") for n in back)]
    lines = []
    for row in (row for row in study.rows if row.name in gradients["trained"]):
        left = [relative(gradients[when][row.name]) for when in ("initial", "trained")]
        lines.append([row.label, *(f"{r[n]:.2g}" for r in left for n in back)])
    return markdown(head, lines)


def recall_table(study: Study, recalled: Mapping[str, Any]) -> str:
    """Return how well each cell learned to recall, and how far back its gradient reaches."""
    head = ["cell", "squared error per pixel", "gradient untrained", "gradient trained"]
    lines = [
        [row.label, f"{of['error']:.3f}", *(f"{relative(of[w])[-1]:.2g}" for w in ("initial", "trained"))]
        for row in study.rows
        if (of := recalled.get(row.name))
    ]
    return markdown(head, lines)


def relative(norms: Sequence[float]) -> list[float]:
    """Return the norms of frames 1, ..., T as shares of the last one's, the last one first."""
    return [norm / norms[-1] for norm in reversed(norms)]


def validation_curves(study: Study, folder: Path) -> Curves:
    """Return the validation MSE of each finished row against the training sequences."""
    curves = {}
    for row in study.finished(folder):
        run = run_of(folder, row)
        size = settings_of(train.Config, run).batch_size
        points = [(v["step"] * size, v["val/mse"]) for v in read_run(run).metrics if "val/mse" in v]
        curves[row.label] = ([x for x, _ in points], [y for _, y in points])
    return curves


def gradient_panels(
    study: Study, gradients: Mapping[str, Any], recalled: Mapping[str, Any]
) -> Mapping[str, Curves]:
    """Return relative gradient norms against frames back, by the title of a chart and the label of a line."""

    def curves(norms: Mapping[str, Sequence[float]]) -> Curves:
        return {name: (range(len(values)), relative(values)) for name, values in norms.items()}

    def by_label(norms: Mapping[str, Sequence[float]]) -> Curves:
        return curves({row.label: norms[row.name] for row in study.rows if row.name in norms})

    return {
        "Untrained": by_label(gradients["initial"]),
        "Trained on Moving MNIST": by_label(gradients["trained"]),
        "Untrained FC-RNN, by spectral radius": curves(
            {f"radius {radius}": norms for radius, norms in gradients["radius"].items()}
        ),
        "Trained to recall the first frame": by_label({name: of["trained"] for name, of in recalled.items()}),
    }


def draw_validation(curves: Curves, path: Path) -> None:
    """Draw the validation MSE against the training sequences."""
    with figure(path, figsize=(7, 4), layout="constrained") as (fig, axes):
        draw(axes, curves, marker="o")
        axes.set(title="Validation MSE (lower is better)", xlabel="training sequences")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        fig.legend(*axes.get_legend_handles_labels(), loc="outside right center")


def draw_gradients(panels: Mapping[str, Curves], path: Path) -> None:
    """Draw one chart of relative gradient norms for each panel."""
    with figure(path, 2, 2, figsize=(9, 7), layout="constrained") as (fig, grid):
        fig.suptitle("Gradient norm, relative to the last frame's", x=0.01, ha="left", size=12)
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
            draw(axes, curves)
            axes.set(title=title, xlabel="frames back", yscale="log")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if any(label.startswith("radius") for label in curves):
                axes.legend()
        fig.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def draw(axes: Axes, curves: Curves, **options: Any) -> None:
    """Draw lines, those of cells in their colors and all others from light to dark."""
    for number, (label, (x, y)) in enumerate(curves.items(), 1):
        color = COLORS.get(
            label.removeprefix("FC-").removeprefix("Conv"), str(0.8 - 0.8 * number / len(curves))
        )
        axes.plot(x, y, label=label, color=color, linestyle="--" if "FC" in label else "-", **options)


def draw_rollouts(study: Study, folder: Path, path: Path, sequence: int = 0) -> None:
    """Draw the truth and each network's forecast of one test sequence, one under the other."""
    rows = study.finished(folder)
    config = settings_of(train.Config, run_of(folder, rows[0]))
    clip = train.make_source(config, "test").batch([sequence])  # (1, T, C, H, W)
    context, truth = clip.split((config.context, config.horizon), dim=1)
    strips = {"truth": truth}
    for row in rows:
        model = Forecaster.from_pretrained(run_of(folder, row))
        strips[row.label] = rollout(model, context, config.horizon)
    columns = [n for n in COLUMNS if n <= config.horizon]
    captions = ["last given", *(f"+{n}" for n in columns)]
    size = (1.5 * len(captions) + 1.6, 1.5 * len(strips) + 0.3)
    with figure(path, len(strips), len(captions), figsize=size, layout="compressed") as (_, grid):
        for line, (label, frames) in zip(grid, strips.items(), strict=True):
            shown = [context[0, -1], *(frames[0, n - 1] for n in columns)]  # (C, H, W) each
            for axes, caption, frame in zip(line, captions, shown, strict=True):
                axes.imshow(frame[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                if label == "truth":
                    axes.set_title(caption, loc="center")
            line[0].set_ylabel(label.replace(", ", ",\n"), rotation=0, ha="right", va="center")


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """Make a figure on white and its axes, and save it at the end."""
    with mpl.rc_context(STYLE):
        fig = Figure(**options)
        yield fig, fig.subplots(rows, columns)
        fig.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
