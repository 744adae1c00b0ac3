"""Settings of all tests: Keras computes with torch, GPU tests run only where there is one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
# The tensors of the tests are too small to share out, and threads that wait for each other on a busy machine
# take many times as long as one.
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_gifs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the GIFs of training runs empty: writing them takes half of the time of a tiny run."""
    monkeypatch.setattr("convlstm.training.scoring.write_clip", lambda path, frames, fps: path.touch())


@pytest.fixture
def train_until() -> Callable[[int, Any], None]:
    """Trains as a config says until a step begins, in which the run is killed."""
    import train  # not for each process that runs other tests
    from convlstm.training.sampling import true_frame_probability

    def until(last: int, config: train.Config) -> None:
        def probability(config: train.Config, step: int) -> float:
            if step == last:
                raise KeyboardInterrupt
            return true_frame_probability(config, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "true_frame_probability", probability)
            with pytest.raises(KeyboardInterrupt):
                train.main(config)

    return until


@pytest.fixture
def state_of() -> Callable[[Path], dict[str, Any]]:
    """The newest state of a run: its tensors and numbers, without texts, which name the run."""
    from convlstm.training.states import load_state  # not for each process that runs other tests

    def load(run: Path) -> dict[str, Any]:
        state = load_state(run)
        del state["best"]["config.json"], state["progress"]["first_nonfinite"]
        return state

    return load
