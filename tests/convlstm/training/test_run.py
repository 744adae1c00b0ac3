"""The directory of a run: a log without doubles, one process at a time, nothing left of what never began."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train  # the settings are those of the script
from convlstm import StackedForecaster, StackedForecasterConfig, training
from convlstm.core.files import METRICS
from convlstm.hub.checkpoint import read_config
from convlstm.training import Distributed, Progress, RunDirectory, open_run

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


def test_a_resumed_log_has_no_step_twice_and_none_too_few(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for step in (10, 20, 30):
        run.progress.step = step
        run.log({"train/loss": float(step)})
        if step == 20:
            run.save()
    run._flush()  # and then it is killed
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 40, "tr')  # in the middle of a line
    again = later_run(tmp_path)
    again.restore()
    assert again.progress.step == 20
    for step in (30, 40):
        again.progress.step = step
        again.log({"train/loss": step + 0.5})
    again.close()
    expected = [(10, 10.0), (20, 20.0), (30, 30.5), (40, 40.5)]
    assert [(line["step"], line["train/loss"]) for line in read(tmp_path)] == expected
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == expected


def test_a_run_that_is_resumed_from_its_first_second_begins_its_log_anew(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.progress.step = 10
    run.log({"train/loss": 1.0})
    run.close()
    again = later_run(tmp_path)
    again.restore()
    again.progress.step = 10
    again.log({"train/loss": 2.0})
    again.close()
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in board.Scalars("train/loss")] == [2.0]


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


@pytest.mark.parametrize("line", ["garbage", '{"nostep": 1}', '{"step": "a"}', "[1]", "\xff"])
def test_a_damaged_line_of_the_log_is_named(tmp_path: Path, line: str) -> None:
    begun(tmp_path)
    text = '{"step": 1}\n' + line + '\n{"step": 2}\n'
    (tmp_path / METRICS).write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"metrics.jsonl, line 2, is damaged; .*repair the line or remove it"
    ):
        RunDirectory(tmp_path, ALONE, {}).restore()
    assert (tmp_path / METRICS).read_text(encoding="latin-1") == text


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_that_failed_to_begin_leaves_nothing(tmp_path: Path, beside: bool) -> None:
    if beside:
        (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(OSError, match="no space"), open_run(tmp_path / "runs" / "new", ALONE, {}):  # noqa: PT012
        (tmp_path / "runs" / "new" / "config.json").touch()
        raise OSError("no space left on device")
    assert os.listdir(tmp_path) == (["runs"] if beside else [])
    assert not beside or os.listdir(tmp_path / "runs") == ["other"]


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(OSError, match="no space"), open_run(tmp_path, ALONE, {}):
        raise OSError("no space left on device")
    assert (tmp_path / "mine").exists()


def test_a_run_that_is_stopped_saves_its_state(tmp_path: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(training.Stopped, match=r"stopped by SIGINT after step 4; go on with --resume .*new"),
        open_run(tmp_path / "new", ALONE, {}) as run,
    ):
        run.save()
        run.progress.step = 4
        raise training.Stopped(signal.SIGINT)
    assert training.load_state(tmp_path / "new")["progress"]["step"] == 4


def test_a_run_that_is_stopped_before_its_first_state_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(training.Stopped, match=r"by SIGINT$"),
        open_run(tmp_path / "new", ALONE, {}, new=True),
    ):
        raise training.Stopped(signal.SIGINT)
    assert not os.listdir(tmp_path)


def test_a_new_run_does_not_enter_a_folder_that_is_there(tmp_path: Path) -> None:
    begun(tmp_path / "new")
    with pytest.raises(OSError, match="File exists"), open_run(tmp_path / "new", ALONE, {}, new=True):
        pass
    assert training.states_of(tmp_path / "new")


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from convlstm.training import Distributed, open_run\n"
        "with open_run(Path(sys.argv[1]), Distributed(), {}) as run:\n    pass"
    )
    begun(tmp_path)
    command = [sys.executable, "-c", code, str(tmp_path)]
    with open_run(tmp_path, ALONE, {}):
        second = subprocess.run(command, capture_output=True, text=True)
    assert f"{tmp_path} is being trained by process {os.getpid()} on " in second.stderr
    assert subprocess.run(command).returncode == 0


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


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "another digit"])
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
    training.restore_settings(tmp_path)  # what --resume does first
    RunDirectory(tmp_path, ALONE, {}).restore()
    assert path.read_bytes() == whole
    said = capsys.readouterr().err
    assert said.count(f"{name} is not as it was when the state was saved; it is written anew") == 1


def test_how_a_run_goes_on_is_noted_though_no_network_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        with open_run(tmp_path, ALONE, {}) as run:
            run.begin_or_restore(train.Config(seed=seed), network(), {"init_from": "x"})
    config = read_config(tmp_path)
    assert (config["training"]["seed"], config["init_from"]) == (0, "x")
    assert [note["training"]["seed"] for note in config["resumed"]] == [1, 2]
    assert not capsys.readouterr().err  # what is on the disk is what the state has


def test_an_error_of_the_system_names_the_state_to_resume_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path)
    [state] = training.states_of(tmp_path)
    resume = rf"{state} is whole: go on with --resume {tmp_path}$"
    with monkeypatch.context() as patch, pytest.raises(OSError, match=f"no space left; {resume}"):  # noqa: PT012
        patch.setattr("convlstm.core.files.os.replace", _full)
        with open_run(tmp_path, ALONE, {}) as run:
            run.save()
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()  # what stops root, too
    with pytest.raises(OSError, match=rf"\.lock.*; {resume}"), open_run(tmp_path, ALONE, {}):
        pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("convlstm.training.run._lock", none)
    with open_run(tmp_path / "run", ALONE, {}, new=True) as run:
        run.save()
    assert capsys.readouterr().err == f"{run.path}: there are no locks here; start no second run in it\n"


def _full(*_: object) -> None:
    raise OSError("no space left")


def test_states_are_saved_after_some_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("convlstm.training.run.time.monotonic", lambda: now)
    run = begun(tmp_path)
    for step, seconds in ((1, 59), (2, 61), (3, 90), (4, 121)):
        now, run.progress.step = 100.0 + seconds, step
        run.save_after(1)
    assert [int(path.name[:8]) for path in training.states_of(tmp_path)] == [4, 2, 0]


def test_while_steps_are_skipped_the_states_from_before_are_kept(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for run.progress.step, run.progress.skipped_in_a_row in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4)):
        run.save_after(0)
    assert [int(path.name[:8]) for path in training.states_of(tmp_path)] == [1, 0]


def test_skipped_steps_are_counted_and_after_ten_in_a_row_the_run_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path, ALONE, {})
    places = iter(["cells.1", "never asked"])

    def skip() -> None:
        run.progress.step += 1
        run.skip_step(math.nan, lambda: (1, next(places)))

    run.progress.step = 150
    skip()
    assert capsys.readouterr().out == "step 151: the loss is nan, first in cells.1; skipped\n"
    for _ in range(training.MAX_SKIPPED - 2):
        skip()
    with pytest.raises(ArithmeticError, match=r"step 160, .* 10 steps .* step 151 in cells.1; lower --lr"):
        skip()
    assert run.progress.skipped == run.progress.skipped_in_a_row == training.MAX_SKIPPED


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
