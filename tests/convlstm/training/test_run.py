"""The directory of a run: a log without doubles, one process at a time, nothing left of what never began."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train  # the settings are those of the script
from convlstm import StackedForecaster, StackedForecasterConfig
from convlstm.core.files import METRICS
from convlstm.hub.checkpoint import read_config
from convlstm.training.distributed import Distributed
from convlstm.training.hardware import Stopwatch
from convlstm.training.run import Progress, RunDirectory, open_run
from convlstm.training.states import load_state, restore_settings, save_state, states_of
from convlstm.training.stopping import Stopped

ALONE = Distributed()


def network() -> StackedForecaster:
    return StackedForecaster(StackedForecasterConfig(hidden_channels=(2,), kernel_size=1))


def begun(path: Path, **parts: torch.nn.Module) -> RunDirectory:
    """A run whose first state is saved."""
    path.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(path, ALONE, parts)
    run.save_best(network(), {})
    run.save()
    return run


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / METRICS).read_text().splitlines()]


def later_run(path: Path) -> RunDirectory:
    """Another run of the directory, begun a second later: by it TensorBoard orders a run's logs."""
    time.sleep(1)
    return RunDirectory(path, ALONE, {})


@pytest.mark.parametrize("saved", [0, 20])
def test_a_resumed_log_has_no_step_twice_and_none_too_few(tmp_path: Path, saved: int) -> None:
    run = begun(tmp_path)
    for step in (10, 20, 30):
        run.progress.step = step
        run.log({"train/loss": float(step)})
        if step == saved:
            run.save()
    run._flush()  # and then it is killed
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 40, "tr')  # in the middle of a line
    again = later_run(tmp_path)
    again.restore()
    assert again.progress.step == saved
    for step in range(saved + 10, 50, 10):
        again.progress.step = step
        again.log({"train/loss": step + 0.5})
    again.close()
    expected = [(step, step if step <= saved else step + 0.5) for step in (10, 20, 30, 40)]
    assert [(line["step"], line["train/loss"]) for line in read(tmp_path)] == expected
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == expected


def test_a_validation_logged_but_not_saved_is_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path, ALONE, {}, new=True) as run:
        for run.progress.step in (1, 2):
            run.log({"train/loss": 5.0 - run.progress.step})
        run.save()
        run.log({"val/mse": 2.0})
    with open_run(path, ALONE, {}) as run:  # killed before it was saved
        run.restore()
        run.log({"val/mse": 2.0})
        run.progress.validated = 2
        run.save()
        run.progress.step = 3
        run.log({"train/loss": 2.0})
    logged = [(values.pop("step"), set(values)) for values in read(path)]
    assert logged == [(1, {"train/loss"}), (2, {"train/loss"}), (2, {"val/mse"}), (3, {"train/loss"})]
    board = EventAccumulator(str(path)).Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert [e.step for e in board.Scalars("val/mse")] == [2]


def test_values_that_are_not_finite_are_left_out_of_the_log(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.log({"train/loss": float("nan"), "train/lr": 0.5})
    run.close()
    assert read(tmp_path) == [{"step": 0, "train/lr": 0.5}]


@pytest.mark.parametrize("line", ["garbage", '{"step": "a"}', "\xff"])
def test_a_damaged_line_of_the_log_is_named(tmp_path: Path, line: str) -> None:
    begun(tmp_path)
    text = '{"step": 1}\n' + line + '\n{"step": 2}\n'
    (tmp_path / METRICS).write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"metrics.jsonl, line 2, is damaged; .*repair the line or remove it"
    ):
        RunDirectory(tmp_path, ALONE, {}).restore()
    assert (tmp_path / METRICS).read_text(encoding="latin-1") == text


@pytest.mark.parametrize("there", [[], ["runs/other"], ["runs/new/mine"]])
@pytest.mark.parametrize("error", [OSError("no space left on device"), Stopped(signal.SIGINT)])
def test_a_run_that_failed_to_begin_leaves_what_was_there(
    tmp_path: Path, there: list[str], error: BaseException
) -> None:
    for name in there:
        (tmp_path / name).mkdir(parents=True)
    new = tmp_path / "runs" / "new"
    with pytest.raises(type(error), match=f"{error}$"), open_run(new, ALONE, {}, new=not new.exists()):
        raise error
    assert sorted(tmp_path.glob("runs/*")) == sorted({tmp_path.joinpath(*Path(n).parts[:2]) for n in there})
    assert all((tmp_path / name).exists() for name in there)
    assert (tmp_path / "runs").exists() == bool(there)


def test_a_run_that_is_stopped_saves_its_state(tmp_path: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(Stopped, match=r"stopped by SIGINT after step 4; go on with --resume .*new"),
        open_run(tmp_path / "new", ALONE, {}) as run,
    ):
        run.save()
        run.progress.step = 4
        raise Stopped(signal.SIGINT)
    assert load_state(tmp_path / "new")["progress"]["step"] == 4


def test_a_new_run_does_not_enter_a_folder_that_is_there(tmp_path: Path) -> None:
    begun(tmp_path / "new")
    with pytest.raises(OSError, match="File exists"), open_run(tmp_path / "new", ALONE, {}, new=True):
        pass
    assert states_of(tmp_path / "new")


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    begun(tmp_path)
    taken = f"{tmp_path} is being trained by process {os.getpid()} on "
    for _ in range(2):  # the lock ends with the run
        with (
            open_run(tmp_path, ALONE, {}),
            pytest.raises(ValueError, match=taken),
            open_run(tmp_path, ALONE, {}),
        ):
            pass


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    begun(tmp_path)
    left = [tmp_path / ".config.json.1234.partial", tmp_path / "states" / ".7.pt.1.partial"]
    for path in left:
        path.touch()
    with open_run(tmp_path, ALONE, {}):
        assert not any(path.exists() for path in left)


