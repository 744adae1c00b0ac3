"""What layers share: arguments, input and states that do not fit are refused by name."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from convlstm import ConvGRU, ConvLSTM, ConvRNN

T, B, C_IN, C = 6, 2, 3, 2
each_kind = pytest.mark.parametrize("kind", [ConvRNN, ConvLSTM, ConvGRU])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_layers": 0}, r"num_layers is 0; it needs a whole number of 1 or more"),
        ({"num_layers": np.float64(2)}, r"num_layers is .*2\.0.*; it needs a whole number"),
        ({"num_layers": 2, "dropout": 1.5}, r"dropout is 1\.5; it needs a finite number, at least 0, at"),
    ],
)
@each_kind
def test_arguments_that_do_not_fit(kind: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kind(C_IN, C, 3, **options)


@each_kind
def test_a_layer_has_one_width(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"hidden_channels is \[16, 32\]; it needs one number.*Stacked"):
        kind(C_IN, [16, 32], 3, num_layers=2)


@each_kind
def test_whole_numbers_may_be_those_of_numpy(kind: Any) -> None:
    sizes = (np.int64(C_IN), np.int32(C), np.int8(3), np.uint8(2))
    layer = kind(*sizes, spatial_dims=np.int64(2))
    assert repr(layer) == repr(kind(C_IN, C, 3, 2))
    assert layer(torch.rand(T, B, C_IN, 7, 5))[0].shape == (T, B, C, 7, 5)


def test_input_that_is_no_tensor() -> None:
    layer = ConvLSTM(C_IN, C, 3)
    with pytest.raises(TypeError, match=r"input is a ndarray; it needs a tensor, as torch.as_tensor makes"):
        layer(np.zeros((T, B, C_IN, 7, 5), np.float32))
    with pytest.raises(TypeError, match=r"input is a PackedSequence; it needs a padded tensor, .*pad_packed"):
        layer(pack_sequence([torch.rand(T, C_IN, 7, 5)]))


@each_kind
def test_shapes_are_said_in_the_order_of_the_user(kind: Any) -> None:
    layer = kind(C_IN, C, 3, batch_first=True)
    with pytest.raises(ValueError, match=r"shape \(2, 6, 1, 7, 5\); it needs 3: \(B, T, 3, H, W\)"):
        layer(torch.rand(B, T, 1, 7, 5))
    with pytest.raises(ValueError, match=r"shape \(6, 1, 7, 5\); it needs 3: \(T, 3, H, W\)"):
        layer(torch.rand(T, 1, 7, 5))
    for shape, batch in (((T, C_IN, 7, 5), (1,)), ((B, T, C_IN, 7, 5), ())):  # states with and without one
        state = torch.rand(1, *batch, C, 7, 5)
        needs = (1, C, 7, 5) if batch else (1, B, C, 7, 5)
        match = re.escape(f"h_0 has shape {tuple(state.shape)}; it needs {needs}")
        with pytest.raises(ValueError, match=match):
            layer(torch.rand(shape), (state, state) if kind is ConvLSTM else state)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x[0, 0], r"input has 3 dimensions, shape \(3, 7, 5\); it needs 5 .*, 4 \(T, I"),
        (lambda x: x[None], r"input has 6 dimensions, .*; it needs 5 \(T, B, I, \.\.\.\)"),
        (lambda x: x[:, :, :2], r"input has 2 channels, .*; it needs 3: \(T, B, 3, H, W\)"),
        (lambda x: x[:0], r"input has shape \(0, .*; it needs .* with at least one frame"),
        (lambda x: x[:, :0], r"input has shape \(6, 0, .* one sequence"),
        (lambda x: x[..., :0], r"input has shape .*, 0\); it needs .* one pixel"),
        (lambda x: (x * 255).byte(), r"input has type torch.uint8; it needs a floating type"),
        (lambda x: x.double(), r"input has type torch.float64, the weights have torch.float32; convert"),
        (lambda x: x.half(), r"input has type torch.float16, the weights have torch.float32; .*autocast"),
        (lambda x: x.to("meta"), r"input is on meta, the weights are on cpu; move one"),
    ],
)
def test_input_that_does_not_fit(change: Any, match: str) -> None:
    layer = ConvLSTM(C_IN, C, 3)
    for autocast in (False, "float64" in match):  # which does not convert it
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(ValueError, match=match):
            layer(change(torch.rand(T, B, C_IN, 7, 5)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h[:1], r"_0 has shape \(1, 2, 2, 7, 5\); it needs \(2, 2, 2, 7, 5\)"),
        (lambda h: h.mT, r"_0 has shape \(2, 2, 2, 5, 7\); it needs \(2, 2, 2, 7, 5\)"),
        (lambda h: h.int(), r"_0 has type torch.int32; it needs a floating type"),
        (lambda h: h.to("meta"), r"_0 is on meta, the input is on cpu; move it with \.to\(cpu\)"),
    ],
)
def test_states_that_do_not_fit(change: Any, match: str) -> None:
    x, h = torch.randn(T, B, C_IN, 7, 5), torch.randn(2, B, C, 7, 5)
    with pytest.raises(ValueError, match=f"^h{match}"):
        ConvGRU(C_IN, C, 3, num_layers=2)(x, change(h))
    with pytest.raises(ValueError, match=f"^c{match}"):
        ConvLSTM(C_IN, C, 3, num_layers=2)(x, (h, change(h)))


def test_states_of_the_wrong_kind() -> None:
    x, h = torch.randn(T, B, C_IN, 7, 5), torch.randn(1, B, C, 7, 5)
    for kind in (ConvRNN, ConvGRU):
        with pytest.raises(ValueError, match=r"hx is a tuple; .* one tensor h"):
            kind(C_IN, C, 3)(x, (h, h))
    for name, hx in {"Tensor": h, "tuple of 1": (h,), "tuple of 2": (h, None)}.items():
        with pytest.raises(ValueError, match=rf"hx is a {name}; .* 2 tensors \(h, c\)"):
            ConvLSTM(C_IN, C, 3)(x, hx)


def test_per_pixel_peepholes_fit_one_frame_size() -> None:
    layer = ConvLSTM(C_IN, C, 3, num_layers=2, peephole=(7, 5))
    assert layer(torch.randn(T, B, C_IN, 7, 5))[0].shape == (T, B, C, 7, 5)
    with pytest.raises(ValueError, match=r"input has frames of 5 x 7, .* were made for 7 x 5"):
        layer(torch.randn(T, B, C_IN, 5, 7))
