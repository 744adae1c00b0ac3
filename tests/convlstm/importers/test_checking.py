"""An imported model beside what the original computed: layouts, types, and what is too far off."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convlstm.importers.checking import check
from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.sources import SOURCES


def imported(module: nn.Module, **options: Any) -> Imported:
    return SOURCES["torch"].convert(Foreign(dict(module.state_dict()), options))


@pytest.mark.parametrize(
    ("dims", "dtype", "batch_first"),
    [(1, torch.float32, True), (2, torch.float64, False), (3, torch.float32, False)],
)
def test_vectors_in_their_own_layout(dims: int, dtype: torch.dtype, batch_first: bool) -> None:
    module = nn.LSTM(3, 2, batch_first=batch_first, dtype=dtype)
    x = torch.randn(2, 4, 3, dtype=dtype)
    expected = module(x)[0].detach().numpy()
    model = imported(module, spatial_dims=dims, batch_first=batch_first)
    assert check(model, x.numpy(), expected) < 1e-6
    with pytest.raises(ValueError, match="the model differs from the output by"):
        check(model, x.numpy(), expected + 1e-3)


def test_pixels_of_8_bits_are_scaled_and_byte_orders_are_ours() -> None:
    module = nn.LSTM(3, 2, batch_first=True)
    pixels = torch.randint(0, 256, (2, 4, 3), dtype=torch.uint8)
    expected = module(pixels / 255)[0].detach().numpy()
    assert check(imported(module), pixels.numpy(), expected) < 1e-6
    assert check(imported(module), (pixels / 255).numpy().astype(">f4"), expected) < 1e-6


@pytest.mark.parametrize(
    ("input", "output", "message"),
    [
        (np.zeros((2, 4, 3, 1)), np.zeros((2, 4, 2)), r"input has shape \(2, 4, 3, 1\); .* has axes b t c"),
        (np.zeros((2, 4, 3), np.int64), np.zeros((2, 4, 2)), "input has type int64; it needs floating"),
        (np.zeros((2, 4, 3)), np.zeros((2, 4, 1)), r"the model gives \(2, 4, 2, 1, 1\) of this input"),
        (np.zeros((2, 4, 3)), np.full((2, 4, 2), np.inf), "output has values that are not finite"),
        (np.zeros((2, 4, 3)), np.full((2, 4, 2), np.nan), "output has values that are not finite"),
    ],
)
def test_other_arrays_are_refused(input: np.ndarray, output: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(imported(nn.LSTM(3, 2, batch_first=True)), input, output)
