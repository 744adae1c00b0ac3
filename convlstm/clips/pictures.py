"""The picture of a rollout: truth, prediction and error, one under the other, frame by frame.

Letters: N clips (a column each), T time, C channels (1 or 3), H W pixels of a clip; Y X pixels of the
picture. The picture of gray clips has at most 256 colors, the number that a GIF holds exactly.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE = 192  # pixels that the longer side of a frame is scaled up to, at most
BORDER, GAP, MARGIN, BAR = 3, 12, 16, 4
CAPTION, LABEL, NOTE, LINE = 18, 15, 13, 20  # sizes of type, height of a line

BACKGROUND, INK, MUTED, FAINT = (24, 26, 31), (230, 232, 236), (148, 152, 162), (66, 70, 80)
# Blue for what was observed, orange for what was forecast: they differ for every kind of color vision.
OBSERVED, FORECAST = (78, 161, 228), (242, 150, 34)

# Shades of gray frames, of either sign of the error, and of the rims of letters (in four colors).
GRAYS, ERRORS, RIMS = 96, 48, 16


def comparison(
    context: NDArray[np.floating],
    prediction: NDArray[np.floating],
    truth: NDArray[np.floating] | None = None,
) -> NDArray[np.uint8]:
    """Draw rollouts as an animation: a column per clip, rows for the truth, the prediction and its error.

    While the context lasts, truth and prediction both show it. A frame that was observed has a blue border,
    one that was forecast an orange one. The error is blue where the prediction is too dark, orange where
    it is too bright and black where it is right, as strong as the absolute difference (its mean over the
    channels). Without truth there is one row. Values are clipped to [0, 1]. Pixels become sharp squares, the
    largest that keep a frame within 192 x 192, or stay pixels where frames are larger.

    Args:
        context: `(N, T, C, H, W)`, C of 1 or 3, T of 1 or more.
        prediction: `(N, horizon, C, H, W)`, horizon of 1 or more.
        truth: `(N, 1 to horizon, C, H, W)`, what really followed, or None (default) where that is not known.

    Returns:
        uint8 `(T + horizon, Y, X, 3)`, for `convlstm.clips.write_clip`.

    Raises:
        ValueError: shapes that do not go together, or values that are no numbers.

    Example:
        >>> frames = convlstm.clips.comparison(np.zeros((2, 4, 1, 32, 32)), np.ones((2, 6, 1, 32, 32)))
        >>> rate = convlstm.clips.write_clip("rollout.gif", frames, fps=5)
    """
    check_rollout(context, prediction, truth)
    height, width = context.shape[-2:]
    scale = max(1, TILE // max(height, width))
    rows = rollout_rows(context, prediction, truth)
    columns, given, horizon = len(context), context.shape[1], prediction.shape[1]
    captions = [f"context {t + 1}/{given}" for t in range(given)]
    captions += [f"forecast +{t + 1}/{horizon}" for t in range(horizon)]

    tile_height, tile_width = height * scale + 2 * BORDER, width * scale + 2 * BORDER
    left = MARGIN + max(label.width for row in rows for label in row.labels) + GAP
    right = left + max(columns * (tile_width + GAP) - GAP, max(Text(c, CAPTION).width for c in captions))
    top = MARGIN + CAPTION + BAR + 2 * GAP
    row_height = max(tile_height, LINE * max(len(row.labels) for row in rows))
    bottom = top + len(rows) * (row_height + GAP) - GAP

    picture = np.empty((given + horizon, bottom + MARGIN, right + MARGIN, 3), np.uint8)
    picture[:] = BACKGROUND
    for t, caption in enumerate(captions):
        color = OBSERVED if t < given else FORECAST
        write_text(picture[t : t + 1], Text(caption, CAPTION, color), left, MARGIN + CAPTION // 2)
    draw_bar(picture[:, top - GAP - BAR : top - GAP, left:right], given)
    for row, row_top in zip(rows, range(top, bottom, row_height + GAP), strict=True):
        middle = row_top + row_height // 2
        y = middle - tile_height // 2
        for line, label in enumerate(row.labels):
            above = (len(row.labels) - 1) / 2 - line
            write_text(picture, label, left - GAP - label.width, middle - round(above * LINE))
        for n in range(columns):
            draw_tile(picture, row, n, scale, left + n * (tile_width + GAP), y)
    return picture


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


class Text(NamedTuple):
    """A line of text in a picture."""

    words: str
    size: int
    color: tuple[int, int, int] = INK

    @property
    def width(self) -> int:
        """Return its width in pixels."""
        return math.ceil(_font(self.size).getlength(self.words))


NO_TRUTH = Text("no truth", NOTE, MUTED)


class Row(NamedTuple):
    """Frames of one kind of all clips: the truth, the prediction or the error."""

    labels: list[Text]
    frames: NDArray[np.uint8]
    """(T, N, H, W, 3)."""
    borders: NDArray[np.uint8]
    """(T, 3)."""
    end: int
    """The first frame whose truth is not known."""


def rollout_rows(context: NDArray, prediction: NDArray, truth: NDArray | None) -> list[Row]:
    """Return the rows of truth, prediction and error, or of the prediction alone without a truth."""
    given, horizon = context.shape[1], prediction.shape[1]
    seen = _shades(context)  # (T, N, H, W, 3)
    frames = np.concatenate([seen, _shades(prediction)])
    borders = np.array([OBSERVED] * given + [FORECAST] * horizon, np.uint8)
    forecast = Row([Text("prediction", LABEL)], frames, borders, given + horizon)
    if truth is None:
        return [forecast]

    known = truth.shape[1]

    def blank(length: int) -> NDArray[np.uint8]:
        return np.broadcast_to(np.array(BACKGROUND, np.uint8), (length, *seen.shape[1:]))

    frames = np.concatenate([seen, _shades(truth), blank(horizon - known)])
    borders = np.array([OBSERVED] * (given + known) + [FAINT] * (horizon - known), np.uint8)
    observed = Row([Text("truth", LABEL)], frames, borders, given + known)

    frames = np.concatenate([blank(given), _errors(prediction[:, :known], truth), blank(horizon - known)])
    borders = np.array([FAINT] * (given + horizon), np.uint8)
    legend = [Text("too dark", NOTE, OBSERVED), Text("too bright", NOTE, FORECAST)]
    error = Row([Text("error", LABEL), *legend], frames, borders, given + known)
    return [observed, forecast, error]


def draw_tile(picture: NDArray[np.uint8], row: Row, clip: int, scale: int, left: int, top: int) -> None:
    """Draw a clip of a row with its border into (T, Y, X, 3), each pixel as scale x scale ones."""
    frames = repeat(row.frames[:, clip], "t h w rgb -> t (h a) (w b) rgb", a=scale, b=scale)
    height, width = (side + 2 * BORDER for side in frames.shape[1:3])
    tile = picture[:, top : top + height, left : left + width]
    tile[:] = rearrange(row.borders, "t rgb -> t 1 1 rgb")
    tile[:, BORDER:-BORDER, BORDER:-BORDER] = frames
    if NO_TRUTH.width < width - 2 * BORDER:
        x = left + (width - NO_TRUTH.width) // 2
        write_text(picture[row.end :], NO_TRUTH, x, top + height // 2)


def _shades(clips: NDArray) -> NDArray[np.uint8]:
    """Return clips (N, T, C, H, W) as colors (T, N, H, W, 3)."""
    levels = 256 if clips.shape[2] == 3 else GRAYS
    shades = np.rint(np.rint(clips.clip(0, 1) * (levels - 1)) * (255 / (levels - 1))).astype(np.uint8)
    shades = rearrange(shades, "n t c h w -> t n h w c")
    return np.broadcast_to(shades, (*shades.shape[:-1], 3))  # (T, N, H, W, 3)


def _errors(prediction: NDArray, truth: NDArray) -> NDArray[np.uint8]:
    """Return differences of clips (N, T, C, H, W) as colors (T, N, H, W, 3)."""
    difference = prediction.clip(0, 1) - truth.clip(0, 1)
    strength = np.rint(np.abs(difference).mean(axis=2) * (ERRORS - 1)) / (ERRORS - 1)  # (N, T, H, W)
    color = np.where(difference.sum(axis=2)[..., None] < 0, OBSERVED, FORECAST)  # (N, T, H, W, 3)
    return rearrange(np.rint(strength[..., None] * color).astype(np.uint8), "n t h w rgb -> t n h w rgb")


def draw_bar(bar: NDArray[np.uint8], given: int) -> None:
    """Draw, into (T, Y, X, 3), how far each frame is on the way through context and forecast."""
    ends = np.rint(np.linspace(0, bar.shape[2], len(bar) + 1)).astype(int)
    bar[:] = FAINT
    for t in range(len(bar)):
        bar[t:, :, ends[t] : ends[t + 1]] = OBSERVED if t < given else FORECAST
    bar[:, :, ends[given] : ends[given] + 2] = BACKGROUND


def write_text(picture: NDArray[np.uint8], text: Text, left: int, middle: int) -> None:
    """Write one line into (T, Y, X, 3), on the bare background, vertically centred at `middle`."""
    mask = Image.new("L", (text.width, LINE))
    ImageDraw.Draw(mask).text((0, LINE // 2), text.words, 255, _font(text.size), anchor="lm")
    cover = np.rint(np.asarray(mask) * ((RIMS - 1) / 255)) / (RIMS - 1)  # (LINE, width)
    background, color = np.array(BACKGROUND), np.array(text.color)
    line = picture[:, middle - LINE // 2 : middle + LINE - LINE // 2, left : left + text.width]
    line[:] = np.rint(background + cover[..., None] * (color - background))


def check_rollout(context: NDArray, prediction: NDArray, truth: NDArray | None) -> None:
    """Raise ValueError unless clips (N, T, C, H, W) go together and can be drawn."""
    parts = {"context": context, "prediction": prediction} | ({} if truth is None else {"truth": truth})
    for name, part in parts.items():
        if part.ndim != 5 or part.shape[2] not in (1, 3) or 0 in part.shape:
            raise ValueError(
                f"{name} has shape {part.shape}; it needs (N, T, C, H, W), C of 1 or 3, none of them 0"
            )
        if (part.shape[0], *part.shape[2:]) != (context.shape[0], *context.shape[2:]):
            raise ValueError(f"{name} has shape {part.shape}, context {context.shape}; only T may differ")
        if np.isnan(part).any():
            raise ValueError(f"{name} has values that are no numbers (nan); there is no picture of them")
    if truth is not None and truth.shape[1] > prediction.shape[1]:
        raise ValueError(
            f"truth has {truth.shape[1]} frames, prediction {prediction.shape[1]}; truth needs that or less"
        )
