"""Networks of other shapes: what fits computes the same there, what does not is left alone and said."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvRNN,
    EncoderForecaster,
    Forecaster,
    FullyConnectedForecaster,
    StackedForecaster,
    load_weights,
)
from convlstm.hub.transfer import Transfer
from convlstm.models.imported import ImportedConfig, ImportedNetwork
from convlstm.models.imported.stages import stage_of

SMALL: dict[str, Any] = {"hidden_channels": (5, 3), "kernel_size": 3, "patch_size": 2}
HEAD = ("head.weight", "head.bias")
NORM: dict[str, Any] = {"norm": "group", "hidden_channels": (8, 16)}
DEEPER: dict[str, Any] = {"hidden_channels": (5, 3, 2), "patch_size": 1, "channels": 3}
BOTH = pytest.mark.parametrize("make", ["stacked", "encoder_forecaster"])


def network(make: str = "stacked", **options: Any) -> Forecaster:
    """A small network in float64, all of whose parameters, peepholes too, are drawn at random."""
    if make == "stacked":
        model: Forecaster = StackedForecaster(**SMALL | options)
    else:
        options = {"peephole": None} | options
        model = EncoderForecaster(**SMALL | options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def transfer(model: nn.Module, source: Any, **options: Any) -> Transfer:
    """Load with strict=False, and check what holds of every transfer."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = load_weights(model, source, strict=False, **options)
    assert sorted((*done.loaded, *done.adapted, *done.missing)) == sorted(before)
    for name in done.missing:
        assert_close(model.state_dict()[name], before[name], rtol=0, atol=0)
    return done


def clip(channels: int) -> Tensor:
    """A gray clip (2, 4, C, 8, 8), the same in all of its channels."""
    return torch.rand(2, 4, 1, 8, 8, dtype=torch.float64).expand(-1, -1, channels, -1, -1)


@BOTH
@pytest.mark.parametrize(
    ("cell", "options"), [("rnn", {}), ("lstm", {}), ("gru", {"output": "sigmoid", "patch_size": 1})]
)
def test_gray_weights_forecast_gray_clips_in_color(make: str, cell: str, options: dict) -> None:
    gray, color = network(make, cell=cell, **options), network(make, cell=cell, channels=3, **options)
    done = transfer(color, gray)
    reads = "cells.0.weight_ih" if make == "stacked" else "encoder.0.weight_ih"
    assert done.adapted == {
        reads: "repeated for 3 channels, divided by 3",
        **dict.fromkeys(HEAD, "repeated for 3 channels"),
    }
    context = clip(3)
    expected = gray(context[:, :, :1], 3).expand(-1, -1, 3, -1, -1)
    assert_close(color(context, 3), expected, rtol=0, atol=1e-12)
    back = network(make, cell=cell, **options)
    transfer(back, color)
    assert_close(back.state_dict(), gray.state_dict(), rtol=0, atol=1e-15)


@BOTH
@pytest.mark.parametrize("channels", [1, 4])
def test_color_weights_predict_the_mean_of_their_channels(make: str, channels: int) -> None:
    color, model = network(make, channels=3), network(make, channels=channels)
    transfer(model, color)
    given = clip(4)
    expected = color(given[:, :, :3], 1).mean(2, keepdim=True).expand(-1, -1, channels, -1, -1)
    assert_close(model(given[:, :, :channels], 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "bidirectional"), [(ConvRNN, False), (ConvLSTM, True), (ConvGRU, True)])
def test_layers_take_other_channels_too(kind: type[nn.Module], bidirectional: bool) -> None:
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": True}
    gray, color = (kind(channels, 3, 3, **options).double() for channels in (1, 3))
    done = transfer(color, gray)
    assert len(done.adapted) == (2 if bidirectional else 1)
    context = clip(3)
    assert_close(color(context)[0], gray(context[:, :, :1])[0], rtol=0, atol=1e-12)


def test_one_direction_becomes_the_forward_one_of_two() -> None:
    one, two = ConvLSTM(2, 3, 3, num_layers=2), ConvLSTM(2, 3, 3, num_layers=2, bidirectional=True)
    done = transfer(two, one)
    assert done.loaded == (
        *(f"cells.0.{name}" for name in ("weight_ih", "weight_hh", "bias")),
        *(f"cells.2.{name}" for name in ("weight_hh", "bias")),
    )
    assert done.skipped == {"cells.1.weight_ih": "shape is (12, 3, 3, 3), the network's is (12, 6, 3, 3)"}
    assert_close(two.get_parameter("cells.2.bias"), one.get_parameter("cells.1.bias"))


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        ("stacked", {}, {"hidden_channels": (5, 3, 3), "channels": 3}),
        ("stacked", {}, {"hidden_channels": (5, 3, 4, 2)}),
        *[("stacked", NORM, NORM | {"hidden_channels": (8, 16, 8), "channels": n}) for n in (1, 3)],
        ("encoder_forecaster", {}, {"hidden_channels": (5, 3, 3)}),
        ("encoder_forecaster", {}, {"hidden_channels": (5, 3, 4, 2), "channels": 3}),
        ("encoder_forecaster", {"strides": (1, 2), "patch_size": 1}, {"strides": (1, 2, 2)} | DEEPER),
        ("encoder_forecaster", {"strides": (2, 1), "patch_size": 1}, {"strides": (2, 1, 1)} | DEEPER),
        ("encoder_forecaster", {"strides": (1, 1), "patch_size": 1}, {"strides": (1, 1, 2)} | DEEPER),
    ],
)
def test_new_layers_on_top_change_no_forecast_until_they_learn(make: str, old: dict, new: dict) -> None:
    source, model = network(make, **old), network(make, **new)
    done = transfer(model, source)
    assert not done.skipped
    channels = new.get("channels", 1)
    context = clip(channels)
    expected = source(context[:, :, :1], 3).expand(-1, -1, channels, -1, -1)
    forecast = model(context, 3)
    assert_close(forecast, expected, rtol=0, atol=1e-12)
    forecast.square().sum().backward()
    zeros = [
        name for name in done.adapted if not name.endswith("bias") and (model.get_parameter(name) == 0).any()
    ]
    assert zeros
    for name in zeros:
        weight = model.get_parameter(name)
        assert weight.grad is not None
        assert weight.grad[weight == 0].abs().min() > 0


