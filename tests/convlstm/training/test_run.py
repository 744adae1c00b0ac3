"""The directory of a run: a log without doubles, one process at a time, nothing left of what never began."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlstm import StackedForecaster, StackedForecasterConfig, training
from convlstm.core.files import METRICS
from convlstm.hub.checkpoint import read_config
from convlstm.training import RunDirectory, World, open_run

ALONE = World()


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
    board = EventAccumulator(str(tmp_path))
    board.Reload()
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
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [event.value for event in board.Scalars("train/loss")] == [2.0]


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
        run.progress.step = 4
        raise training.Stopped(signal.SIGINT)
    assert training.load_state(tmp_path / "new")["progress"]["step"] == 4


def test_a_new_run_does_not_enter_a_folder_that_is_there(tmp_path: Path) -> None:
    begun(tmp_path / "new")
    with pytest.raises(ValueError, match="new exists; choose another --name"):  # noqa: SIM117
        with open_run(tmp_path / "new", ALONE, {}, new=True):
            pass
    assert training.states_of(tmp_path / "new")


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from convlstm.training import World, open_run\n"
        "with open_run(Path(sys.argv[1]), World(), {}) as run:\n    pass"
    )
    begun(tmp_path)
    command = [sys.executable, "-c", code, str(tmp_path)]
    with open_run(tmp_path, ALONE, {}):
        second = subprocess.run(command, capture_output=True, text=True)
    assert f"{tmp_path} is being trained by process {os.getpid()} on " in second.stderr
    assert subprocess.run(command).returncode == 0


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    run = begun(tmp_path)
    left = [
        tmp_path / ".config.json.1234.partial",
        training.states_of(tmp_path)[0].parent / ".7.pt.1.partial",
    ]
    for path in left:
        path.touch()
    with open_run(run.path, ALONE, {}):
        assert not any(path.exists() for path in left)


def test_a_state_comes_back(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    run = begun(tmp_path, model=model)
    run.progress = training.Progress(step=5, best=1.5, validated=4, skipped=3, in_a_row=2, trouble="cells.1")
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
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_the_best_network_comes_back_with_the_state(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path)
    whole = (tmp_path / name).read_bytes()
    if damage == "cut":
        (tmp_path / name).write_bytes(whole[:20])
    else:
        (tmp_path / name).unlink()
    training.mend(tmp_path)  # what --resume does first, for its settings
    RunDirectory(tmp_path, ALONE, {}).restore()
    assert (tmp_path / name).read_bytes() == whole
    assert f"{name} is not as it was when the state was saved; it is written anew" in capsys.readouterr().err


def test_what_is_noted_stays_though_no_network_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path)
    for number in (1, 2):
        run = RunDirectory(tmp_path, ALONE, {})
        run.restore()
        run.note({"resumed": [*read_config(tmp_path).get("resumed", []), number]})
    assert read_config(tmp_path)["resumed"] == [1, 2]
    assert not capsys.readouterr().err  # what is on the disk is what the state has


def test_a_state_that_cannot_be_written_is_said_with_the_one_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path)
    [before] = training.states_of(tmp_path)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("convlstm.core.files.os.replace", full)
    run.progress.step = 9
    with pytest.raises(
        OSError, match=rf"after step 9 was not written \(no space .*; {before} is whole: go on"
    ):
        run.save()
    assert training.states_of(tmp_path) == [before]


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
    for run.progress.step, run.progress.in_a_row in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4)):
        run.save_after(0)
    assert [int(path.name[:8]) for path in training.states_of(tmp_path)] == [1, 0]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, World(1, 2), {})
    run.log({"train/loss": 1.0})
    run.save()
    run.save_best(network(), {})
    run.sample(lambda path: path.touch())
    assert os.listdir(tmp_path) == []


def test_progress_is_made_of_plain_values() -> None:
    values = dataclasses.asdict(training.Progress())
    assert all(isinstance(value, int | float | str) for value in values.values())
