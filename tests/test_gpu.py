"""On a CUDA device: the same numbers as on the CPU, and a whole training run."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import train
from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvRNN,
    EncoderForecasterConfig,
    StackedForecasterConfig,
    rollout,
)
from convlstm.networks import build

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", [ConvRNN, ConvLSTM, ConvGRU])
def test_layers_compute_what_they_compute_on_the_cpu(kind) -> None:
    layer = kind(2, 5, (3, 4), num_layers=2, bidirectional=True, dtype=torch.float64)
    twin = copy.deepcopy(layer).cuda()
    input = torch.rand(3, 2, 2, 7, 5, dtype=torch.float64)
    for module, frames in ((layer, input), (twin, input.cuda())):
        module(frames)[0].square().sum().backward()
    assert_close(twin(input.cuda())[0].cpu(), layer(input)[0], rtol=0, atol=1e-12)
    for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        assert_close(ours.grad.cpu(), theirs.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [StackedForecasterConfig, EncoderForecasterConfig])
def test_rollouts_agree(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the CPU has none
    model = build(kind(hidden_channels=(8, 8), kernel_size=3))
    context = torch.rand(2, 4, 1, 16, 24)
    twin = copy.deepcopy(model).cuda()
    assert_close(rollout(twin, context.cuda(), 6).cpu(), rollout(model, context, 6), rtol=1e-4, atol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        frames = rollout(twin, context.cuda(), 6)
    assert frames.dtype == torch.float32
    assert_close(frames.cpu(), rollout(model, context, 6), rtol=0.05, atol=0.05)


def test_a_state_on_the_wrong_device_is_named() -> None:
    layer = ConvLSTM(1, 3, 3, device="cuda")
    state = torch.zeros(1, 2, 3, 8, 8)
    with pytest.raises(ValueError, match="h_0 is on cpu, the input is on cuda"):
        layer(torch.rand(4, 2, 1, 8, 8, device="cuda"), (state, state))


def test_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.training.choose_device("auto").type == "cuda"
    path = train.main(dataclasses.replace(train.PRESETS["tiny"], device="cuda"))
    assert (path / "rollout.gif").exists()