@BOTH
def test_of_a_deeper_network_the_lower_layers_are_taken(make: str) -> None:
    source, model = network(make, hidden_channels=(5, 3, 3)), network(make)
    done = transfer(model, source)
    assert done.skipped["head.weight"] == "hidden_channels is (5, 3, 3), the network's is (5, 3)"
    context = clip(1)
    states = model.encode(context).cells[:: 1 if make == "stacked" else -1]
    deeper = source.encode(context).cells[:: 1 if make == "stacked" else -1]
    for ours, theirs in zip(states, deeper[:2], strict=True):
        assert_close(ours, theirs)


def test_an_encoder_is_the_cells_of_a_stack() -> None:
    encoder, stack = network("encoder_forecaster"), network()
    done = transfer(stack, encoder)
    assert done.skipped["head.bias"] == "kind is EncoderForecaster, the network's is StackedForecaster"
    assert done.skipped["forecaster.0.weight_hh"] == "nothing in the network has its place"
    context = clip(1)
    read = stack.step(None, stack.encode(context))[1].cells
    for ours, theirs in zip(read, encoder.encode(context).cells[::-1], strict=True):
        assert_close(ours, theirs)
    done = transfer(network("encoder_forecaster"), stack)
    assert {name.split(".")[0] for name in done.loaded} == {"encoder"}
    assert {name.split(".")[0] for name in done.missing} == {"forecaster", "head"}


ABOVE = tuple(f"cells.1.{name}" for name in ("weight_ih", "weight_hh", "bias"))


@pytest.mark.parametrize(
    ("source", "model", "skipped"),
    [
        (
            network(patch_size=1, channels=4),  # whose shapes fit
            network(),
            dict.fromkeys(("cells.0.weight_ih", *HEAD), "patch_size is 1, the network's is 2"),
        ),
        (
            network(output="sigmoid"),
            network(),
            dict.fromkeys(HEAD, "output is sigmoid, the network's is linear"),
        ),
        (
            network(hidden_channels=(5, 4)),
            network(),
            dict.fromkeys(ABOVE, "hidden_channels is 4, the network's is 3")
            | dict.fromkeys(HEAD, "hidden_channels is (5, 4), the network's is (5, 3)"),
        ),
        (
            network(peephole="channel"),
            network(),
            dict.fromkeys(("cells.0.weight_ch", "cells.1.weight_ch"), "nothing in the network has its place"),
        ),
        (
            network(hidden_channels=(3, 3)),
            network(hidden_channels=(3, 3), residual=True),
            {"cells.1.weight_ih": "residual is False, the network's is True"},
        ),
        (network(), network(head="last"), dict.fromkeys(HEAD, "head is all, the network's is last")),
        (
            network(head="last", hidden_channels=(5,)),
            network(head="last"),
            dict.fromkeys(HEAD, "number of layers is 1, the network's is 2"),
        ),
        (
            network("encoder_forecaster", hidden_channels=(3, 3)),
            network("encoder_forecaster", hidden_channels=(3, 3), strides=(1, 2)),
            dict.fromkeys(
                ("encoder.1.weight_ih", "forecaster.1.weight_ih"), "stride is 1, the network's is 2"
            )
            | dict.fromkeys(HEAD, "strides is (1, 1), the network's is (1, 2)"),
        ),
        (
            FullyConnectedForecaster(frame_size=(3, 5), hidden_size=6),
            FullyConnectedForecaster(frame_size=(5, 3), hidden_size=6),
            dict.fromkeys(("rnn.weight_ih_l0", *HEAD), "frame_size is (3, 5), the network's is (5, 3)"),
        ),
    ],
    ids=range(9),
)
def test_what_means_something_else_is_left_out(source: Forecaster, model: Forecaster, skipped: dict) -> None:
    done = transfer(model, source)
    assert done.skipped == skipped
    assert set(skipped) & set(model.state_dict()) <= set(done.missing)


def foreign(**options: Any) -> ImportedNetwork:
    stage = {"stage": "recurrent", "input_channels": 1, "hidden_channels": 2, "kernel_size": (3, 3)}
    return ImportedNetwork(ImportedConfig(channels=1, stages=(stage_of({**stage, **options}),)))


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        (ConvRNN(1, 2, 3, nonlinearity="relu"), ConvRNN(1, 2, 3), "nonlinearity is relu, .* is tanh"),
        (ConvGRU(1, 2, 3, reset_after=False), ConvGRU(1, 2, 3), "reset_after is False, .* is True"),
        (
            foreign(recurrent_activation="hard_sigmoid"),
            foreign(recurrent_activation="hard_sigmoid_keras2"),
            "recurrent_activation is hard_sigmoid, the network's is hard_sigm",
        ),
    ],
)
def test_cells_that_differ_in_a_formula_are_left_out(source: Any, model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_weights(model, source, strict=False)
    load_weights(source, source)
