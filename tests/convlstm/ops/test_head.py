"""StackedForecaster whose head reads the last cell alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from convlstm import StackedForecaster, StackedForecasterConfig, export, load_weights
from convlstm.core.saving import save_checkpoint
from convlstm.hub.checkpoint import load_checkpoint
from convlstm.ops.choice import VARIABLE

T, HORIZON, SIZE = 3, 3, (6, 4)
SMALL: dict[str, Any] = {"hidden_channels": (5, 3), "kernel_size": 3, "patch_size": 2, "head": "last"}


def make(**options: Any) -> StackedForecaster:
    model = StackedForecaster(StackedForecasterConfig(**SMALL | options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def forecast_by_hand(model: StackedForecaster, context: Tensor) -> Tensor:
    """All predictions, frame by frame and cell by cell: of context frames 2..T and of the horizon."""
    predictions: list[Tensor] = []
    states: list[Any] = [None] * len(model.cells)
    for t in range(T + HORIZON - 1):
        x = model._to_patches((context[:, t] if t < T else predictions[-1])[:, None])[0]
        for n, cell in enumerate(model.cells):
            states[n] = cell(x, states[n])
            x = states[n][0] if isinstance(states[n], tuple) else states[n]
        patches = F.conv2d(x, model.head.weight, model.head.bias).sigmoid()
        predictions.append(model._to_frames(patches[None])[:, 0])
    return torch.stack(predictions, dim=1)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_values_and_gradients_are_those_of_the_plain_loop(
    monkeypatch: pytest.MonkeyPatch, cell: str, implementation: str
) -> None:
    monkeypatch.setenv(VARIABLE, implementation)
    model, context = make(cell=cell, output="sigmoid"), torch.rand(2, T, 1, *SIZE, dtype=torch.float64)
    assert model.head.weight.shape == (4, 3, 1, 1)
    assert model._runs_as_one_op(context) == (implementation == "fused" and cell != "rnn")
    frames, expected = model(context, HORIZON, return_context=True), forecast_by_hand(model, context)
    assert_close(frames, expected, rtol=0, atol=1e-10)
    ours, theirs = (torch.autograd.grad(f.square().sum(), [*model.parameters()]) for f in (frames, expected))
    assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_it_is_saved_and_a_config_from_before_reads_all(tmp_path: Path) -> None:
    model, context = make().float(), torch.rand(1, T, 1, *SIZE)
    save_checkpoint(tmp_path / "last", model)
    loaded = load_checkpoint(tmp_path / "last")
    assert loaded.config == model.config
    assert_close(loaded(context, 2), model(context, 2))
    save_checkpoint(tmp_path / "all", make(head="all").float())
    stored = json.loads((tmp_path / "all" / "config.json").read_text())
    assert stored["network"].pop("head") == "all"
    (tmp_path / "all" / "config.json").write_text(json.dumps(stored))
    assert load_checkpoint(tmp_path / "all").config == make(head="all").config
    with pytest.raises(ValueError, match="head is 'first'; it needs one of"):
        make(head="first")


def test_it_is_exported(tmp_path: Path) -> None:
    model, context = make().float(), torch.rand(1, 1, 1, *SIZE)
    export(model, tmp_path / "model.pt2", horizon=1, size=SIZE, context=1)
    exported = torch.export.load(tmp_path / "model.pt2").module()
    assert_close(exported(context), model(context, 1))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"head": "all"}, "head is all, the network's is last"),
        ({"hidden_channels": (5,)}, "head is last, and the network's last layer is another"),
    ],
)
def test_a_head_that_read_something_else_is_left_out(options: dict[str, Any], reason: str) -> None:
    done = load_weights(make(), make(**options), strict=False)
    assert done.skipped == {"head.weight": reason, "head.bias": reason}
