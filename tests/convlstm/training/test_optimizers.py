"""Muon by its equations, which weights it is for, and its state."""

import copy

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
from convlstm.training import MuonAdamW, make_optimizer


def network() -> StackedForecaster:
    torch.manual_seed(0)
    return StackedForecaster(StackedForecasterConfig(hidden_channels=(8, 4), kernel_size=3))


def set_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def take_steps(optimizer: MuonAdamW, network: nn.Module, seeds: range, lr: float = 1e-2) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    for seed in seeds:
        set_gradients(network, seed)
        optimizer.step()


def of_muon(optimizer: MuonAdamW, network: nn.Module) -> set[str]:
    """The names of the parameters that Muon has."""
    matrices = {p.data_ptr() for p in optimizer._parts["muon"].param_groups[0]["params"]}
    return {name for name, p in network.named_parameters() if p.data_ptr() in matrices}


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of U S V^T."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def test_a_step_brings_all_singular_values_to_about_one() -> None:
    model = network()
    before, kernel = (
        copy.deepcopy(model.get_parameter("cells.1.weight_ih")),
        model.get_parameter("cells.1.weight_ih"),
    )
    take_steps(MuonAdamW(model), model, range(1), lr=1e-2)
    rows, columns = kernel.flatten(1).shape  # (16, 72)
    step = (kernel - before).flatten(1).detach() / (-1e-2 * 0.2 * max(rows, columns) ** 0.5)
    singular = torch.linalg.svdvals(step)
    assert singular.min() > 0.65
    assert singular.max() < 1.25
    assert kernel.grad is not None
    wanted = orthogonal(kernel.grad.flatten(1))  # the first momentum is along the gradient
    assert torch.cosine_similarity(step.flatten(), wanted.flatten(), dim=0) > 0.97


def test_the_momentum_is_that_of_nesterov() -> None:
    model = network()
    kernel = model.get_parameter("cells.0.weight_hh")
    optimizer = MuonAdamW(model)
    take_steps(optimizer, model, range(1))
    assert kernel.grad is not None
    momentum = 0.05 * kernel.grad.flatten(1)
    before = kernel.detach().clone()
    take_steps(optimizer, model, range(1, 2))
    momentum = 0.95 * momentum + 0.05 * kernel.grad.flatten(1)
    wanted = orthogonal(0.95 * momentum + 0.05 * kernel.grad.flatten(1))
    assert torch.cosine_similarity((before - kernel.detach()).flatten(), wanted.flatten(), dim=0) > 0.97


def test_all_else_is_trained_by_adamw() -> None:
    model, other = network(), network()
    optimizer = MuonAdamW(model, weight_decay=0.1)
    take_steps(optimizer, model, range(3))
    theirs = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        set_gradients(other, seed)
        theirs.step()
    muon = of_muon(optimizer, model)
    for (name, ours), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, wanted) == (name not in muon), name


def test_weight_decay_shrinks_the_kernels() -> None:
    model, other = network(), network()
    take_steps(MuonAdamW(model, weight_decay=0.5), model, range(1), lr=0.1)
    take_steps(MuonAdamW(other), other, range(1), lr=0.1)
    start = network().get_parameter("cells.0.weight_ih")
    torch.testing.assert_close(
        model.get_parameter("cells.0.weight_ih"), other.get_parameter("cells.0.weight_ih") - 0.1 * 0.5 * start
    )


@pytest.mark.parametrize(
    ("model", "kernels"),
    [
        (network(), {f"cells.{i}.weight_{kind}" for i in range(2) for kind in ("ih", "hh")}),
        (
            EncoderForecaster(EncoderForecasterConfig(hidden_channels=(4,), kernel_size=3)),
            {"encoder.0.weight_ih", "encoder.0.weight_hh", "forecaster.0.weight_hh"},
        ),
        (
            FullyConnectedForecaster(
                FullyConnectedForecasterConfig(hidden_size=4, num_layers=1, frame_size=(8, 8))
            ),
            {"rnn.weight_ih_l0", "rnn.weight_hh_l0"},
        ),
        (ConvLSTM(1, 4, 3, peephole=(8, 8)), {"cells.0.weight_ih", "cells.0.weight_hh"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_muon_has_the_kernels_and_matrices_but_not_the_head(model: nn.Module, kernels: set[str]) -> None:
    assert of_muon(MuonAdamW(model), model) == kernels


def test_it_goes_on_from_its_state() -> None:
    whole, model = network(), network()
    optimizer = MuonAdamW(whole)
    take_steps(optimizer, whole, range(5))
    first = MuonAdamW(model)
    take_steps(first, model, range(2))
    second = MuonAdamW(model)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(second, model, range(2, 5))
    for ours, wanted in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, wanted)


def test_the_state_of_another_optimizer_is_refused() -> None:
    model = network()
    with pytest.raises(KeyError):
        MuonAdamW(model).load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())


@pytest.mark.parametrize("trained", ["head", "cells"])
def test_frozen_parameters_stay(trained: str) -> None:
    model = network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained) and name.endswith(("weight", "weight_hh")))
    before = copy.deepcopy(model)
    take_steps(MuonAdamW(model), model, range(2))
    for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then) != now.requires_grad, name


def test_gradients_are_dropped_and_missing_ones_leave_the_weights() -> None:
    model = network()
    before = copy.deepcopy(model)
    optimizer = MuonAdamW(model)
    set_gradients(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    optimizer.step()
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_torchs_own_by_name(name, kind: type) -> None:
    model = network()
    model.get_parameter("head.bias").requires_grad_(False)
    optimizer = make_optimizer(name, model, weight_decay=0.1)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(model.parameters())) - 1
