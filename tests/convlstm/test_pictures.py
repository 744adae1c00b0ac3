"""The comparison picture: what stands in which tile at which time."""

import numpy as np
import pytest

from convlstm.pictures import BORDER, CAPTION, FORECAST, GAP, GIVEN, LABELS, NONE, comparison

N, T, HORIZON, SIZE = 2, 3, 4, 16
SCALE = 10  # 160 / 16
TILE = SIZE * SCALE + 2 * BORDER
RANDOM = np.random.default_rng(0)


def clips(length: int, channels: int = 1) -> np.ndarray:
    return RANDOM.random((N, length, channels, SIZE, SIZE)).astype(np.float32)


def tile(frame: np.ndarray, row: int, column: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the pixels of a tile, one for each of its clip's, and the colour of its border."""
    top, left = CAPTION + row * (TILE + GAP), LABELS + GAP + column * (TILE + GAP)
    inner = frame[top + BORDER : top + TILE - BORDER, left + BORDER : left + TILE - BORDER]
    blocks = inner.reshape(SIZE, SCALE, SIZE, SCALE, 3)
    assert (blocks == blocks[:, :1, :, :1]).all(), "scaling up blurred"
    return blocks[:, 0, :, 0], tuple(int(v) for v in frame[top, left])


def pixels(image: np.ndarray) -> np.ndarray:
    values = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(values, (SIZE, SIZE, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_tile_holds_its_frame(channels: int) -> None:
    context, truth = clips(T, channels), clips(HORIZON, channels)
    prediction = clips(HORIZON, channels) * 1.4 - 0.2  # beyond [0, 1]: clipped
    frames = comparison(context, prediction, truth)
    assert frames.dtype == np.uint8
    assert len(frames) == T + HORIZON
    for time, frame in enumerate(frames):
        for column in range(N):
            wanted: list[tuple[np.ndarray, tuple[int, int, int]]]
            if time < T:
                wanted = [(context[column, time], GIVEN)] * 2
            else:
                known, guess = truth[column, time - T], prediction[column, time - T]
                wanted = [(known, GIVEN), (guess, FORECAST), (np.abs(guess.clip(0, 1) - known), NONE)]
            for row, (image, colour) in enumerate(wanted):
                shown, border = tile(frame, row, column)
                np.testing.assert_array_equal(shown, pixels(image))
                assert border == colour


def test_where_the_truth_ends_its_tile_says_so() -> None:
    context, prediction, truth = clips(T), clips(HORIZON), clips(HORIZON)
    whole = comparison(context, prediction, truth)
    part = comparison(context, prediction, truth[:, :1])
    np.testing.assert_array_equal(part[: T + 1], whole[: T + 1])
    top, left = CAPTION, LABELS + GAP
    assert tuple(part[T + 1][top, left]) == NONE
    inner = part[T + 1][top + BORDER : top + TILE - BORDER, left + BORDER : left + TILE - BORDER]
    assert 0 < (inner != inner[0, 0]).any(-1).mean() < 0.2  # a few words on the background


def test_without_truth_there_are_two_rows() -> None:
    context, prediction = clips(T), clips(HORIZON)
    with_truth, without = comparison(context, prediction, clips(HORIZON)), comparison(context, prediction)
    assert with_truth.shape[1] - without.shape[1] == TILE + GAP
    shown, border = tile(without[T], 1, 0)
    np.testing.assert_array_equal(shown, pixels(prediction[0, 0]))
    assert border == FORECAST


@pytest.mark.parametrize(("size", "scale"), [((8, 8), 20), ((64, 64), 2), ((7, 50), 3), ((300, 200), 1)])
def test_the_scale_is_whole(size: tuple[int, int], scale: int) -> None:
    context = np.zeros((1, 1, 1, *size))
    frames = comparison(context, context)
    assert frames.shape[1] == CAPTION + GAP + 2 * (size[0] * scale + 2 * BORDER + GAP)
    assert frames.shape[2] == LABELS + GAP + size[1] * scale + 2 * BORDER + GAP


def test_shapes_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="context has shape"):
        comparison(clips(T)[0], clips(HORIZON))
    with pytest.raises(ValueError, match="prediction has shape"):
        comparison(clips(T), clips(HORIZON, channels=3))
    with pytest.raises(ValueError, match="prediction has shape"):
        comparison(clips(T), clips(HORIZON)[:, :0])
    with pytest.raises(ValueError, match="truth has 5 frames; it needs at most the prediction's 4"):
        comparison(clips(T), clips(HORIZON), clips(HORIZON + 1))
