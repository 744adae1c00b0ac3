"""Shapes that fly straight and bounce off the walls, as the digits of Moving MNIST do.

Letters: T time, H W pixels of a frame, h w pixels of a shape.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SPEED = 3.6  # pixels per frame, as Moving MNIST's digits fly
MARGIN = 4  # pixels from a wall at which a shape bounces: MNIST's digits have so many dark ones around them


class Shape(NamedTuple):
    """What is drawn, and where it flies to."""

    ink: NDArray
    """(H, W), in [0, 1]."""
    angle: float
    """Direction in radians: 0 to the right, pi / 2 down."""


def fly(shapes: Sequence[Shape], frames: int) -> NDArray[np.float32]:
    """Return a clip (T, 1, H, W) of shapes that start where they are drawn.

    A shape takes a step before each frame. At a wall it stops for the rest of the step, and turns round in
    that axis. Where shapes overlap, the brighter pixel shows. Shapes without ink are left out.

    Args:
        shapes: one or more, on frames of one size.
        frames: T, their number.
    """
    size = np.array(shapes[0].ink.shape)
    clip = np.zeros((frames, 1, *size), np.float32)
    for ink, angle in shapes:
        if not ink.any():
            continue
        places = np.argwhere(ink)
        first, last = places.min(0), places.max(0) + 1
        image = ink[first[0] : last[0], first[1] : last[1]]  # (h, w)
        low = np.minimum(MARGIN, (size - image.shape) // 2)
        high = size - image.shape - low
        point, velocity = first.clip(low, high), SPEED * np.array([math.sin(angle), math.cos(angle)])
        for frame in clip[:, 0]:
            free = point + velocity
            point = free.clip(low, high)
            velocity = np.where(point == free, velocity, -velocity)
            y, x = point.astype(int)
            place = frame[y : y + image.shape[0], x : x + image.shape[1]]
            np.maximum(place, image, out=place)
    return clip
