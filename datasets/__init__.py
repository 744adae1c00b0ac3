"""The data: sources of numbered sequences for training and scoring, all behind one contract (`Source`)."""

from datasets.canonical import CanonicalMovingMNIST
from datasets.digits import load_digits, require_unseen
from datasets.moving_mnist import ENDLESS, FIXED_SEQUENCES, MovingMNIST, moving_mnist
from datasets.source import Source

__all__ = [
    "ENDLESS",
    "FIXED_SEQUENCES",
    "CanonicalMovingMNIST",
    "MovingMNIST",
    "Source",
    "load_digits",
    "moving_mnist",
    "require_unseen",
]
