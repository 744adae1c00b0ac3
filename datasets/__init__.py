"""The data: sources of numbered sequences for training and scoring, all behind one contract (`Source`)."""

from datasets.clips import Clips
from datasets.digits import load_digits, require_unseen
from datasets.moving_mnist import FIXED_SEQUENCES, MovingMNIST, moving_mnist
from datasets.npy import CanonicalMovingMNIST
from datasets.settings import DataConfig
from datasets.source import ENDLESS, Shuffled, Source

__all__ = [
    "ENDLESS",
    "FIXED_SEQUENCES",
    "CanonicalMovingMNIST",
    "Clips",
    "DataConfig",
    "MovingMNIST",
    "Shuffled",
    "Source",
    "load_digits",
    "moving_mnist",
    "require_unseen",
]
