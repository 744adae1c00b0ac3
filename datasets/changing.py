"""Digits that turn, grow and shrink, and brighten and darken as they fly, for `MovingMNIST`.

After MovingMNIST++ of Shi et al., "Deep Learning for Precipitation Nowcasting: A Benchmark and A New Model",
NeurIPS 2017, whose code draws its changes anew in each sequence, too. Letters: B batch, D digits, T time,
h w pixels of a digit, S pixels of the side of a changed one.
"""

import math

import torch
from einops import rearrange

DRAWS = 5
"""Random numbers that a digit's changes take."""

_PERIODS = (10, 30)  # frames in which a digit grows and shrinks once, or brightens and darkens


def changed(
    images: torch.Tensor,
    draws: torch.Tensor,
    length: int,
    *,
    rotation: float,
    scale: float,
    illumination: float,
) -> torch.Tensor:
    """Return how the digits look in each frame; see `MovingMNIST` for what the arguments say.

    All is computed in float64 on the CPU by operations that are exactly rounded, an element at a time, so
    that it is the same in any batch.

    Args:
        images: uint8 (B, D, h, w), upright.
        draws: float64 (B, D, DRAWS), uniform in [0, 1).
        length: T.
        rotation: degrees per frame, the most.
        scale: times the size, the most; its reciprocal is the least.
        illumination: share of the brightness, the least.

    Returns:
        uint8 (B, T, D, h + 2 m, w + 2 m), the digits' centres at the centre; m is 0 if the size is fixed.
    """
    margin = math.ceil((scale - 1) * max(images.shape[2:]) / 2)
    looks = [
        [_look(digit, t, rotation, scale, illumination) for t in range(length)]
        for digit in rearrange(draws, "b d n -> (b d) n").tolist()
    ]
    cos, sin, light = rearrange(
        torch.tensor(looks, dtype=torch.float64), "(b d) t n -> n b t d 1 1", b=len(images)
    )
    height, width = images.shape[2:]
    y, x = (
        torch.arange(-margin, side + margin, dtype=torch.float64) - (side - 1) / 2 for side in (height, width)
    )
    rows = cos * y[:, None] + sin * x + (height - 1) / 2  # (B, T, D, S, S): where a pixel comes from
    columns = cos * x - sin * y[:, None] + (width - 1) / 2
    return (light * _sampled(images, rows, columns) + 0.5).floor().to(torch.uint8)


def _look(
    draws: list[float], t: int, rotation: float, scale: float, illumination: float
) -> tuple[float, float, float]:
    """Return a digit's cosine and sine, over its size, and its brightness in frame t."""
    turn, size_start, size_period, light_start, light_period = draws
    angle = math.radians(rotation) * (2 * turn - 1) * (t + 1)
    size = scale ** _wave(size_start, size_period, t)
    light = 1 - (1 - illumination) * (1 + _wave(light_start, light_period, t)) / 2
    return math.cos(angle) / size, math.sin(angle) / size, light


def _wave(start: float, period: float, t: int) -> float:
    shortest, longest = _PERIODS
    return math.sin(2 * math.pi * (start + (t + 1) / (shortest + (longest - shortest) * period)))


def _sampled(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return images (B, D, h, w) at places (B, T, D, S, S) between their pixels, linearly; 0 around them."""
    height, width = images.shape[2:]
    ringed = torch.nn.functional.pad(images, (1, 1, 1, 1)).to(torch.float64)  # (B, D, h + 2, w + 2)
    flat = rearrange(ringed, "b d h w -> b 1 d (h w)").expand(-1, rows.shape[1], -1, -1)
    rows, columns = rows.clamp(-1, height) + 1, columns.clamp(-1, width) + 1
    top, left = rows.floor().clamp(max=height), columns.floor().clamp(max=width)
    down, right = rows - top, columns - left

    def at(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        index = (row * (width + 2) + column).to(torch.int64)
        return flat.gather(3, index.flatten(3)).view(index.shape)

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    below = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return above * (1 - down) + below * down
