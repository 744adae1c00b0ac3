"""The comparison picture: what stands in which tile at which time."""

import numpy as np
import pytest

from convlstm.clips import read_clips, write_clip
from convlstm.clips.pictures import (
    BACKGROUND,
    BORDER,
    ERRORS,
    FAINT,
    FORECAST,
    GRAYS,
    OBSERVED,
    comparison,
)

N, T, HORIZON, HEIGHT, WIDTH = 2, 3, 4, 16, 11
SCALE = 12  # 192 / 16
RANDOM = np.random.default_rng(0)


def clips(length: int, channels: int = 1) -> np.ndarray:
    return RANDOM.random((N, length, channels, HEIGHT, WIDTH)).astype(np.float32)


def tiles(frame: np.ndarray, scale: int = SCALE, size: tuple[int, int] = (HEIGHT, WIDTH)) -> list[tuple]:
    """Find framed tiles of a picture, row by row: color of the border, a pixel for each of a clip's."""
    height, width = (scale * side + 2 * BORDER for side in size)
    found = []
    colors = np.stack([(frame == edge).all(axis=-1) for edge in (OBSERVED, FORECAST, FAINT)])  # (3, Y, X)
    corners = colors.copy()  # of a color that is neither above nor to the left
    corners[:, 1:] &= ~colors[:, :-1]
    corners[:, :, 1:] &= ~colors[:, :, :-1]
    for y, x in np.argwhere(corners.any(axis=0)):
        box = frame[y : y + height, x : x + width]
        sides = (box[:BORDER], box[-BORDER:], box[:, :BORDER], box[:, -BORDER:])
        if box.shape[:2] != (height, width) or not all((side == box[0, 0]).all() for side in sides):
            continue
        edge = tuple(box[0, 0].tolist())
        blocks = box[BORDER:-BORDER, BORDER:-BORDER].reshape(size[0], scale, size[1], scale, 3)
        assert (blocks == blocks[:, :1, :, :1]).all() or edge == FAINT, "scaling up blurred"
        found.append((edge, blocks[:, 0, :, 0]))
    return found


def assert_shows(shown: np.ndarray, image: np.ndarray) -> None:
    """Check that a tile shows a (C, H, W) image, to half a shade of gray."""
    wanted = np.broadcast_to(image.transpose(1, 2, 0), shown.shape) * 255
    tolerance = 0.5 if len(image) == 3 else 0.5 + 127.5 / (GRAYS - 1)
    np.testing.assert_allclose(shown, wanted, rtol=0, atol=tolerance + 1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_tile_holds_its_frame(channels: int) -> None:
    context, truth = clips(T, channels), clips(HORIZON, channels)
    prediction = clips(HORIZON, channels) * 1.4 - 0.2  # beyond [0, 1]: clipped
    picture = comparison(context, prediction, truth)
    assert picture.dtype == np.uint8
    assert len(picture) == T + HORIZON
    for time, frame in enumerate(picture):
        found = tiles(frame)
        assert len(found) == 3 * N
        if time < T:
            borders, images = [OBSERVED, OBSERVED, FAINT], [context[:, time]] * 2
        else:
            borders = [OBSERVED, FORECAST, FAINT]
            images = [truth[:, time - T], prediction[:, time - T].clip(0, 1)]
        assert [edge for edge, _ in found] == [border for border in borders for _ in range(N)]
        for column in range(N):
            for row, image in enumerate(images):
                assert_shows(found[row * N + column][1], image[column])
            error = found[2 * N + column][1]
            if time < T:
                assert (error == BACKGROUND).all()
                continue
            difference = images[1][column] - images[0][column]  # (C, H, W)
            color = np.where(difference.sum(axis=0)[..., None] < 0, OBSERVED, FORECAST)
            wanted = np.abs(difference).mean(axis=0)[..., None] * color
            np.testing.assert_allclose(error, wanted, rtol=0, atol=0.51 + 127.5 / (ERRORS - 1))


def test_where_the_truth_ends_its_tiles_say_so() -> None:
    context, prediction, truth = clips(T), clips(HORIZON), clips(HORIZON)
    whole, part = comparison(context, prediction, truth), comparison(context, prediction, truth[:, :1])
    np.testing.assert_array_equal(part[: T + 1], whole[: T + 1])
    for frame in part[T + 1 :]:
        found = tiles(frame)
        assert [edge for edge, _ in found] == [FAINT] * N + [FORECAST] * N + [FAINT] * N
        for _, inner in (*found[:N], *found[2 * N :]):
            written = (inner != BACKGROUND).any(axis=-1)
            assert 0 < written.mean() < 0.2  # a few words on the background


def test_without_truth_there_is_one_row() -> None:
    context, prediction = clips(T), clips(HORIZON)
    picture = comparison(context, prediction)
    for time, frame in enumerate(picture):
        found = tiles(frame)
        assert [edge for edge, _ in found] == [OBSERVED if time < T else FORECAST] * N
        for column, (_, shown) in enumerate(found):
            assert_shows(shown, context[column, time] if time < T else prediction[column, time - T])


def test_every_frame_has_its_own_caption() -> None:
    still = np.zeros((1, 4, 1, 8, 8))
    picture = comparison(still, still)
    assert len({frame.tobytes() for frame in picture}) == 8
    above = picture[:, : np.flatnonzero((picture[0] == OBSERVED).all(axis=-1).sum(axis=1) > 150)[0]]
    for time, frame in enumerate(above):
        color, other = (OBSERVED, FORECAST) if time < 4 else (FORECAST, OBSERVED)
        assert (frame == color).all(axis=-1).sum() > 20
        assert not (frame[: len(frame) // 2] == other).all(axis=-1).any()


@pytest.mark.parametrize(
    ("size", "scale"),
    [((8, 8), 24), ((64, 64), 3), ((7, 50), 3), ((3, 180), 1), ((256, 256), 1), ((300, 7), 1)],
)
def test_the_scale_is_whole(size: tuple[int, int], scale: int) -> None:
    frames = RANDOM.random((1, 2, 1, *size))
    picture = comparison(frames, frames, frames[:, :1])
    found = tiles(picture[2], scale, size)
    assert len(found) == 3
    assert_shows(found[0][1], frames[0, 0])


def test_gray_clips_make_a_gif_that_is_exact(tmp_path) -> None:
    # Every shade, every error, every color of letter: as many colors as there can be.
    ramp = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    truth = np.broadcast_to(ramp, (N, HORIZON, 1, HEIGHT, WIDTH))
    picture = comparison(truth, truth[..., ::-1, ::-1], truth[:, :2])
    assert len(np.unique(picture.astype(np.int32) @ (1, 256, 65_536))) <= 256
    write_clip(tmp_path / "a.gif", picture, 5)
    shown = read_clips(tmp_path / "a.gif")[0].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.rint(shown * 255), picture)


def test_what_does_not_go_together() -> None:
    context, prediction = clips(T), clips(HORIZON)
    broken = clips(HORIZON)
    broken[1, 2, 0, 3, 4] = np.nan
    for rollout, message in (
        ((context[0], prediction), r"context has shape \(3, 1, 16, 11\); it needs"),
        ((clips(T, 2), clips(HORIZON, 2)), "context has shape .* C of 1 or 3"),
        ((context, clips(HORIZON, 3)), "prediction has shape .* only T may differ"),
        ((context, prediction[:, :0]), "prediction has shape"),
        ((context, prediction, clips(HORIZON + 1)), "truth has 5 frames, prediction 4"),
        ((context, broken), "prediction has values that are no numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            comparison(*rollout)
