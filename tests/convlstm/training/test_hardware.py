"""Devices, precision, memory and clocks."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from convlstm import StackedForecaster, StackedForecasterConfig
from convlstm.training import hardware, optimizers


def test_devices() -> None:
    assert hardware.choose_device("cpu") == torch.device("cpu")
    assert hardware.choose_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ValueError, match="device is 'abacus'; it needs one of this machine, such as cpu"):
        hardware.choose_device("abacus")


@pytest.mark.parametrize("found", [False, True])
def test_auto_is_bfloat16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda device: found)
    device = torch.device("cpu")
    assert hardware.choose_bfloat16("auto", device) == ("on" if found else "off")
    for setting in ("on", "off"):
        assert hardware.choose_bfloat16(setting, device) == setting
        assert hardware.describe(device, setting).endswith("bfloat16" if setting == "on" else "float32")
    with hardware.autocast("auto", device):
        assert torch.is_autocast_enabled("cpu") is found


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", None])
@pytest.mark.parametrize("faster", [False, True])
def test_a_cpu_computes_in_bfloat16_where_it_can_and_is_faster(
    monkeypatch: pytest.MonkeyPatch, capability: str | None, faster: bool
) -> None:
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0 if faster else 3.0}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    monkeypatch.setattr(hardware.timeit, "repeat", lambda action, **_: [9.0, seconds[action().dtype]])
    found = hardware.has_fast_bfloat16.__wrapped__(torch.device("cpu"))
    assert found is (faster and capability is not None)


def test_a_stopwatch_leaves_out_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 17.0, 20.0, 21.0])
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(now))
    watch = hardware.Stopwatch(torch.device("cpu"))
    with watch.paused():  # from 10 to 17
        pass
    assert watch.lap() == 13.0
    assert watch.lap() == 1.0


def test_recompute_changes_no_gradient_and_needs_less_memory() -> None:
    config = StackedForecasterConfig(hidden_channels=(8, 8), kernel_size=3)
    gradients, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = StackedForecaster(config)
        hardware.set_recompute(model, recompute)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t
        ):
            loss = model(torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0)), 4).sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        kept.append(sum(sizes))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < kept[0]


def test_the_memory_of_the_process_is_counted() -> None:
    assert 0.05 < hardware.memory_peak(torch.device("cpu")) < 1000


class Clock:
    """A clock that only the test moves."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: clock.now)
    return clock


def trial(clock: Clock, seconds: Callable[[int], float], validation: float, **settings: float) -> int:
    """Return how many steps fit if a step, by its number, and a validation take so many seconds."""
    weight, checked = torch.nn.Parameter(torch.ones(2, 3)), Mock()
    model = torch.nn.ParameterList([weight])
    optimizer = optimizers.MuonAdamW(torch.nn.Linear(3, 2, bias=False))
    parts = {"model": model, "ema": AveragedModel(model), "optimizer": optimizer}
    optimizer.parts["muon"].param_groups[0]["params"] = [weight]

    def losses(step: int) -> Iterator[Tensor]:
        clock.now += seconds(step)
        yield weight.square().sum()

    def validate() -> None:
        assert not torch.equal(weight, torch.ones(2, 3))
        clock.now += validation

    options = SimpleNamespace(**settings)
    steps = hardware.steps_in_time(options, parts, losses, validate, checked, torch.device("cpu"))
    assert checked.call_count == hardware.WARMUP_STEPS + hardware.TRIAL_STEPS
    assert torch.equal(weight, torch.ones(2, 3))  # what the trial did is undone
    assert int(parts["ema"].n_averaged) == 0
    assert not optimizer.state_dict()["muon"]["state"]
    return steps


def test_as_many_steps_as_fit_into_the_minutes(clock: Clock) -> None:
    steps = trial(clock, lambda n: 20.0 if n < 3 else 0.05, validation=8.0, minutes=20, validations=5)
    end = clock.now + steps * 0.05 + 5 * 8.0
    assert (1 - hardware.SPARE_TIME) * 20 * 60 - 5 <= end <= 20 * 60


def test_what_interrupts_a_trial_is_not_taken_for_the_speed(clock: Clock) -> None:
    steps = trial(clock, lambda n: 3.0 if n in (12, 20) else 0.125, 0.0, minutes=10, validations=1)
    assert steps == int((1 - hardware.SPARE_TIME) * (600 - clock.now) / 0.125)


def test_minutes_that_the_trial_uses_up_leave_one_step(clock: Clock) -> None:
    assert trial(clock, lambda n: 3.0, 0.0, minutes=1, validations=1) == 1
