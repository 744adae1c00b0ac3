"""Configs to JSON and back, and what the forecasters refuse."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from convlstm import (
    EncoderForecaster,
    EncoderForecasterConfig,
    FullyConnectedForecaster,
    FullyConnectedForecasterConfig,
    StackedForecaster,
    StackedForecasterConfig,
)
from convlstm.models.forecaster import (
    ForecasterConfig,
    ForecasterState,
    build,
    config_from_dict,
    network_of,
)

CONVOLUTIONAL: list[Any] = [StackedForecasterConfig, EncoderForecasterConfig]
SMALL: dict[str, Any] = {"hidden_channels": (3, 2), "kernel_size": 3}
NETWORKS: dict[str, Any] = {
    "stacked": lambda **options: StackedForecaster(**SMALL | options),
    "encoder": lambda **options: EncoderForecaster(**SMALL | {"peephole": None} | options),
    "connected": lambda **options: FullyConnectedForecaster(
        **{"frame_size": (8, 8), "hidden_size": 6} | options
    ),
}
each_network = pytest.mark.parametrize("network", NETWORKS)


def test_a_description_becomes_the_config_again() -> None:
    for config in (
        StackedForecasterConfig(cell="gru", hidden_channels=(8, 8), residual=True, norm="group", head="last"),
        EncoderForecasterConfig(channels=3, output="sigmoid", hidden_channels=(2, 3), strides=(1, 2)),
        FullyConnectedForecasterConfig(cell="gru", frame_size=(4, 6)),
    ):
        fields = build(config).description()
        assert fields["network"] == network_of(config).__name__
        again = config_from_dict(json.loads(json.dumps(fields)))
        assert again == config
        assert hash(again) == hash(config)
        assert build(again).config == config
    minimal = config_from_dict({"network": "EncoderForecaster", "hidden_channels": [2]})
    assert minimal == EncoderForecasterConfig(hidden_channels=(2,))


def test_config_from_dict_refuses() -> None:
    with pytest.raises(ValueError, match="network is 'ConvLSTM'; it needs a forecaster, such as StackedFor"):
        config_from_dict({"network": "ConvLSTM", "input_channels": 1})
    with pytest.raises(
        ValueError, match=r"StackedForecaster has no config field depth, width; it has channels"
    ):
        config_from_dict({"network": "StackedForecaster", "width": 3, "depth": 2})


def test_the_config_of_no_forecaster_is_refused() -> None:
    for use in (build, network_of):
        with pytest.raises(ValueError, match=r"config is a ForecasterConfig; it needs one of .*Stacked"):
            use(ForecasterConfig())


def test_numbers_of_numpy_become_those_of_json() -> None:
    sizes: Any = {"channels": np.int64(1), "patch_size": np.int64(2), "hidden_channels": np.array([3, 2])}
    for kind in CONVOLUTIONAL:
        config = kind(**sizes | {"hidden_channels": tuple(sizes["hidden_channels"])})
        assert build(config).description()["hidden_channels"] == [3, 2]


@pytest.mark.parametrize(
    ("kinds", "options", "match"),
    [
        (CONVOLUTIONAL, {"cell": "gru", "peephole": "channel"}, r"peephole is 'channel', but a gru .* None"),
        (CONVOLUTIONAL, {"cell": "transformer"}, r"cell is 'transformer'; it needs one of \('rnn', 'lstm', "),
        (CONVOLUTIONAL, {"peephole": "pixel"}, r"peephole is 'pixel'; it needs one of \(None, 'channel'\)"),
        (CONVOLUTIONAL, {"output": "tanh"}, r"output is 'tanh'; it needs one of \('linear', 'sigmoid'\)"),
        (CONVOLUTIONAL, {"channels": 0}, r"channels is 0; it needs a whole number of 1 or more"),
        (CONVOLUTIONAL, {"kernel_size": 0}, r"kernel_size is 0; it needs"),
        (CONVOLUTIONAL, {"patch_size": 2.0}, r"patch_size is 2\.0; it needs"),
        (CONVOLUTIONAL, {"hidden_channels": ()}, r"hidden_channels is empty; it needs one number per layer"),
        (CONVOLUTIONAL, {"hidden_channels": (4, 0)}, r"hidden_channels is 0; it needs"),
        (CONVOLUTIONAL, {"hidden_channels": 64}, r"hidden_channels is 64; it needs .*, as in \(64, 64\)"),
        ([StackedForecasterConfig], {"residual": True, "hidden_channels": (16, 8)}, r"to be summed, all"),
        ([StackedForecasterConfig], {"residual": 1}, "residual is 1; it needs true or false"),
        ([StackedForecasterConfig], {"norm": "group", "hidden_channels": (16, 12)}, "groups of 8 channels"),
        ([StackedForecasterConfig], {"norm": "batch"}, r"norm is 'batch'; it needs one of \(None, 'group'\)"),
        ([StackedForecasterConfig], {"head": "first"}, "head is 'first'; it needs one of"),
        (
            [EncoderForecasterConfig],
            {"strides": (1, 2)},
            r"strides is \(1, 2\); it needs 3 numbers, as hid",
        ),
        ([EncoderForecasterConfig], {"strides": 2}, r"strides is 2; it needs one number per layer, as in"),
        ([EncoderForecasterConfig], {"strides": (1, 2.0, 1)}, "strides is 2.0; it needs a whole number of 1"),
        ([FullyConnectedForecasterConfig], {"frame_size": 64}, "frame_size is 64; it needs a height and a w"),
        ([FullyConnectedForecasterConfig], {"frame_size": (64, 0)}, "frame_size is 0; it needs a whole numb"),
        ([FullyConnectedForecasterConfig], {"hidden_size": 0}, "hidden_size is 0; it needs"),
        ([FullyConnectedForecasterConfig], {"num_layers": 1.5}, "num_layers is 1.5; it needs"),
    ],
)
def test_config_refuses(kinds: list[Any], options: dict[str, Any], match: str) -> None:
    for kind in kinds:
        with pytest.raises(ValueError, match=match):
            kind(**options)


@each_network
@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((3, 1, 8, 8), r"context has shape \(3, 1, 8, 8\); it needs \(B, T, C, H, W\)"),
        ((2, 3, 3, 8, 8), r"context has shape .*the network was built for: 1"),
        ((2, 0, 1, 8, 8), r"context has shape \(2, 0, 1, 8, 8\); it needs .* none of them 0"),
        ((0, 3, 1, 8, 8), r"context has shape \(0, 3, 1, 8, 8\); it needs .* none of them 0"),
        ((2, 3, 1, 0, 8), r"context has shape \(2, 3, 1, 0, 8\); it needs"),
    ],
)
def test_context_that_does_not_fit(network: str, shape: tuple[int, ...], match: str) -> None:
    model = NETWORKS[network]()
    for call in (lambda context: model(context, 2), model.encode):
        with pytest.raises(ValueError, match=match):
            call(torch.rand(shape))


@pytest.mark.parametrize(
    ("network", "options", "size", "match"),
    [
        (
            "stacked",
            {},
            (7, 5),
            "7 x 5 pixels, which patches of 4 x 4 do not divide; it needs multiples of 4",
        ),
        ("encoder", {}, (64, 62), "64 x 62 pixels, .*; it needs multiples of 4"),
        ("stacked", {}, (2, 3), "2 x 3 pixels, .*; it needs multiples of 4"),
        (
            "encoder",
            {"patch_size": 2, "strides": (1, 2)},
            (10, 16),
            r"10 x 16 pixels, .* 2 x 2 and strides of \(1, 2\) do not divide; it needs multiples of 4",
        ),
        ("connected", {}, (8, 6), "8 x 6 pixels, but a fully connected network reads .* alone: 8 x 8"),
    ],
)
def test_frames_of_a_size_that_does_not_fit(
    network: str, options: dict[str, Any], size: tuple[int, int], match: str
) -> None:
    model = NETWORKS[network](**options)
    for call in (lambda context: model(context, 2), model.encode):
        with pytest.raises(ValueError, match=f"context has frames of {match}"):
            call(torch.rand(2, 3, 1, *size))


@each_network
def test_calls_that_do_not_fit(network: str) -> None:
    model, context = NETWORKS[network](), torch.rand(2, 3, 1, 8, 8)
    for horizon in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"horizon is {horizon}; it needs a whole number of 1 or more"):
            model(context, horizon)
    with pytest.raises(ValueError, match=r"context has type torch.uint8; it needs a floating type"):
        model((255 * context).byte(), 2)
    with pytest.raises(ValueError, match=r"context has type torch.float64, the weights have torch.float32"):
        model(context.double(), 2)
    with pytest.raises(ValueError, match=r"context is on meta, the weights are on cpu"):
        model(context.to("meta"), 2)
    with pytest.raises(TypeError, match=r"context is a ndarray; it needs a tensor"):
        model(context.numpy(), 2)


TARGETS, MASK = torch.rand(2, 4, 1, 8, 8), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("targets", "use_target", "match"),
    [
        (TARGETS, None, "targets and use_target go together: give both or neither"),
        (None, MASK, "targets and use_target go together"),
        (TARGETS[:, :3], MASK, r"targets has .*; it needs \(2, 4, 1, 8, 8\)"),
        (TARGETS.double(), MASK, "targets has type torch.float64, the weights have torch.float32"),
        (TARGETS.to("meta"), MASK, "targets is on meta, the weights are on cpu"),
        (TARGETS, MASK[:, :2], r"use_target has shape \(2, 2\) .* \(2, 3\)"),
        (TARGETS, MASK.float(), "use_target has .* type torch.float32; it needs .* torch.bool"),
    ],
)
def test_targets_that_do_not_fit(targets: Any, use_target: Any, match: str) -> None:
    context = torch.rand(2, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=match):
        NETWORKS["stacked"]()(context, 4, targets=targets, use_target=use_target)


def test_encoder_forecaster_refuses_what_feeds_back() -> None:
    model, context = NETWORKS["encoder"](), torch.rand(2, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"targets given to EncoderForecaster, .*; leave it out"):
        model(context, 4, targets=TARGETS, use_target=MASK)
    with pytest.raises(ValueError, match=r"return_context given to EncoderForecaster, .*; leave it out"):
        model(context, 4, return_context=True)
    with pytest.raises(ValueError, match=r"frame given to EncoderForecaster.step, .*; pass None"):
        model.step(context[:, 0], model.encode(context))


def test_step_refuses_frames_and_states_that_do_not_fit() -> None:
    context = torch.rand(2, 3, 1, 8, 8)
    stacked, encoder, connected = (make() for make in NETWORKS.values())
    state = stacked.encode(context)
    with pytest.raises(ValueError, match=r"frame has shape \(2, 1, 8, 4\); it needs \(2, 1, 8, 8\)"):
        stacked.step(context[:, 0, :, :, :4], state)
    with pytest.raises(ValueError, match=r"frame has type torch.float64, the weights have torch.float32"):
        stacked.step(context[:, 0].double(), state)
    with pytest.raises(ValueError, match=r"state.frame is None: this state is not from this network"):
        stacked.step(None, encoder.encode(context))
    with pytest.raises(ValueError, match=r"state has no cells, or a frame: it is not from this net"):
        encoder.step(None, ForecasterState((None, None), None))
    for make in (NETWORKS["stacked"], NETWORKS["encoder"]):
        for options in ({"hidden_channels": (3, 2, 2)}, {"cell": "gru"}):
            with pytest.raises(ValueError, match=r"h0 has shape|zip|unpack"):
                make().step(None, make(**options).encode(context))
    for options in ({"cell": "gru"}, {"num_layers": 3}, {"hidden_size": 7}):
        other = NETWORKS["connected"](**options).encode(context)
        with pytest.raises(RuntimeError, match=r"hidden|3-D"):
            connected.step(None, other)
