"""What a run needs: schedules worked out by hand, a log without doubles, a state that executes nothing."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from convlstm import training
from convlstm.networks import EncoderForecasterConfig, StackedForecasterConfig


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
    with pytest.raises(ValueError, match=r"training.pt is damaged"):
        training.load_state(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_or_truncated_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which has no training.pt: nothing to continue"):
        training.load_state(tmp_path)
    torch.save({"step": 1}, tmp_path / training.STATE)
    (tmp_path / training.STATE).write_bytes((tmp_path / training.STATE).read_bytes()[:200])
    with pytest.raises(ValueError, match=r"training.pt is damaged"):
        training.load_state(tmp_path)


def test_devices() -> None:
    assert training.choose_device("cpu") == torch.device("cpu")
    assert training.choose_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ValueError, match="device is 'abacus', which this machine does not have; it has"):
        training.choose_device("abacus")


@pytest.mark.parametrize("model", [StackedForecasterConfig(cell="gru"), EncoderForecasterConfig()])
def test_settings_survive_json(model) -> None:
    import train  # the settings are those of the script

    config = train.Config(
        model=model, teacher_forcing=0.0, data=train.DataConfig(digits="mnist", root=Path("x/y"))
    )
    text = json.dumps(training.settings_to_dict(config))
    assert training.settings_from_dict(train.Config, json.loads(text)) == config


def test_settings_that_do_not_fit_are_refused() -> None:
    import train

    with pytest.raises(ValueError, match="settings are None"):
        training.settings_from_dict(train.Config, None)
    with pytest.raises(ValueError, match="settings have 'colour', which Config does not know"):
        training.settings_from_dict(train.Config, {"colour": 1})
    with pytest.raises(ValueError, match="steps is 0"):
        training.settings_from_dict(train.Config, {"steps": 0})
