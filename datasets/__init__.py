"""The data: sources of numbered sequences for training and scoring, all behind one contract (`Source`)."""

from datasets.arrays import ArrayClips
from datasets.canonical import CanonicalMovingMNIST
from datasets.digits import load_digits, require_unseen
from datasets.moving_mnist import ENDLESS, FIXED_SEQUENCES, MovingMNIST, moving_mnist
from datasets.settings import DataConfig
from datasets.shuffled import Shuffled
from datasets.source import Source
from datasets.videos import VideoFolder

__all__ = [
    "ENDLESS",
    "FIXED_SEQUENCES",
    "ArrayClips",
    "CanonicalMovingMNIST",
    "DataConfig",
    "MovingMNIST",
    "Shuffled",
    "Source",
    "VideoFolder",
    "load_digits",
    "moving_mnist",
    "require_unseen",
]
