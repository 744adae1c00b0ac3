"""Keras's ConvLSTM1D, 2D and 3D, on its torch backend, as the oracle for kernels, padding and gates."""

from typing import Any

import keras
import pytest
import torch
from einops import rearrange
from torch import Tensor

from convlstm import ConvLSTM

T, B, C_IN, C = 4, 2, 3, 2
FRAMES = {1: (7,), 2: (7, 5), 3: (2, 3, 5)}
KERAS = {1: keras.layers.ConvLSTM1D, 2: keras.layers.ConvLSTM2D, 3: keras.layers.ConvLSTM3D}
TO_OURS = "... i o -> o i ..."  # a Keras kernel is (*K, I, 4C), its columns i, f, g, o


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def channels_last(frames: Tensor, channel_axis: int) -> Tensor:
    """Make a leaf of a copy that has its channels in the last axis."""
    return frames.detach().movedim(channel_axis, -1).clone().requires_grad_()


def assert_equal(actual: Tensor | None, expected: Tensor | None) -> None:
    assert actual is not None
    assert expected is not None
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def make_keras(depth: int, spatial: int, kernel: Any, **options: Any) -> list[Any]:
    """Make Keras layers with random biases, which by default are zero."""
    keras.utils.set_random_seed(0)
    random = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    if options.get("use_bias", True):
        options["bias_initializer"] = random
    return [
        KERAS[spatial](
            C, kernel, padding="same", return_sequences=True, return_state=True, dtype="float64", **options
        )
        for _ in range(depth)
    ]


def convert(keras_layers: list[Any], spatial: int, kernel: Any, bias: bool) -> ConvLSTM:
    """Make our layer with the weights of built Keras layers."""
    layer = ConvLSTM(
        C_IN, C, kernel, len(keras_layers), bias, batch_first=True, spatial_dims=spatial, dtype=torch.float64
    )
    with torch.no_grad():
        for cell, theirs in zip(layer.cells, keras_layers, strict=True):
            for name, weight in zip(("weight_ih", "weight_hh"), theirs.weights, strict=False):
                cell.get_parameter(name).copy_(rearrange(weight.value, TO_OURS))
            if bias:
                cell.get_parameter("bias").copy_(theirs.weights[2].value)
    return layer


def compare(depth: int, spatial: int, kernel: Any, given: bool, **options: Any) -> None:
    """Run both on the same frames; compare outputs, last states and every gradient."""
    bias = options.get("use_bias", True)
    keras_layers = make_keras(depth, spatial, kernel, **options)
    frame = FRAMES[spatial]
    x = leaf(B, T, C_IN, *frame)
    x_keras = channels_last(x, 2)
    hx = (leaf(depth, B, C, *frame), leaf(depth, B, C, *frame)) if given else None
    hx_keras = [channels_last(s, 2) for s in hx] if hx else None

    output_keras, last = x_keras, []
    for number, theirs in enumerate(keras_layers):
        initial = [s[number] for s in hx_keras] if hx_keras else None
        output_keras, *states = theirs(output_keras, initial_state=initial)
        last.append(states)
    expected = [output_keras, *(torch.stack(s) for s in zip(*last, strict=True))]

    layer = convert(keras_layers, spatial, kernel, bias)
    output, (h_n, c_n) = layer(x, hx)
    actual = [output, h_n, c_n]
    for ours, theirs in zip(actual, expected, strict=True):
        assert_equal(ours.movedim(2, -1), theirs)

    cotangents = [torch.randn_like(t) for t in actual]
    torch.autograd.backward(actual, cotangents)
    torch.autograd.backward(expected, [t.movedim(2, -1) for t in cotangents])
    for ours, theirs in zip([x, *(hx or ())], [x_keras, *(hx_keras or ())], strict=True):
        assert ours.grad is not None
        assert_equal(ours.grad.movedim(2, -1), theirs.grad)
    for cell, theirs in zip(layer.cells, keras_layers, strict=True):
        grads = [weight.value.grad for weight in theirs.weights]
        assert len(grads) == 2 + bias == len(list(cell.parameters()))
        assert_equal(cell.get_parameter("weight_ih").grad, rearrange(grads[0], TO_OURS))
        assert_equal(cell.get_parameter("weight_hh").grad, rearrange(grads[1], TO_OURS))
        if bias:
            assert_equal(cell.get_parameter("bias").grad, grads[2])


@pytest.mark.parametrize("kernel", [1, 3, 2, 4, (3, 5), (5, 2), (8, 6)])
def test_kernels(kernel: int | tuple[int, int]) -> None:
    compare(1, 2, kernel, given=False)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("use_bias", "unit_forget_bias"), [(False, False), (True, False), (True, True)])
def test_biases_and_states(given: bool, use_bias: bool, unit_forget_bias: bool) -> None:
    compare(2, 2, (3, 2), given, use_bias=use_bias, unit_forget_bias=unit_forget_bias)


@pytest.mark.parametrize(("spatial", "kernel"), [(1, 3), (1, 4), (3, 2), (3, (1, 2, 3))])
@pytest.mark.parametrize("given", [False, True])
def test_spatial_dims(spatial: int, kernel: int | tuple[int, ...], given: bool) -> None:
    compare(2, spatial, kernel, given)


def test_forget_bias_adds_the_unit_forget_bias_of_keras() -> None:
    theirs = keras.layers.ConvLSTM2D(C, 3, dtype="float64")
    theirs.build((B, T, *FRAMES[2], C_IN))
    torch.manual_seed(0)
    with_default = ConvLSTM(C_IN, C, 3, dtype=torch.float64).cells[0].get_parameter("bias")
    torch.manual_seed(0)
    without = ConvLSTM(C_IN, C, 3, forget_bias=0.0, dtype=torch.float64).cells[0].get_parameter("bias")
    assert_equal(with_default - without, theirs.weights[2].value)