def test_a_state_comes_back(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    run = begun(tmp_path, model=model)
    run.progress = Progress(
        5, best=1.5, validated=4, skipped=3, skipped_in_a_row=2, first_nonfinite="cells.1"
    )
    run.save()
    again = RunDirectory(tmp_path, ALONE, {"model": other})
    again.restore()
    assert again.progress == run.progress
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"the state in .* does not fit: .*size mismatch"):
        RunDirectory(tmp_path, ALONE, {"model": torch.nn.Linear(3, 3)}).restore()
    with pytest.raises(ValueError, match=r"the state in .* does not fit: 'ema'"):
        RunDirectory(tmp_path, ALONE, {"ema": other}).restore()


@pytest.mark.parametrize(
    ("name", "damage"),
    [("model.safetensors", "cut"), ("config.json", "gone"), ("config.json", "another digit")],
)
def test_the_best_network_comes_back_with_the_state(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path)
    run.save_best(network(), {"training": {"lr": 0.004}})
    run.save()
    path = tmp_path / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:20] if damage == "cut" else whole.replace(b"4", b"6"))
    restore_settings(tmp_path)  # what --resume does first
    RunDirectory(tmp_path, ALONE, {}).restore()
    assert path.read_bytes() == whole
    said = capsys.readouterr().err
    assert said.count(f"{name} is not as it was when the state was saved; it is written anew") == 1


def test_a_state_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    earlier = {"step": 5, "steps": 0, "best": 1.0, "validated": 5, "skipped": 0, "in_a_row": 0, "trouble": ""}
    save_state(tmp_path, 5, {"progress": earlier})
    with pytest.raises(ValueError, match="can be loaded, scored and fine-tuned, but not resumed"):
        RunDirectory(tmp_path, ALONE, {}).restore()


def test_how_a_run_goes_on_is_noted_though_no_network_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for step in (0, 4, 7):
        with open_run(tmp_path, ALONE, {}) as run:
            run.begin_or_restore(train.Config(), network(), {"init_from": "x"}, new=step == 0)
            run.progress.step = step
            run.save()
        monkeypatch.setattr(sys, "argv", ["train.py", "--resume", "here"])
    config = read_config(tmp_path)
    python = Path(sys.executable).name
    assert (config["command"], config["init_from"]) == (f"{python} train.py", "x")
    notes = {"command": f"{python} train.py --resume here", "versions": config["versions"]}
    assert config["resumed"] == [{"step": 0, **notes}, {"step": 4, **notes}]
    assert len((tmp_path / "config.json").read_text().splitlines()) < 100
    assert not capsys.readouterr().err  # what is on the disk is what the state has


def test_an_error_of_the_system_names_the_state_to_resume_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path)
    [state] = states_of(tmp_path)
    resume = rf"{state} is whole: go on with --resume {tmp_path}$"
    with monkeypatch.context() as patch, pytest.raises(OSError, match=f"no space left; {resume}"):  # noqa: PT012
        patch.setattr("convlstm.core.files.os.replace", Mock(side_effect=OSError("no space left")))
        with open_run(tmp_path, ALONE, {}) as run:
            run.save()
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()  # what stops root, too
    with pytest.raises(OSError, match=rf"\.lock.*; {resume}"), open_run(tmp_path, ALONE, {}):
        pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOSYS, "Function not implemented")))
    with open_run(tmp_path / "run", ALONE, {}, new=True) as run:
        run.save()
    assert capsys.readouterr().err == f"{run.path}: there are no locks here; start no second run in it\n"


def test_the_speed_is_that_of_the_steps_since_the_last_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stopwatch, "lap", lambda self: 0.5)
    with open_run(tmp_path, ALONE, {}) as run:
        run.begin_or_restore(train.Config(batch_size=6), network(), {}, new=True)
        for run.progress.step in (2, 3):
            run.log_training({"loss": 1.0}, {})
    assert [line["train/sequences_per_second"] for line in read(tmp_path)] == [2 * 6 / 0.5, 6 / 0.5]


def test_states_are_saved_after_some_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("convlstm.training.run.time.monotonic", lambda: now)
    run = begun(tmp_path)
    for step, seconds in ((1, 59), (2, 61), (3, 90), (4, 121)):
        now, run.progress.step = 100.0 + seconds, step
        run.save_after(1)
    assert [int(path.name[:8]) for path in states_of(tmp_path)] == [4, 2, 0]


def test_while_steps_are_skipped_the_states_from_before_are_kept(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for run.progress.step, run.progress.skipped_in_a_row in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4)):
        run.save_after(0)
    assert [int(path.name[:8]) for path in states_of(tmp_path)] == [1, 0]


@pytest.mark.parametrize(("steps", "validations", "due"), [(7, 3, [3, 5, 7]), (3, 5, [1, 2, 3])])
def test_validations_are_evenly_spaced(steps: int, validations: int, due: list[int]) -> None:
    found = [step for step in range(steps + 1) if Progress(step).validation_is_due(steps, validations)]
    assert found == due
    assert not Progress(due[0], validated=due[0]).validation_is_due(steps, validations)


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, Distributed(1, 2), {})
    run.log({"train/loss": 1.0})
    run.save()
    run.save_best(network(), {})
    run.sample(lambda path: path.touch())
    assert os.listdir(tmp_path) == []
