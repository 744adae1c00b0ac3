"""What the commands work on."""

from pathlib import Path

import numpy as np
import pytest

from convlstm import ConvLSTM, StackedForecaster
from convlstm.core.saving import save_checkpoint


@pytest.fixture(autouse=True)
def _forecaster_layer_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder with two networks and four clips of 14 frames."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", StackedForecaster(hidden_channels=(3,), kernel_size=3, output="sigmoid"))
    save_checkpoint("layer", ConvLSTM(3, 2, 1))
    clips = np.random.default_rng(0).integers(0, 256, (14, 4, 16, 12), dtype=np.uint8)  # (T, N, H, W)
    np.save("clips.npy", clips)
