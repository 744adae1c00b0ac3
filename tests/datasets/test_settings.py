"""Moving MNIST on smaller frames."""

import pytest
import torch
from torch.testing import assert_close

from datasets import DataConfig, MovingMNIST, moving_mnist


def test_digits_on_smaller_frames_are_as_fast() -> None:
    data = DataConfig(num_digits=1)
    smaller = data.open_smaller(3, 4, seed=5, length=9)
    assert_close(
        smaller.batch(range(3)),
        moving_mnist(seed=5, num_digits=1, image_size=48, speed=0.18, length=9).batch(range(3)),
    )
    whole = data.open("train", seed=5, length=9, channels=1)
    assert isinstance(whole, MovingMNIST)
    assert smaller.batch([0]).shape == (1, 9, 1, 48, 48)
    assert smaller.speed * (48 - 28) == pytest.approx(whole.speed * (64 - 28))  # pixels per frame


def test_they_hold_the_digits_of_the_training_stream() -> None:
    data = DataConfig()
    smaller = data.open_smaller(3, 4, seed=0, length=2)
    whole = data.open("train", seed=0, length=2, channels=1)
    assert isinstance(whole, MovingMNIST)
    assert torch.equal(smaller.digits, whole.digits)
