"""How shapes fly: straight, and back at the walls."""

import math

import numpy as np
from numpy.typing import NDArray

from convlstm.demo.motion import MARGIN, SPEED, Shape, fly

H, W = 64, 48


def block(y: int, x: int, height: int = 6, width: int = 8) -> NDArray[np.float32]:
    ink = np.zeros((H, W), np.float32)
    ink[y : y + height, x : x + width] = 0.5
    return ink


def corners(clip: NDArray[np.float32]) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in (np.argwhere(frame[0]).min(0) for frame in clip)]


def test_a_shape_flies_straight_from_where_it_is_drawn() -> None:
    for angle in (0.0, 0.5, math.pi / 2, math.pi, 4.0):
        clip = fly([Shape(block(30, 20), angle)], 3)
        assert clip.shape == (3, 1, H, W)
        assert clip.dtype == np.float32
        assert (clip.sum((1, 2, 3)) == 0.5 * 6 * 8).all()
        down, right = SPEED * math.sin(angle), SPEED * math.cos(angle)
        assert corners(clip) == [(int(30 + t * down), int(20 + t * right)) for t in (1, 2, 3)]


def test_a_shape_stops_at_a_wall_and_turns_round_in_that_axis_alone() -> None:
    right = W - 8 - MARGIN  # 36
    assert [x for _, x in corners(fly([Shape(block(30, 30), 0.0)], 4))] == [33, right, 32, 28]
    assert [y for y, _ in corners(fly([Shape(block(9, 30), -math.pi / 2)], 4))] == [5, MARGIN, 7, 11]
    diagonal = corners(fly([Shape(block(20, 30), math.pi / 4)], 6))
    assert [y for y, _ in diagonal] == sorted(y for y, _ in diagonal)
    assert diagonal[-1][1] < right


def test_a_digit_turns_where_the_box_of_its_image_meets_the_wall_as_in_moving_mnist() -> None:
    clip = fly([Shape(block(20, 20, 20, 20), 0.3)], 200)  # ink of 20 x 20, an image of 28 x 28
    places = np.array(corners(clip)) - MARGIN
    assert (places.min(0) == 0).all()
    assert tuple(places.max(0)) == (H - 28, W - 28)


def test_where_shapes_overlap_the_brighter_shows() -> None:
    still = [Shape(block(30, 20), 0.0), Shape(block(30, 20) * 2, 0.0), Shape(block(30, 22), 0.0)]
    assert (fly(still, 2)[:, :, :, :46] == fly([*still[1:], still[0]], 2)[:, :, :, :46]).all()
    assert fly(still, 1).max() == 1


def test_a_shape_as_large_as_the_frame_stays_and_one_without_ink_is_left_out() -> None:
    full = np.ones((H, W), np.float32)
    assert (fly([Shape(full, 1.0)], 5) == 1).all()
    assert (fly([Shape(block(0, 0, H, 3), 0.0)], 5).sum((1, 2, 3)) == 0.5 * H * 3).all()
    assert not fly([Shape(full * 0, 1.0)], 2).any()
