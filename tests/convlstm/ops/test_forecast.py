"""A whole forecast as one op against the network's loop of single steps."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm import StackedForecaster, ops
from convlstm.ops import choice, fused_gru, fused_lstm
from convlstm.ops.convolution import weight_gradient


def run(model: StackedForecaster, context: Tensor, horizon: int, **options: Any) -> list[Tensor]:
    """The forecast, and the gradients of the context and of every weight."""
    context = context.clone().requires_grad_()
    frames = model(context, horizon, **options)
    weights = torch.linspace(-1, 1, frames.numel(), dtype=frames.dtype).view_as(frames)
    gradients = torch.autograd.grad(frames, [context, *model.parameters()], weights, allow_unused=True)
    return [frames, *(g if g is not None else torch.zeros(()) for g in gradients)]


def compare(model: StackedForecaster, tolerance: float, *arguments: Any, **options: Any) -> None:
    results = []
    for name in ("fused", "reference"):
        with ops.use_implementation(name):
            results.append(run(model, *arguments, **options))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize(("frames", "horizon"), [(4, 5), (1, 3), (3, 1)])
@pytest.mark.parametrize(
    "config",
    [
        {"output": "sigmoid", "peephole": "channel"},
        {"kernel_size": 4, "channels": 3},
        {"output": "sigmoid", "cell": "gru"},
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_at_once_is_step_by_step(dtype, tolerance, config, frames, horizon) -> None:
    config = {"hidden_channels": (5, 7), "patch_size": 2, "kernel_size": 3} | config
    model = StackedForecaster(**config).to(dtype)
    context, targets = (torch.rand(3, n, model.config.channels, 8, 6, dtype=dtype) for n in (frames, horizon))
    true = {"targets": targets, "use_target": torch.rand(3, horizon - 1) < 0.5}
    for options in ({}, {"return_context": True}, true, {"return_context": True, **true}):
        compare(model, tolerance, context, horizon, **options)


def test_under_autocast_they_agree() -> None:
    model = StackedForecaster(hidden_channels=(8, 8), kernel_size=3, peephole="channel")
    with torch.autocast("cpu", torch.bfloat16):
        compare(model, 0.03, torch.rand(2, 5, 1, 16, 16), 6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_frozen_layers_cost_no_convolutions_of_weights(cell, monkeypatch) -> None:
    model = StackedForecaster(cell=cell, hidden_channels=(5, 7, 3), kernel_size=3, patch_size=2).double()
    counts = []
    context = torch.rand(2, 3, 1, 8, 6, dtype=torch.float64)

    def gradients(implementation: str) -> dict[str, Tensor | None]:
        monkeypatch.setenv(choice.VARIABLE, implementation)
        model.zero_grad()
        model(context, 2).square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    for module in (fused_lstm, fused_gru):
        monkeypatch.setattr(module, "weight_gradient", lambda *a: counts.append(1) or weight_gradient(*a))
    gradients("fused")
    all_three = len(counts)
    model.cells[:2].requires_grad_(False)
    counts.clear()
    ours = gradients("fused")
    assert 0 < len(counts) <= all_three / 2  # a layer with few inputs takes two where others take one
    assert {name for name, gradient in ours.items() if gradient is None} == {
        name for name in ours if name.startswith(("cells.0.", "cells.1."))
    }
    assert_close(ours, gradients("reference"), rtol=0, atol=1e-12)


def test_it_is_one_node_of_a_compiled_graph(monkeypatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "fused")
    model = StackedForecaster(hidden_channels=(8,), kernel_size=3)
    context, operators = torch.rand(2, 5, 1, 16, 16), []

    def look(graph: torch.fx.GraphModule, _: object) -> object:
        operators.extend(str(node.target) for node in graph.graph.nodes if "convlstm" in str(node.target))
        return graph.forward

    compiled = torch.compile(model, backend=look, fullgraph=True)
    assert_close(compiled(context, 7), model(context, 7))
    assert operators == ["convlstm.stack.default"]


def test_it_trains_under_distributed_data_parallel(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "fused")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = StackedForecaster(hidden_channels=(8,), kernel_size=3)
        parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        context = torch.rand(2, 5, 1, 16, 16)
        for module in (model, parallel):
            module(context, 3).square().sum().backward()
        for ours, theirs in zip(parallel.parameters(), model.parameters(), strict=True):
            assert_close(ours.grad, theirs.grad)
    finally:
        torch.distributed.destroy_process_group()
