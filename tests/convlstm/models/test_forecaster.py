"""Configs to JSON and back, and what the forecasters refuse."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from convlstm import EncoderForecaster, EncoderForecasterConfig, StackedForecaster, StackedForecasterConfig
from convlstm.models.forecaster import (
    ForecasterConfig,
    ForecasterState,
    build,
    config_from_dict,
    config_to_dict,
    network_of,
)

CONFIGS = [StackedForecasterConfig, EncoderForecasterConfig]
each_config = pytest.mark.parametrize("kind", CONFIGS)


def make(kind: Any, **options: Any) -> Any:
    return build(kind(**{"hidden_channels": (3, 2), "kernel_size": 3, **options}))


def test_config_to_dict_names_the_network() -> None:
    for config in (
        StackedForecasterConfig(cell="gru", hidden_channels=(8, 8), residual=True, norm="group", head="last"),
        EncoderForecasterConfig(channels=3, output="sigmoid", hidden_channels=(2, 3), strides=(1, 2)),
    ):
        fields = config_to_dict(config)
        assert fields == {"network": network_of(config).__name__, **dataclasses.asdict(config)}
        again = config_from_dict(json.loads(json.dumps(fields)))
        assert again == config
        assert hash(again) == hash(config)
    minimal = config_from_dict({"network": "EncoderForecaster", "hidden_channels": [2]})
    assert minimal == EncoderForecasterConfig(hidden_channels=(2,))
    assert type(build(minimal)) is EncoderForecaster
    assert type(build(StackedForecasterConfig(hidden_channels=(2,)))) is StackedForecaster


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"network": "Transformer"}, r"network is 'Transformer'; it needs one of .*StackedForecaster"),
        ({}, r"network is None; it needs one of"),
        ({"network": "StackedForecaster", "width": 3, "depth": 2}, r"Stacked.* has no .* depth, width"),
        ({"network": "StackedForecaster", "channels": 0}, r"channels is 0; it needs"),
    ],
)
def test_config_from_dict_refuses(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        config_from_dict(fields)


def test_what_is_of_no_forecaster_is_refused() -> None:
    other: Any = {"network": "StackedForecaster"}
    for config in (ForecasterConfig(), other):
        for use in (build, config_to_dict):
            match = f"config is a {type(config).__name__}; it needs one of .*StackedForecasterConfig"
            with pytest.raises(ValueError, match=match):
                use(config)
    with pytest.raises(ValueError, match="network is 'ConvLSTM'; it needs a forecaster, such as Stacked"):
        config_from_dict({"network": "ConvLSTM", "input_channels": 1})


@each_config
def test_numbers_of_numpy_become_those_of_json(kind: Any) -> None:
    sizes = {"channels": 1, "kernel_size": 3, "patch_size": 2}
    config = kind(hidden_channels=np.array([3, 2]).tolist(), **{n: np.int64(v) for n, v in sizes.items()})
    assert json.loads(json.dumps(config_to_dict(config)))["kernel_size"] == 3
    assert kind(hidden_channels=tuple(np.array([3, 2])), **sizes) == config
    assert json.dumps(config_to_dict(kind(hidden_channels=tuple(np.array([3, 2])))))


@each_config
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cell": "gru", "peephole": "channel"}, r"peephole is 'channel', but a gru .*; set it to None"),
        ({"cell": "rnn", "peephole": "channel"}, r"peephole is 'channel', but a rnn .*; set it to None"),
        ({"cell": "transformer"}, r"cell is 'transformer'; it needs one of \('rnn', 'lstm', 'gru'\)"),
        ({"peephole": "pixel"}, r"peephole is 'pixel'; it needs one of \(None, 'channel'\)"),
        ({"output": "tanh"}, r"output is 'tanh'; it needs one of \('linear', 'sigmoid'\)"),
        ({"channels": 0}, r"channels is 0; it needs a whole number of 1 or more"),
        ({"kernel_size": 0}, r"kernel_size is 0; it needs"),
        ({"patch_size": 2.0}, r"patch_size is 2\.0; it needs"),
        ({"hidden_channels": ()}, r"hidden_channels is empty; it needs one number per layer"),
        ({"hidden_channels": (4, 0)}, r"hidden_channels is 0; it needs"),
        ({"hidden_channels": 64}, r"hidden_channels is 64; it needs one number per layer, as in \(64, 64\)"),
    ],
)
def test_config_refuses(kind: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kind(**options)


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StackedForecasterConfig().channels = 3  # pyright: ignore[reportAttributeAccessIssue]


@each_config
@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((3, 1, 8, 8), r"context has 4 dimensions, shape \(3, 1, 8, 8\); it needs 5: \(B, T, 1, H, W\)"),
        ((2, 3, 3, 8, 8), r"context has 3 channels, .*; the network was built for 1: \(B, T, 1, H, W\)"),
        (
            (2, 0, 1, 8, 8),
            r"context has shape \(2, 0, 1, 8, 8\); it needs one sequence and one",
        ),
        ((0, 3, 1, 8, 8), r"context has shape \(0, 3, 1, 8, 8\); it needs one sequence and one frame"),
        ((2, 3, 1, 0, 8), r"context has shape \(2, 3, 1, 0, 8\); it needs"),
        ((2, 3, 1, 7, 5), r"frames of 7 x 5 pixels, .* 4 x 4 do not divide; .*: 4 x 4 or 8 x 8, or any mult"),
        (
            (2, 3, 1, 64, 62),
            r"frames of 64 x 62 pixels, .* would do: 64 x 60 or 64 x 64, or any",
        ),
        ((2, 3, 1, 2, 3), r"frames of 2 x 3 pixels, .* sizes that would do: 4 x 4, or any multiples of 4"),
    ],
)
def test_context_that_does_not_fit(kind: Any, shape: tuple[int, ...], match: str) -> None:
    model = make(kind)
    for call in (lambda context: model(context, 2), model.encode):
        with pytest.raises(ValueError, match=match):
            call(torch.rand(shape))


@each_config
def test_context_and_horizon_that_do_not_fit(kind: Any) -> None:
    model, context = make(kind), torch.rand(2, 3, 1, 8, 8)
    for horizon in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"horizon is {horizon}; it needs a whole number of 1 or more"):
            model(context, horizon)
    with pytest.raises(ValueError, match=r"context has type torch.uint8; it needs a floating type"):
        model((255 * context).byte(), 2)
    with pytest.raises(ValueError, match=r"context has type torch.float64, the weights have torch.float32"):
        model(context.double(), 2)
    with pytest.raises(ValueError, match=r"context is on meta, the weights are on cpu"):
        model(context.to("meta"), 2)
    for call in (lambda context: model(context, 2), model.encode):
        with pytest.raises(TypeError, match=r"context is a ndarray; it needs a tensor"):
            call(context.numpy())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"targets": (2, 4, 1, 8, 8)}, r"targets and use_target go together: give both or neither"),
        ({"use_target": (2, 3)}, r"targets and use_target go together"),
        ({"targets": (2, 3, 1, 8, 8), "use_target": (2, 3)}, r"targets has .*; it needs \(2, 4, 1, 8, 8\)"),
        ({"targets": (2, 4, 3, 8, 8), "use_target": (2, 3)}, r"targets has .*; it needs \(2, 4, 1, 8, 8\)"),
        ({"targets": (2, 4, 1, 8, 8), "use_target": (2, 4)}, r"use_target has shape \(2, 4\) .* \(2, 3\)"),
        ({"targets": (2, 4, 1, 8, 8), "use_target": (3,)}, r"use_target has shape \(3,\) .* \(2, 3\)"),
    ],
)
def test_targets_that_do_not_fit(options: dict[str, tuple[int, ...]], match: str) -> None:
    tensors = {name: torch.ones(shape) for name, shape in options.items()}
    if "use_target" in tensors:
        tensors["use_target"] = tensors["use_target"].bool()
    with pytest.raises(ValueError, match=match):
        make(StackedForecasterConfig)(torch.rand(2, 3, 1, 8, 8), 4, **tensors)


def test_use_target_must_be_bool() -> None:
    context, targets = torch.rand(2, 3, 1, 8, 8), torch.rand(2, 4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"use_target has .* type torch.float32; it needs .* torch.bool"):
        make(StackedForecasterConfig)(context, 4, targets=targets, use_target=torch.ones(2, 3))


def test_types_and_devices_of_what_is_fed_back() -> None:
    model, context = make(StackedForecasterConfig), torch.rand(2, 3, 1, 8, 8)
    targets, mask = torch.rand(2, 4, 1, 8, 8), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"targets has type torch.float64, the weights have torch.float32"):
        model(context, 4, targets=targets.double(), use_target=mask)
    with pytest.raises(ValueError, match=r"targets is on meta, the weights are on cpu"):
        model(context, 4, targets=targets.to("meta"), use_target=mask)
    with pytest.raises(ValueError, match=r"use_target is on meta, the context is on cpu"):
        model(context, 4, targets=targets, use_target=mask.to("meta"))
    with pytest.raises(TypeError, match=r"targets is a ndarray; it needs a tensor"):
        model(context, 4, targets=targets.numpy(), use_target=mask)
    with pytest.raises(TypeError, match=r"use_target is a ndarray; it needs a tensor"):
        model(context, 4, targets=targets, use_target=mask.numpy())
    with pytest.raises(ValueError, match=r"frame has type torch.float64, the weights have torch.float32"):
        model.step(context[:, 0].double(), model.encode(context))
    with pytest.raises(TypeError, match=r"frame is a ndarray; it needs a tensor"):
        model.step(context[:, 0].numpy(), model.encode(context))
    with torch.autocast("cpu", torch.bfloat16):  # the predictions have the type of the context
        assert model(context.bfloat16(), 4, targets=targets, use_target=mask).dtype == torch.bfloat16


def test_encoder_forecaster_refuses_what_feeds_back() -> None:
    model, context = make(EncoderForecasterConfig), torch.rand(2, 3, 1, 8, 8)
    targets, use_target = torch.rand(2, 4, 1, 8, 8), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"targets given to EncoderForecaster, .*; leave it out"):
        model(context, 4, targets=targets, use_target=use_target)
    with pytest.raises(ValueError, match=r"return_context given to EncoderForecaster, .*; leave it out"):
        model(context, 4, return_context=True)
    with pytest.raises(ValueError, match=r"frame given to EncoderForecaster.step, .*; pass None"):
        model.step(context[:, 0], model.encode(context))


def test_step_refuses_frames_of_another_size_and_states_of_another_network() -> None:
    stacked, other, context = (
        make(StackedForecasterConfig),
        make(EncoderForecasterConfig),
        torch.rand(2, 3, 1, 8, 8),
    )
    state = stacked.encode(context)
    with pytest.raises(ValueError, match=r"frame has shape \(2, 1, 8, 4\); it needs \(2, 1, 8, 8\)"):
        stacked.step(context[:, 0, :, :, :4], state)
    with pytest.raises(ValueError, match=r"state.frame is None: this state is not from this network"):
        stacked.step(None, other.encode(context))
    with pytest.raises(ValueError, match=r"state has no cells, or a frame: it is not from this net"):
        other.step(None, ForecasterState((None, None), None))


@each_config
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden_channels": (3, 2, 2)}, r"state.cells has 3 cells, the network has 2: this state is not"),
        ({"cell": "gru", "peephole": None}, r"state.cells has 1 tensors for a ConvLSTMCell, which needs 2"),
    ],
)
def test_step_refuses_states_of_another_shape(kind: Any, options: dict[str, Any], match: str) -> None:
    state = make(kind, **options).encode(torch.rand(2, 3, 1, 8, 8))
    with pytest.raises(ValueError, match=match):
        make(kind).step(None, state)
