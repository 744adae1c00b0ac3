"""Loading into other networks: all or nothing, in words, and in a table; freezing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from convlstm import StackedForecaster, load_weights
from convlstm.core.saving import save_checkpoint
from convlstm.hub.transfer import Transfer, freeze

SMALL: dict[str, Any] = {"hidden_channels": (5, 3), "kernel_size": 3, "patch_size": 2}


def network(**options: Any) -> StackedForecaster:
    return StackedForecaster(**SMALL | options)


@pytest.mark.parametrize("kind", ["directory", "module", "state dict"])
def test_the_same_network_takes_everything(kind: str, tmp_path: Path) -> None:
    source, model = network(), network()
    save_checkpoint(tmp_path, source)
    given = {"directory": tmp_path, "module": source, "state dict": source.state_dict()}[kind]
    done = load_weights(model, given)
    assert done == Transfer(tuple(source.state_dict()), {}, {}, ())
    assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_strict_refuses_with_the_first_problems_and_changes_nothing(tmp_path: Path) -> None:
    source, model = network(hidden_channels=(5, 4)), network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    several = r"\(hidden_channels is 4, the network's is 3\); .*; strict=False loads what fits"
    for given, to, message in (
        (source, model, rf"source does not fit the model: cells.1.weight_ih {several}"),
        (model, network(channels=3), r"cells.0.weight_ih \(only adapted: repeated for 3 channels, divided"),
        (model, network(peephole="channel"), r"model: cells.0.weight_ch \(not in the source\); cells.1"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(to, given)
    save_checkpoint(tmp_path, source)
    with pytest.raises(ValueError, match=f"source '{tmp_path}' does not fit the model"):
        load_weights(model, str(tmp_path))
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (network(kernel_size=5), r"cells.0.weight_ih \(kernel_size is \(5, 5\), the network's is \(3, 3\)\)"),
        (
            network(cell="gru"),
            r"cells.0.weight_ih \(the cell is ConvGRUCell, the network's is ConvLSTMCell\)",
        ),
        ({}, "it is empty"),
    ],
)
def test_a_source_of_which_nothing_fits_is_refused(source: Any, message: str) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"source has nothing that fits the model: {message}"):
        load_weights(model, source, strict=False)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_state_dict_goes_by_names_and_shapes() -> None:
    tensors = network(hidden_channels=(5, 4)).state_dict()
    given = {**tensors, "epoch": 3, "head.bias": torch.zeros(4, dtype=torch.int64)}
    done = load_weights(network(), given, strict=False)
    assert done.loaded == ("cells.0.weight_ih", "cells.0.weight_hh", "cells.0.bias")
    assert done.skipped["cells.1.bias"] == "shape is (16,), the network's is (12,)"
    assert done.skipped["head.bias"] == "type is torch.int64, the network's is torch.float32"
    assert done.skipped["epoch"] == "nothing in the network has its place"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_values_that_are_not_finite_in_the_models_type_are_refused(value: float) -> None:
    source, model = network().double(), network()
    with torch.no_grad():
        source.get_parameter("head.bias")[1] = value
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"source has values for head.bias that are not finite"):
        load_weights(model, source, strict=False)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_types_are_those_of_the_model() -> None:
    source, model = network().bfloat16(), network()
    wrapped: Any = torch.compile(model)
    load_weights(wrapped, source)
    assert_close(model.state_dict(), source.float().state_dict(), rtol=0, atol=0)


def test_what_cannot_be_a_source_or_a_model_is_named(tmp_path: Path) -> None:
    number: Any = 3
    with pytest.raises(TypeError, match="source is a int; it needs a checkpoint's directory, a module or a"):
        load_weights(network(), number)
    with pytest.raises(TypeError, match="model is a int; it needs a module"):
        load_weights(number, network())
    with pytest.raises(FileNotFoundError, match=r"nowhere is no checkpoint"):
        load_weights(network(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="on the device meta, without memory"):
        load_weights(network().to("meta"), network())


def test_a_transfer_is_shown_as_a_table() -> None:
    done = load_weights(network(channels=3), network(hidden_channels=(5, 4)), strict=False)
    lines = str(done).splitlines()
    assert lines[0] == "2 tensors loaded, 1 adapted, 5 skipped, 5 of the network kept as they were"
    assert lines[1:5] == [
        "  loaded   cells.0.weight_hh",
        "  loaded   cells.0.bias",
        "  adapted  cells.0.weight_ih  repeated for 3 channels, divided by 3",
        "  skipped  cells.1.weight_ih  hidden_channels is 4, the network's is 3",
    ]
    assert len(lines) == 1 + 2 + 1 + 5 + 5
    assert lines[-1] == "  kept     head.bias"


def test_frozen_parts_need_no_gradients() -> None:
    model = network()
    assert freeze(model, []) == 0
    assert freeze(model, ["cells.0", "head.bias"]) == 4 * 5 * (9 * (4 + 5) + 1) + 4
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"cells.0.weight_ih", "cells.0.weight_hh", "cells.0.bias", "head.bias"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["cells.0", "cells.9"], r"freeze has 'cells.9', which .*; its parts are cells.0, cells.1, head"),
        (["cell"], "freeze has 'cell', which is no part of"),
        (["cells", "head"], "freeze is cells head, all of the network; leave one to train of cells.0, cells"),
    ],
)
def test_parts_that_cannot_be_frozen_are_named(parts: list[str], message: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=message):
        freeze(model, parts)
    assert all(parameter.requires_grad for parameter in model.parameters())
