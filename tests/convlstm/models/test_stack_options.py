"""StackedForecaster with residual connections, with norms, or with a head that reads the last cell alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from convlstm import StackedForecaster, StackedForecasterConfig, load_weights, ops, rollout, stream

FORMS: list[dict[str, Any]] = [
    {"residual": True},
    {"norm": "group"},
    {"residual": True, "norm": "group"},
    {"head": "last", "output": "sigmoid"},
]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form))
B, T, HORIZON, SIZE = 2, 3, 3, (6, 4)


def make(**options: Any) -> StackedForecaster:
    small: dict[str, Any] = {"hidden_channels": (16, 16, 16), "kernel_size": 3, "patch_size": 2}
    model = StackedForecaster(StackedForecasterConfig(**small | options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def forecast_by_hand(
    model: StackedForecaster, context: Tensor, targets: Tensor, use_target: Tensor
) -> Tensor:
    """All predictions, frame by frame and cell by cell: of context frames 2..T and of the horizon."""
    config, predictions = model.config, []
    states: list[Any] = [None] * len(model.cells)
    for t in range(T + HORIZON - 1):
        if t < T:
            frame = context[:, t]
        else:
            true = use_target[:, t - T, None, None, None]
            frame = torch.where(true, targets[:, t - T], predictions[-1])
        x, outputs = model._to_patches(frame[:, None])[0], []
        for n, cell in enumerate(model.cells):
            if n:
                x = sum(outputs, torch.zeros(())) if config.residual else outputs[-1]
                if config.norm:
                    scale, shift = (model.get_parameter(f"norms.{n - 1}.{p}") for p in ("weight", "bias"))
                    groups = x.unflatten(1, (2, 8)).flatten(2)  # two groups of 8 channels, all their pixels
                    variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
                    x = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(x)
                    x = x * scale[:, None, None] + shift[:, None, None]
            states[n] = cell(x, states[n])
            outputs.append(states[n][0] if isinstance(states[n], tuple) else states[n])
        read = outputs[-1] if config.head == "last" else torch.cat(outputs, dim=1)
        patches = F.conv2d(read, model.head.weight, model.head.bias)
        patches = patches.sigmoid() if config.output == "sigmoid" else patches
        predictions.append(model._to_frames(patches[None])[:, 0])
    return torch.stack(predictions, dim=1)


@each_form
@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_values_and_gradients_are_those_of_the_plain_loop(
    form: dict[str, Any], cell: str, implementation: str
) -> None:
    model = make(cell=cell, **form).double()
    context, targets = (torch.rand(B, n, 1, *SIZE, dtype=torch.float64) for n in (T, HORIZON))
    true = {"targets": targets, "use_target": torch.tensor([[True, False], [False, True]])}
    with ops.use_implementation(implementation):
        frames = model(context, HORIZON, return_context=True, **true)
        expected = forecast_by_hand(model, context, **true)
    assert_close(frames, expected, rtol=0, atol=1e-10)
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(f.square().sum(), parameters) for f in (frames, expected))
    assert_close(ours, theirs, rtol=0, atol=1e-8)


@each_form
def test_streamed_and_in_bfloat16(form: dict[str, Any]) -> None:
    model, context = make(**form), torch.rand(B, T, 1, *SIZE)
    assert_close(torch.stack(list(stream(model, context, 4)), dim=1), rollout(model, context, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(model(context, 2), model(context, 2))


def test_each_option_adds_its_own_parameters_only() -> None:
    plain, residual, normed = (make(**form) for form in ({}, *FORMS[:2]))
    assert plain.state_dict().keys() == residual.state_dict().keys()
    new = normed.state_dict().keys() - plain.state_dict().keys()
    assert new == {f"norms.{n}.{name}" for n in (0, 1) for name in ("weight", "bias")}
    assert make(head="last").head.weight.shape == (4, 16, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"residual": True, "hidden_channels": (16, 8)},
            r"residual is True, .* \(16, 8\); to be summed, all",
        ),
        ({"norm": "group", "hidden_channels": (16, 12)}, r"norm is 'group', .* \(16, 12\); groups of 8 cha"),
        ({"norm": "batch"}, r"norm is 'batch'; it needs one of \(None, 'group'\)"),
        ({"residual": 1}, "residual is 1; it needs true or false"),
        ({"head": "first"}, "head is 'first'; it needs one of"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StackedForecasterConfig(**options)


def test_it_is_saved_and_a_config_from_before_reads_all(tmp_path: Path) -> None:
    model, context = make(head="last"), torch.rand(1, T, 1, *SIZE)
    model.save_pretrained(tmp_path / "last")
    loaded = StackedForecaster.from_pretrained(tmp_path / "last")
    assert loaded.config == model.config
    assert_close(loaded(context, 2), model(context, 2))
    make().save_pretrained(tmp_path / "all")
    stored = json.loads((tmp_path / "all" / "config.json").read_text())
    assert stored["network"].pop("head") == "all"
    (tmp_path / "all" / "config.json").write_text(json.dumps(stored))
    assert StackedForecaster.from_pretrained(tmp_path / "all").config == make().config


@pytest.mark.parametrize(
    ("to", "source", "names", "reason"),
    [
        (
            {"residual": True},
            {},
            ("cells.1.weight_ih", "cells.2.weight_ih"),
            "residual is False, the network's is True",
        ),
        ({"head": "last"}, {}, ("head.weight", "head.bias"), "head is all, the network's is last"),
        (
            {"head": "last"},
            {"head": "last", "hidden_channels": (16,)},
            ("head.weight", "head.bias"),
            "number of layers is 1, the network's is 3",
        ),
    ],
)
def test_weights_that_read_something_else_are_left_out(
    to: dict, source: dict, names: Any, reason: str
) -> None:
    done = load_weights(make(**to), make(**source), strict=False)
    assert done.skipped == dict.fromkeys(names, reason)


def test_norms_fit_networks_of_other_depth() -> None:
    source, model = make(norm="group"), make(norm="group", hidden_channels=(16, 16, 16, 8))
    assert not load_weights(model, source, strict=False).skipped
    context = torch.rand(B, T, 1, *SIZE)
    assert_close(model(context, 2), source(context, 2))
