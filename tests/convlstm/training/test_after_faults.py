"""What is left of a run when something happens to it in a moment that is rarely hit."""

import errno
import io
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlstm import StackedForecaster, StackedForecasterConfig, training
from convlstm.core.files import METRICS, read_metrics

ALONE = training.World()


def test_a_validation_logged_but_not_saved_is_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with training.open_run(path, ALONE, {}, new=True) as run:
        for run.progress.step in (1, 2):
            run.log({"train/loss": 5.0 - run.progress.step})
        run.save()
        run.log({"val/mse": 2.0})
    with training.open_run(path, ALONE, {}) as run:  # killed before it was saved
        run.restore()
        run.log({"val/mse": 2.0})
        run.progress.validated = 2
        run.save()
        run.progress.step = 3
        run.log({"train/loss": 2.0})
    logged = [(values["step"], set(values) - {"step"}) for _, values in read_metrics(path / METRICS)]
    assert logged == [(1, {"train/loss"}), (2, {"train/loss"}), (2, {"val/mse"}), (3, {"train/loss"})]
    board = EventAccumulator(str(path)).Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert [e.step for e in board.Scalars("val/mse")] == [2]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with training.open_run(path, ALONE, {}, new=True) as run:
        run.save()
    for folder in ("", "states", "samples"):
        (path / folder).mkdir(exist_ok=True)
        (path / folder / ".file.123.partial").touch()
    with training.open_run(path, ALONE, {}):
        assert not list(path.rglob("*.partial"))


def test_a_signal_may_come_while_something_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Signalled(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if stopping.signal is None:
                os.kill(os.getpid(), signal.SIGTERM)
            return len(bytes(data))

    stderr = io.TextIOWrapper(io.BufferedWriter(Signalled()), write_through=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    with training.Stopping() as stopping:
        print("a bar", file=sys.stderr, flush=True)
    assert stopping.signal == signal.SIGTERM


def test_a_digit_of_the_settings_that_changed_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with training.open_run(tmp_path / "run", ALONE, {}, new=True) as run:
        run.save_best(
            StackedForecaster(StackedForecasterConfig(hidden_channels=(2,))), {"training": {"lr": 0.004}}
        )
        run.save()
    config = tmp_path / "run" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace("0.004", "0.006"))
    training.mend(tmp_path / "run")  # what --resume does first
    assert config.read_text() == whole
    assert "config.json is not as it was when the state was saved" in capsys.readouterr().err
    training.mend(tmp_path / "run")
    assert not capsys.readouterr().err


def test_a_signal_while_a_state_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training.save_state(tmp_path, 1, {})

    def load(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("convlstm.training.states.torch.load", load)
    assert training.exit_status("train.py", lambda: training.load_state(tmp_path)) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "train.py: stopped by SIGTERM\n"


def test_a_second_signal_does_not_cut_the_end_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def told(*arguments: object, **options: Any) -> None:
        asked()
        print(*arguments, **options)

    monkeypatch.setattr("convlstm.training.stopping.print", told, raising=False)
    assert training.exit_status("train.py", asked) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "train.py: stopped by SIGTERM\n"


def test_processes_can_tell_each_other_of_a_signal() -> None:
    told = pickle.loads(pickle.dumps(training.Stopped(signal.SIGUSR1, "go on")))
    assert (told.signal, str(told)) == (signal.SIGUSR1, "go on")


def test_a_full_disk_is_said_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with training.open_run(path, ALONE, {}, new=True) as run:
        run.save()
    [state] = training.states_of(path)
    told = rf"no space left; {state} is whole: go on with --resume {path}$"
    with pytest.raises(OSError, match=told), training.open_run(path, ALONE, {}):
        raise OSError("no space left")
    told = rf"after step 0 was not written \(no space left\); {state} is whole: go on with --resume {path}$"
    monkeypatch.setattr("convlstm.core.files.os.replace", _full)
    with pytest.raises(OSError, match=told), training.open_run(path, ALONE, {}) as run:
        run.save()


def test_a_directory_that_may_not_be_written_is_said_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with training.open_run(path, ALONE, {}, new=True) as run:
        run.save()
    [state] = training.states_of(path)
    (path / ".lock").unlink()
    (path / ".lock").mkdir()  # what stops root, too
    told = rf"\.lock.*; {state} is whole: go on with --resume {path}$"
    with pytest.raises(OSError, match=told), training.open_run(path, ALONE, {}):
        pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("convlstm.training.directory._lock", none)
    with training.open_run(tmp_path / "run", ALONE, {}, new=True) as run:
        run.save()
    assert capsys.readouterr().err == f"{run.path}: its file system has no locks; start no second run in it\n"


def _full(*_: object) -> None:
    raise OSError("no space left")
