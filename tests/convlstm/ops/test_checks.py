"""Arguments that the ops refuse: parameters and lengths that do not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import SpatiotemporalLSTMCell, ops


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
def test_parameters_that_do_not_go_together_are_refused(name: str, shape: tuple) -> None:
    arguments: dict[str, Any] = {**parameters(), name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=rf"{name} has shape \({shape[0]}.*; it needs \("):
        ops.lstm(**arguments)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("weight_ih", (16, 3, 3, 5)),
        ("weight_hh", (28, 4, 3, 5)),
        ("bias", (16,)),
        ("weight_mm", (16, 4, 3, 5)),
        ("weight_co", (4, 4, 3, 5)),
        ("weight_last", (4, 8, 3, 5)),
    ],
)
def test_parameters_of_a_spatiotemporal_lstm_are_checked(name: str, shape: tuple) -> None:
    cell = SpatiotemporalLSTMCell(3, 4, (3, 5))
    setattr(cell, name, torch.nn.Parameter(torch.zeros(shape)))
    with pytest.raises(ValueError, match=rf"{name} has shape \({shape[0]}.*; it needs \("):
        cell(torch.rand(2, 3, 6, 5))


@pytest.mark.parametrize("name", ["weight_ih", "bias", "weight_ch"])
def test_parameters_elsewhere_or_of_another_type_are_refused(name: str) -> None:
    arguments: dict[str, Any] = parameters()
    for to, needs in (("meta", "is on meta; it needs cpu"), (torch.int64, "has type torch.int64; it needs")):
        with pytest.raises(ValueError, match=f"{name} {needs}"):
            ops.lstm(**arguments | {name: arguments[name].to(to)})


def test_layers_of_a_stack_that_do_not_fit_each_other_are_refused() -> None:
    layer = (torch.rand(12, 2, 3, 3), torch.rand(12, 3, 3, 3), torch.rand(12), None)
    upper = (torch.rand(12, 3, 3, 3), *layer[1:])
    x, states = torch.rand(3, 2, 2, 5, 5), [(None, None)] * 2
    assert ops.stack("lstm", x, states, [layer, upper])[0].shape == (3, 2, 3, 5, 5)
    wide = (upper[0].double(), upper[1].double(), upper[2].double(), None)
    for second, message in ((layer, "layer 1 has 2 input channels .* it needs 3"), (wide, "layer 1 has 3")):
        with pytest.raises(ValueError, match=message):
            ops.stack("lstm", x, states, [layer, second])


@pytest.mark.parametrize("lengths", [[0, 3], [4, 6], [2], [1.0, 2.0], "ab", [True, True]])
def test_lengths_that_do_not_fit_are_refused(lengths: Any) -> None:
    arguments: dict[str, Any] = parameters()
    with pytest.raises(ValueError, match=r"lengths .* 2 whole numbers from 1 to 5"):
        ops.lstm(**arguments, lengths=lengths)
