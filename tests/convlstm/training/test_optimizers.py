"""Muon against torch's and against singular values; what of a network it is for; its state."""

import copy
import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from convlstm import (
    ConvLSTM,
    EncoderForecaster,
    EncoderForecasterConfig,
    FullyConnectedForecaster,
    FullyConnectedForecasterConfig,
    StackedForecaster,
    StackedForecasterConfig,
)
from convlstm.training import optimizers
from convlstm.training.optimizers import Muon, MuonAdamW, OptimizerName, make_optimizer


def network(*hidden_channels: int, **settings) -> StackedForecaster:
    torch.manual_seed(0)
    config = StackedForecasterConfig(hidden_channels=hidden_channels or (8, 4), kernel_size=3, **settings)
    return StackedForecaster(config)


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def take_steps(optimizer: MuonAdamW | torch.optim.Optimizer, seeds: range, lr: float = 1e-2) -> None:
    """Steps along random gradients, the same for the same shapes in the same order."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            group["lr"] = lr
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of U S V^T."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 and later have Muon")
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_of_matrices_it_is_torchs(weight_decay: float) -> None:
    shapes = (16, 72), (40, 8), (1, 5), (6, 6)
    ours, theirs = weights(*shapes), weights(*shapes)
    take_steps(Muon(ours, weight_decay=weight_decay, bfloat16=True), range(4))
    other = torch.optim.Muon(theirs, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    take_steps(other, range(4))
    for own, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, their, rtol=0, atol=1e-6)


def test_a_kernel_is_the_matrix_of_its_first_axis_by_all_others() -> None:
    kernels, matrices = weights((16, 8, 3, 3), (4, 2, 5)), weights((16, 72), (4, 10))
    take_steps(Muon(kernels), range(3))
    take_steps(Muon(matrices), range(3))
    for kernel, matrix in zip(kernels, matrices, strict=True):
        assert torch.equal(kernel.flatten(1), matrix)


@pytest.mark.parametrize("shape", [(16, 72), (72, 16)])
def test_in_float32_a_step_brings_all_singular_values_to_about_one(shape: tuple[int, int]) -> None:
    (weight,) = weights(shape)
    before = weight.detach().clone()
    take_steps(Muon([weight]), range(1))
    step = (weight.detach() - before) / (-1e-2 * 0.2 * max(shape) ** 0.5)
    singular = torch.linalg.svdvals(step)
    assert singular.min() > 0.65
    assert singular.max() < 1.25
    assert weight.grad is not None
    wanted = orthogonal(weight.grad)  # the first momentum is along the gradient
    assert torch.cosine_similarity(step.flatten(), wanted.flatten(), dim=0) > 0.97


def test_a_gradient_of_zeros_moves_nothing() -> None:
    (weight,) = weights((3, 4))
    before, weight.grad = weight.detach().clone(), torch.zeros(3, 4)
    Muon([weight]).step()
    assert torch.equal(weight, before)


KERNELS = [
    (network(8, 8, norm="group"), "cells.0.weight_ih cells.0.weight_hh cells.1.weight_ih cells.1.weight_hh"),
    (
        EncoderForecaster(EncoderForecasterConfig(hidden_channels=(4, 6), kernel_size=3, peephole="channel")),
        "encoder.0.weight_ih encoder.0.weight_hh encoder.1.weight_ih encoder.1.weight_hh "
        "forecaster.0.weight_hh forecaster.1.weight_ih forecaster.1.weight_hh",
    ),
    (
        EncoderForecaster(EncoderForecasterConfig(hidden_channels=(4, 6), kernel_size=3, strides=(1, 2))),
        "encoder.0.weight_ih encoder.0.weight_hh encoder.1.weight_ih encoder.1.weight_hh "
        "forecaster.0.weight_hh forecaster.1.weight_ih forecaster.1.weight_hh down.1.0.weight up.1.0.weight",
    ),
    (
        FullyConnectedForecaster(FullyConnectedForecasterConfig(hidden_size=4, frame_size=(8, 8))),
        "rnn.weight_ih_l0 rnn.weight_hh_l0 rnn.weight_ih_l1 rnn.weight_hh_l1",
    ),
    (ConvLSTM(1, 4, 3, peephole=(8, 8)), "cells.0.weight_ih cells.0.weight_hh"),
    (nn.Sequential(network(4)), "0.cells.0.weight_ih 0.cells.0.weight_hh"),
]


@pytest.mark.parametrize(("model", "kernels"), KERNELS, ids=range(len(KERNELS)))
def test_muon_has_kernels_and_matrices_and_adamw_all_else(model: nn.Module, kernels: str) -> None:
    parts = MuonAdamW(model).parts
    muon, adamw = ({p for g in parts[name].param_groups for p in g["params"]} for name in ("muon", "adamw"))
    assert muon == {model.get_parameter(name) for name in kernels.split()}
    assert adamw == set(model.parameters()) - muon


def test_it_goes_on_from_its_state() -> None:
    whole, model = network(), network()
    take_steps(MuonAdamW(whole), range(5))
    first = MuonAdamW(model)
    take_steps(first, range(2))
    second = MuonAdamW(model)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(second, range(2, 5))
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("parts", ["head.weight", "cells.0.weight_hh", "cells.1.bias cells.1.weight_ih"])
def test_frozen_parameters_are_in_neither_part(parts: str) -> None:
    model = network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parts.split())
    groups = MuonAdamW(model).param_groups
    found = {parameter for group in groups for parameter in group["params"]}
    assert found == {model.get_parameter(name) for name in parts.split()}


KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": MuonAdamW}


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_they_are_made_by_name(name: OptimizerName) -> None:
    model = network()
    model.get_parameter("head.bias").requires_grad_(False)
    optimizer = make_optimizer(name, model, weight_decay=0.1, bfloat16=False)
    assert type(optimizer) is KINDS[name]
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters())) - 1


def test_the_norms_of_the_layers_make_the_whole() -> None:
    model = network()
    model(torch.rand(1, 2, 1, 8, 8), 2).square().sum().backward()
    norms = optimizers.gradient_norms(model)
    assert list(norms) == ["gradient_norm/cells.0", "gradient_norm/cells.1", "gradient_norm/head"]
    whole = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf).item()
    assert math.hypot(*norms.values()) == pytest.approx(whole)


def test_cosine_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    factors = [optimizers.lr_factor(step, 100, "cosine", 0.2) for step in range(100)]
    assert factors[:3] == pytest.approx([0.025, 0.075, 0.125])
    assert max(factors) == pytest.approx(1, abs=1e-3)
    assert factors[60] == pytest.approx((1 + math.cos(math.pi * 0.405 / 0.8)) / 2)
    assert 0 < factors[-1] < 1e-3
    assert optimizers.lr_factor(0, 1000, "cosine", 0.0) == pytest.approx(1, abs=1e-5)  # no warm-up
    with pytest.raises(ValueError, match="schedule is 'linear'"):
        optimizers.lr_factor(0, 1000, "linear", 0.2)


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1000, cycle_momentum=False)
    for step in range(999):
        ours = optimizers.lr_factor(step, 1000, "one-cycle", 0.3)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=5e-3)  # ours is at the middle of a step
        optimizer.step()
        theirs.step()
