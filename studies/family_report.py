"""What the recurrent family's runs came to: tables as Markdown, two charts, and rollouts side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import repeat
from PIL import Image
from torch import nn

import train
from benchmarks.timing import markdown
from convlstm import rollout
from convlstm.clips import pictures
from convlstm.hub.checkpoint import load_checkpoint, read_config
from convlstm.models.forecaster import as_forecaster
from convlstm.models.fully_connected import FullyConnectedForecaster
from convlstm.report import read_run
from convlstm.report.plots import Curve, number
from convlstm.training.settings import settings_of
from studies.family_rows import STUDY
from studies.macs import macs
from studies.studies import machines_of, run_of, seconds_per_sequence
from studies.svg import Panel, write_svg

COPY = "copy last frame"
COLUMNS = (1, 4, 7, 10)  # forecast frames of the strip, after the last frame of the context
SCALE, SPACE, LABEL = 2, 6, 15  # pixels of a pixel, between frames, size of type
BACK = (1, 5, 10, 19)  # frames before the last one given, in the table of gradients


def results_table(folder: Path) -> str:
    """Return a line per finished row: sizes, scores, time."""
    head = ["cell", "layers", "parameters", "MACs per frame", "validation MSE", "test MSE", "SSIM (range 1)"]
    lines, copied = [], {}
    for row in STUDY.finished(folder):
        run = run_of(folder, row)
        config = settings_of(train.Config, run)
        model, scores = as_forecaster(load_checkpoint(run)), test_scores(run)
        copied = scores[COPY]
        height, width = config.data.frame_size
        lines.append(
            [
                row.label,
                layers(model),
                f"{sum(p.numel() for p in model.parameters()):,}",
                f"{macs(model, height, width) / 1e6:.1f} M",
                f"{read_config(run)['validation']['mse']:.1f}",
                *in_words(scores[type(model).__name__]),
                f"{1e3 * seconds_per_sequence(run):.0f}",
            ]
        )
    lines.append([COPY, "", "0", "0", "", *in_words(copied), ""])
    table = markdown([*head, "ms of training per sequence"], lines)
    return f"{machines_of(folder, STUDY.finished(folder))}\n\n{table}"


def test_scores(run: Path) -> Mapping[str, Any]:
    """Return the scores of a run's test, by predictor; of several, that on most sequences."""
    most = max(run.glob("test-*.json"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    return json.loads(most.read_text(encoding="utf-8"))


def in_words(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Return MSE with its standard error, and SSIM."""
    return f"{scores['mse']:.1f} ± {scores['mse_stderr'] or 0:.1f}", f"{scores['ssim']:.3f}"


def layers(model: nn.Module) -> str:
    """Return how many recurrent layers a network has, and of what size."""
    config: Any = model.config
    if isinstance(model, FullyConnectedForecaster):
        return f"{config.num_layers} of {config.hidden_size}"
    sizes = ", ".join(map(str, dict.fromkeys(config.hidden_channels)))
    return f"{len(config.hidden_channels)} of {sizes}, {config.kernel_size}x{config.kernel_size}"


def gradients_table(gradients: Mapping[str, Any]) -> str:
    """Return how much of the gradient is left so many frames back, and the norms before clipping."""
    back = [n for n in BACK if n < gradients["context"]]
    head = ["cell", *(f"{when}, {n} back" for when in ("untrained", "trained") for n in back)]
    head += ["norm of the weights' gradient in training: median", "largest", "clipped to"]
    lines = []
    for row in (row for row in STUDY.rows if row.name in gradients["trained"]):
        left = [relative(gradients[when][row.name]) for when in ("initial", "trained")]
        norms = gradients["before_clipping"][row.name]
        values = [norms[name] for name in ("median", "largest", "clip_norm")]
        lines.append([row.label, *(number(r[n], 2) for r in left for n in back), *map(number, values)])
    return markdown(head, lines)


def recall_table(recalled: Mapping[str, Any]) -> str:
    """Return how well each cell learned to recall, and how far back its gradient reaches."""
    head = [
        "cell",
        "squared error per pixel",
        "gradient of the first frame, relative to the last: untrained",
        "trained",
    ]
    lines = [
        [row.label, f"{of['error']:.3f}", *(number(relative(of[w])[-1], 2) for w in ("initial", "trained"))]
        for row in STUDY.rows
        if (of := recalled.get(row.name))
    ]
    return markdown(head, lines)


def relative(norms: Sequence[float]) -> list[float]:
    """Return norms of frame 1, ..., T as shares of the last one's, the last one first."""
    return [norm / norms[-1] for norm in reversed(norms)]


def draw_validation(folder: Path, path: Path) -> None:
    """Write validation MSE against sequences trained on, as SVG."""
    curves = []
    for row in STUDY.finished(folder):
        run = run_of(folder, row)
        size = settings_of(train.Config, run).batch_size
        points = [(v["step"] * size, v["val/mse"]) for v in read_run(run).metrics if "val/mse" in v]
        curves.append(Curve(row.label, [x for x, _ in points], [y for _, y in points], row.kind))
    panel = Panel(
        "Validation MSE, logarithmic (lower is better)", curves, "training sequences", logarithmic=True
    )
    write_svg(path, "Validation MSE of seven recurrent networks as they train", [panel], columns=1)


def draw_gradients(gradients: Mapping[str, Any], recalled: Mapping[str, Any], path: Path) -> None:
    """Write the gradient norm against how many frames back, as SVG: one panel for each kind of network."""

    def panel(title: str, norms: Mapping[str, Sequence[float]]) -> Panel:
        curves = [
            reach_curve(row.label, norms[row.name], row.kind) for row in STUDY.rows if row.name in norms
        ]
        return Panel(title, curves, "frames back", logarithmic=True)

    radii = [
        reach_curve(f"radius {radius}", norms, kind)
        for kind, (radius, norms) in enumerate(gradients["radius"].items())
    ]
    panels = [
        panel("Gradient norm, untrained", gradients["initial"]),
        panel("Gradient norm, trained on Moving MNIST", gradients["trained"]),
        Panel("Gradient norm, untrained FC-RNN by spectral radius", radii, "frames back", logarithmic=True),
        panel(
            "Gradient norm, trained to recall the first frame",
            {name: of["trained"] for name, of in recalled.items()},
        ),
    ]
    write_svg(path, "Norm of the gradient that reaches each earlier frame", panels, columns=2)


def reach_curve(name: str, norms: Sequence[float], kind: int) -> Curve:
    """Return relative norms against the number of frames back."""
    values = relative(norms)
    return Curve(name, list(range(len(values))), values, kind)


def draw_rollouts(folder: Path, path: Path, sequence: int = 0) -> None:
    """Write a PNG: the truth and each network's forecast of one test sequence, one under the other."""
    rows = STUDY.finished(folder)
    config = settings_of(train.Config, run_of(folder, rows[0]))
    clip = train.make_source(config, "test").batch([sequence])  # (1, T, C, H, W)
    context, truth = clip.split((config.context, config.horizon), dim=1)
    strips = {"truth": truth}
    for row in rows:
        strips[row.label] = rollout(
            as_forecaster(load_checkpoint(run_of(folder, row))), context, config.horizon
        )
    columns = [n for n in COLUMNS if n <= config.horizon]
    last = pictures.shades(context[:, -1:].numpy())[0]  # (1, H, W, 3)
    shown = {
        label: np.concatenate([last, *(pictures.shades(frames[:, n - 1 : n].numpy())[0] for n in columns)])
        for label, frames in strips.items()
    }
    save_strips(path, shown, ["last given", *(f"+{n}" for n in columns)])


def save_strips(path: Path, strips: Mapping[str, np.ndarray], captions: Sequence[str]) -> None:
    """Write strips of frames (N, H, W, 3), labelled on the left, with captions above their columns."""
    labels = [pictures.Text(label, LABEL) for label in strips]
    left = 2 * SPACE + max(label.width for label in labels)
    height, width = (SCALE * side + SPACE for side in next(iter(strips.values())).shape[1:3])
    shape = (1, pictures.LINE + SPACE + len(strips) * height, left + len(captions) * width, 3)
    picture = np.empty(shape, np.uint8)
    picture[:] = pictures.BACKGROUND
    for column, words in enumerate(captions):
        text = pictures.Text(words, LABEL, pictures.FORECAST if column else pictures.OBSERVED)
        middle = left + column * width + (width - SPACE - text.width) // 2
        pictures.write_text(picture, text, middle, pictures.LINE // 2 + SPACE // 2)
    for row, (label, frames) in enumerate(zip(labels, strips.values(), strict=True)):
        top = pictures.LINE + SPACE + row * height
        pictures.write_text(picture, label, SPACE, top + height // 2)
        for column, frame in enumerate(frames):
            x = left + column * width
            large = repeat(frame, "h w rgb -> (h a) (w b) rgb", a=SCALE, b=SCALE)
            picture[0, top : top + height - SPACE, x : x + width - SPACE] = large
    Image.fromarray(picture[0]).save(path)
