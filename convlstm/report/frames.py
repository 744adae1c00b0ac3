"""The pictures of a rollout in a page: an animation, and the frames of the forecast side by side.

Letters: T time, C channels (1 or 3), H W pixels of a frame; Y X pixels of a picture.
"""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from PIL import Image

from convlstm.clips.pictures import (
    BACKGROUND,
    BAR,
    BORDER,
    FORECAST,
    NOTE,
    OBSERVED,
    Row,
    Text,
    check_rollout,
    draw_bar,
    draw_tile,
    rollout_rows,
    write_text,
)

TILE = 128  # pixels of the longer side of a small frame, scaled up, at most
LARGEST = 192  # pixels of the longer side of a large frame, scaled down, at most: a page holds many frames
GAP, LINE = 10, 20
COLUMNS, SPACE = 10, 4  # frames side by side at most, pixels between them
DURATION = 200  # milliseconds that a frame is shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A rollout to show."""

    title: str
    """Such as "Median"."""
    note: str = ""
    """Beside the title, such as the score."""
    context: NDArray[np.floating]
    """The frames given, (T, C, H, W) in [0, 1], C of 1 or 3."""
    prediction: NDArray[np.floating]
    """The forecast, (horizon, C, H, W)."""
    truth: NDArray[np.floating] | None = None
    """The frames that followed, (1 to horizon, C, H, W), or None if they are not known."""

    def __post_init__(self) -> None:
        truth = None if self.truth is None else self.truth[None]
        check_rollout(self.context[None], self.prediction[None], truth)


def animation(shown: Shown) -> bytes:
    """Return an animated WebP of truth, prediction and error, from the first frame of the context on.

    Borders and colors are those of `convlstm.clips.pictures.comparison`, in a single row of tiles.
    """
    tiles = _tiles(shown)
    given, horizon = len(shown.context), len(shown.prediction)
    height, width = tiles[0].frames.shape[2:4]
    scale = max(1, TILE // max(height, width))
    tall, wide = height * scale + 2 * BORDER, width * scale + 2 * BORDER
    right = len(tiles) * (wide + GAP) - GAP
    picture = np.empty((given + horizon, LINE + tall + GAP + BAR + GAP + LINE, right, 3), np.uint8)
    picture[:] = BACKGROUND
    for n, tile in enumerate(tiles):
        left = n * (wide + GAP)
        label = Text(tile.labels[0].words, NOTE)
        if label.width <= wide:
            write_text(picture, label, left, LINE // 2)
        draw_tile(picture, tile, 0, scale, left, LINE)
    below = LINE + tall + GAP
    draw_bar(picture[:, below : below + BAR], given)
    for t in range(given + horizon):
        words = f"context {t + 1}/{given}" if t < given else f"forecast +{t - given + 1}/{horizon}"
        caption = Text(words, NOTE, OBSERVED if t < given else FORECAST)
        if caption.width <= right:
            write_text(picture[t : t + 1], caption, 0, below + BAR + GAP + LINE // 2 - 2)
    images = [Image.fromarray(frame) for frame in picture]
    # Lossless, in every color, and a fourth of a GIF's size. More effort (up to 100 and 6) gains little.
    options = {"lossless": True, "quality": 50, "method": 2}
    buffer = BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], duration=DURATION, loop=0, **options
    )
    return buffer.getvalue()


def strip(shown: Shown) -> tuple[list[int], dict[str, bytes]]:
    """Return frames of the forecast side by side, at most `COLUMNS` of them, evenly spread.

    Returns:
        The numbers of the frames, 1 for the first after the context, and PNGs by label, all of one size. Each
        frame is in the middle of its share of the width; frames after the end of the truth are transparent.
    """
    given, horizon = len(shown.context), len(shown.prediction)
    columns = min(horizon, COLUMNS)
    chosen = [round((n + 1) * horizon / columns) for n in range(columns)]
    pictures = {}
    for tile in _tiles(shown):
        frames = tile.frames[given:, 0]
        pixels = np.zeros((columns, *frames.shape[1:3], 4), np.uint8)
        for n, number in enumerate(chosen):
            if given + number <= tile.end:
                pixels[n, ..., :3], pixels[n, ..., 3] = frames[number - 1], 255
        pixels = np.pad(pixels, ((0, 0), (0, 0), (SPACE // 2, SPACE // 2), (0, 0)))
        buffer = BytesIO()
        Image.fromarray(rearrange(pixels, "n h w rgba -> h (n w) rgba")).save(buffer, "PNG")
        pictures[tile.labels[0].words] = buffer.getvalue()
    return chosen, pictures


def _tiles(shown: Shown) -> list[Row]:
    """Return the truth, the prediction and the error, or the prediction alone without a truth."""
    truth = None if shown.truth is None else _reduced(shown.truth)
    return rollout_rows(_reduced(shown.context), _reduced(shown.prediction), truth)


def _reduced(frames: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return (T, C, H, W) as a clip (1, T, C, H, W); large frames become the means of square blocks."""
    size = math.ceil(max(frames.shape[2:]) / LARGEST)
    height, width = (max(side // size * size, 1) for side in frames.shape[2:])
    cut = frames[:, :, :height, :width]
    blocks = {"a": min(size, height), "b": min(size, width)}
    return reduce(cut, "t c (h a) (w b) -> 1 t c h w", "mean", **blocks)
