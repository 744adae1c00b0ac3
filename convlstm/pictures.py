"""The picture of a rollout: truth, prediction and error side by side, frame by frame.

Letters: N clips, T time, C channels (1 or 3), H W pixels.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["comparison"]

TILE = 160  # pixels that a frame is scaled up to, about
BORDER, GAP = 4, 10
LABELS, CAPTION = 104, 40  # width of the row labels, height of the caption

BACKGROUND, INK, FAINT = (24, 26, 31), (236, 238, 242), (134, 140, 152)
# Blue and orange differ in brightness and hue for every kind of colour vision.
GIVEN, FORECAST, NONE = (86, 160, 235), (245, 150, 40), (52, 56, 64)


def comparison(
    context: NDArray[np.floating], prediction: NDArray[np.floating], truth: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """Draw rollouts as an animation: a column per clip, rows for the truth, the prediction and its error.

    While the context lasts, both rows show it, framed in blue; after it the prediction is framed in orange.
    The error is the absolute difference, white where it is 1. Frames are scaled up by a whole number, so
    that their pixels stay sharp; values are clipped to [0, 1].

    Args:
        context: (N, T, C, H, W), T of 1 or more.
        prediction: (N, horizon, C, H, W), horizon of 1 or more.
        truth: (N, up to horizon, C, H, W), or None (default) where there is none.

    Returns:
        uint8 (T + horizon, height, width, 3).

    Raises:
        ValueError: shapes that do not go together.
    """
    _check(context, prediction, truth)
    given, horizon = context.shape[1], prediction.shape[1]
    known = 0 if truth is None else truth.shape[1]
    clips, (height, width) = len(context), context.shape[3:]
    scale = max(1, round(TILE / max(height, width)))
    rows = ["truth", "prediction", "error"] if known else ["context", "prediction"]
    tile = (height * scale + 2 * BORDER, width * scale + 2 * BORDER)
    size = (
        LABELS + clips * (tile[1] + GAP) + GAP,
        CAPTION + len(rows) * (tile[0] + GAP) + GAP,
    )
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=16)
    tops = [CAPTION + row * (tile[0] + GAP) for row in range(len(rows))]
    for name, top in zip(rows, tops, strict=True):
        draw.text((LABELS - GAP, top + tile[0] // 2), name, fill=INK, font=font, anchor="rm")

    frames = []
    for time in range(given + horizon):
        step = time - given  # of the forecast, from 0
        image = canvas.copy()
        draw = ImageDraw.Draw(image)
        words, colour = (
            (f"context {time + 1} / {given}", GIVEN)
            if step < 0
            else (f"forecast {step + 1} / {horizon}", FORECAST)
        )
        draw.text((LABELS + GAP, CAPTION // 2), words, fill=colour, font=font, anchor="lm")
        for clip in range(clips):
            left = LABELS + GAP + clip * (tile[1] + GAP)
            for name, top in zip(rows, tops, strict=True):
                pixels, frame = None, NONE
                if step < 0 and name != "error":
                    pixels, frame = context[clip, time], GIVEN
                elif name == "prediction":
                    pixels, frame = prediction[clip, step], FORECAST
                elif truth is not None and 0 <= step < known:
                    pixels = truth[clip, step]
                    if name == "truth":
                        frame = GIVEN
                    else:
                        pixels = np.abs(np.clip(prediction[clip, step], 0, 1) - pixels)
                box = (left, top, left + tile[1] - 1, top + tile[0] - 1)
                draw.rectangle(box, fill=BACKGROUND, outline=frame, width=BORDER)
                if pixels is not None:
                    image.paste(_enlarged(pixels, scale), (left + BORDER, top + BORDER))
                elif step >= 0:
                    centre = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
                    draw.text(centre, "no truth", fill=FAINT, font=font, anchor="mm")
        frames.append(np.asarray(image))
    return np.stack(frames)


def _enlarged(pixels: NDArray[np.floating], scale: int) -> Image.Image:
    """Return (C, H, W) in [0, 1] as an image, each pixel a square of `scale`."""
    values = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)  # (H, W, C)
    values = values.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(np.broadcast_to(values, (*values.shape[:2], 3)).copy())


def _check(context: NDArray, prediction: NDArray, truth: NDArray | None) -> None:
    parts = {"context": context, "prediction": prediction} | ({} if truth is None else {"truth": truth})
    for name, part in parts.items():
        if part.ndim != 5 or part.shape[2] not in (1, 3) or (0 in part.shape and name != "truth"):
            raise ValueError(
                f"{name} has shape {part.shape}; it needs (N, T, C, H, W), C of 1 or 3, none empty"
            )
        if (part.shape[0], *part.shape[2:]) != (context.shape[0], *context.shape[2:]):
            raise ValueError(
                f"{name} has shape {part.shape}, context {context.shape}; only their T may differ"
            )
    if truth is not None and truth.shape[1] > prediction.shape[1]:
        raise ValueError(
            f"truth has {truth.shape[1]} frames; it needs at most the prediction's {prediction.shape[1]}"
        )
