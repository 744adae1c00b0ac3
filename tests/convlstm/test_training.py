"""What a run needs: schedules worked out by hand, a log without doubles, a state that executes nothing."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from convlstm import training


def test_cosine_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    factors = [training.lr_factor(step, 100, "cosine", 0.2) for step in range(100)]
    assert factors[:3] == pytest.approx([0.025, 0.075, 0.125])
    assert max(factors) == pytest.approx(1, abs=1e-3)
    assert factors[60] == pytest.approx((1 + math.cos(math.pi * 0.405 / 0.8)) / 2)
    assert 0 < factors[-1] < 1e-3


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1000, cycle_momentum=False)
    for step in range(999):
        ours = training.lr_factor(step, 1000, "one-cycle", 0.3)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=5e-3)  # ours is at the middle of a step
        optimizer.step()
        theirs.step()


def test_schedules_stretch() -> None:
    short = [training.lr_factor(step, 10, "one-cycle", 0.3) for step in range(10)]
    long = [training.lr_factor(3 * step + 1, 30, "one-cycle", 0.3) for step in range(10)]
    assert short == pytest.approx(long)  # the middles of the steps coincide


def test_no_warm_up() -> None:
    assert training.lr_factor(0, 1000, "cosine", 0.0) == pytest.approx(1, abs=1e-5)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / training.METRICS).read_text().splitlines()]


def test_a_resumed_log_has_no_step_twice(tmp_path: Path) -> None:
    run = training.RunDirectory(tmp_path / "run")
    for step in (10, 20, 30):
        run.log(step, {"train/loss": float(step)})
    run.close()
    with (tmp_path / "run" / training.METRICS).open("a") as file:
        file.write('{"step": 40, "tr')  # killed in the middle of a line
    run = training.RunDirectory(tmp_path / "run", step=20)
    run.log(30, {"train/loss": 0.5})
    run.close()
    assert [(line["step"], line["train/loss"]) for line in read(tmp_path / "run")] == [
        (10, 10.0),
        (20, 20.0),
        (30, 0.5),
    ]
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(tmp_path / "run"))


@pytest.mark.parametrize("line", ["garbage", '{"nostep": 1}', '{"step": "a"}', "[1]", "\xff"])
def test_a_damaged_line_of_the_log_is_named(tmp_path: Path, line: str) -> None:
    text = '{"step": 1}\n' + line + '\n{"step": 2}\n'
    (tmp_path / training.METRICS).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2, is damaged; .*mend the line or remove it"):
        training.RunDirectory(tmp_path, step=1)
    assert (tmp_path / training.METRICS).read_text(encoding="latin-1") == text


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_that_failed_to_begin_leaves_nothing(tmp_path: Path, beside: bool) -> None:
    if beside:
        (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(OSError, match="no space"), training.open_run(tmp_path / "runs" / "new"):  # noqa: PT012
        (tmp_path / "runs" / "new" / "config.json").touch()
        raise OSError("no space left on device")
    assert os.listdir(tmp_path) == (["runs"] if beside else [])
    assert not beside or os.listdir(tmp_path / "runs") == ["other"]


def test_what_was_there_before_or_can_be_gone_on_with_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(OSError, match="no space"), training.open_run(tmp_path):
        raise OSError("no space left on device")
    assert (tmp_path / "mine").exists()
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt, match=r"stopped; go on with --resume .*new"),
        training.open_run(tmp_path / "new") as run,
    ):
        run.save_state(0, 1.0)
        raise KeyboardInterrupt
    assert training.load_state(tmp_path / "new") == (0, 1.0)


def test_the_exit_status_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    assert training.exit_status("x.py", lambda: None) == 0
    assert training.exit_status("x.py", lambda: fail(ValueError("lr is 0;\nit needs more"))) == 2
    assert training.exit_status("x.py", lambda: fail(KeyboardInterrupt("stopped; go on"))) == 130
    assert training.exit_status("x.py", lambda: fail(KeyboardInterrupt())) == 130
    expected = "x.py: error: lr is 0; it needs more\nx.py: stopped; go on\nx.py: stopped\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(RuntimeError):  # a fault of the program keeps its traceback
        training.exit_status("x.py", lambda: fail(RuntimeError()))


def test_a_state_comes_back(tmp_path: Path) -> None:
    run = training.RunDirectory(tmp_path)
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    run.save_state(5, 1.5, model=model)
    run.close()
    assert training.load_state(tmp_path, model=other) == (5, 1.5)
    torch.testing.assert_close(other.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"training.pt is damaged or does not fit: .*size mismatch"):
        training.load_state(tmp_path, model=torch.nn.Linear(3, 3))


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_hostile_state_is_refused_and_not_executed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Hostile()}, tmp_path / training.STATE)
    with pytest.raises(ValueError, match=r"holds more than tensors and numbers, which is never loaded"):
        training.load_state(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_or_truncated_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which has no training.pt: nothing to continue"):
        training.load_state(tmp_path)
    torch.save({"step": 1}, tmp_path / training.STATE)
    (tmp_path / training.STATE).write_bytes((tmp_path / training.STATE).read_bytes()[:200])
    with pytest.raises(ValueError, match=r"training.pt is damaged"):
        training.load_state(tmp_path)
    (tmp_path / training.STATE).write_bytes(b"")
    with pytest.raises(ValueError, match=r"training.pt is damaged or does not fit: \w+"):
        training.load_state(tmp_path)
    torch.save([1], tmp_path / training.STATE)
    with pytest.raises(ValueError, match=r"training.pt is damaged"):
        training.load_state(tmp_path)


def test_devices() -> None:
    assert training.choose_device("cpu") == torch.device("cpu")
    assert training.choose_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ValueError, match="device is 'abacus', which this machine does not have; it has"):
        training.choose_device("abacus")
    with pytest.raises(
        ValueError, match="device is 'cpu:5', but this machine has 1 of the kind; it needs cpu:0"
    ):
        training.choose_device("cpu:5")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"cuda:9', but this machine has 2 .*; it needs cuda:0 to cuda:1"):
        training.choose_device("cuda:9")


@pytest.mark.parametrize("found", [False, True])
def test_auto_is_bfloat16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr(training, "has_bfloat16", lambda device: found)
    device = torch.device("cpu")
    assert training.choose_bfloat16("auto", device) == ("on" if found else "off")
    for setting in ("on", "off"):
        assert training.choose_bfloat16(setting, device) == setting
        assert training.describe(device, setting).endswith("bfloat16" if setting == "on" else "float32")
    with training.autocast("auto", device):
        assert torch.is_autocast_enabled("cpu") is found


def test_a_stopwatch_leaves_out_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 17.0, 20.0, 21.0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))
    watch = training.Stopwatch(torch.device("cpu"))
    with watch.paused():  # from 10 to 17
        pass
    assert watch.lap() == 13.0
    assert watch.lap() == 1.0


def test_a_new_run_does_not_enter_a_folder_that_is_there(tmp_path: Path) -> None:
    with training.open_run(tmp_path / "runs" / "new", new=True) as run:
        run.save_state(0, 1.0)
    with (
        pytest.raises(ValueError, match="new exists; choose another --name"),
        training.open_run(tmp_path / "runs" / "new", new=True),
    ):
        pass
    assert training.load_state(tmp_path / "runs" / "new") == (0, 1.0)


def test_sigterm_leaves_no_run_that_cannot_be_gone_on_with(tmp_path: Path) -> None:
    def run() -> None:
        with training.open_run(tmp_path / "new", new=True):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        training.exit_status("x.py", run)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "new").exists()
    assert signal.getsignal(signal.SIGTERM) is before
