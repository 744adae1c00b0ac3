"""What the ops refuse, in words: parameters, states and numbers that do not go together."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import ops


def parameters() -> dict[str, Tensor]:
    """Arguments that fit: T = 5, B = 2, I = 3, C = 4."""
    return {
        "input": torch.rand(5, 2, 3, 6, 5),
        "h0": torch.rand(2, 4, 6, 5),
        "c0": torch.rand(2, 4, 6, 5),
        "weight_ih": torch.rand(16, 3, 3, 5),
        "weight_hh": torch.rand(16, 4, 3, 5),
        "bias": torch.rand(16),
        "weight_ch": torch.rand(12, 1, 1),
    }


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("weight_ih", (16, 3, 1, 1)),
        ("weight_hh", (12, 4, 3, 5)),
        ("bias", (1,)),
        ("weight_ch", (3, 1, 1)),
        ("weight_ch", (12, 1)),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(name: str, shape: tuple, implementation: str) -> None:
    arguments: dict[str, Any] = {**parameters(), name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=rf"{name} has shape \({shape[0]}.*; it needs \("):
        ops.lstm(**arguments, implementation=implementation)


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("name", ["weight_ih", "bias", "weight_ch"])
def test_parameters_elsewhere_or_of_another_type_are_refused(name: str, implementation: str) -> None:
    arguments: dict[str, Any] = parameters()
    with pytest.raises(ValueError, match=f"{name} is on meta; it needs cpu"):
        ops.lstm(**arguments | {name: arguments[name].to("meta")}, implementation=implementation)
    with pytest.raises(ValueError, match=f"{name} has type torch.int64; it needs torch.float32"):
        ops.lstm(**arguments | {name: arguments[name].long()}, implementation=implementation)


def test_stacks_and_forecasts_check_their_arguments() -> None:
    layer = (torch.rand(12, 2, 3, 3), torch.rand(12, 3, 3, 3), torch.rand(12), None)
    upper = (torch.rand(12, 3, 3, 3), *layer[1:])
    x, none = torch.rand(3, 2, 2, 5, 5), (None, None)
    for states, layers, message in (
        ([none], [layer, upper], "states has 1 pairs; it needs 2"),
        ([none, none], [layer, layer], "layer 1 has 2 input channels .* it needs 3"),
        ([none, none], [layer, tuple(None if t is None else t.double() for t in upper)], "layer 1 has 3"),
        ([(torch.rand(1, 3, 1, 1), None)], [layer], "h has shape"),
        ([], [], "layers is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.stack("lstm", x, states, layers)
    with pytest.raises(ValueError, match="kind is 'foo'; it needs one of lstm, gru, gru_before"):
        ops.stack("foo", x, [none], [layer])
    head = (torch.rand(2, 3, 1, 1), torch.rand(2))
    good: dict[str, Any] = {"given": 3, "steps": 5}
    assert ops.forecast("lstm", x, [layer], head, **good).shape == (5, 2, 2, 5, 5)
    for changed, message in (
        ({"first": 3}, "first, given and steps are 3, 3 and 5"),
        ({"read_given": torch.ones(2, 2, dtype=torch.bool)}, "of 3 inputs"),
        ({"head": (torch.rand(3, 3, 1, 1), torch.rand(3))}, "head has shapes"),
        ({"head": (head[0].double(), head[1])}, "head needs tensors of torch.float32 on cpu"),
    ):
        options: dict[str, Any] = {"head": head, **good, **changed}
        with pytest.raises(ValueError, match=message):
            ops.forecast("lstm", x, [layer], **options)
    true, flags = torch.rand(5, 2, 2, 5, 5), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="read_given has shape"):
        ops.forecast("lstm", true, [layer], head, flags, **good)


def test_an_unknown_nonlinearity_is_refused() -> None:
    with pytest.raises(ValueError, match="nonlinearity is 'sigmoid'; it needs tanh or relu"):
        ops.rnn(
            torch.rand(2, 1, 1, 3, 3), None, torch.rand(2, 1, 1, 1), torch.rand(2, 2, 1, 1), None, "sigmoid"
        )
