"""ImportedNetwork: its config to JSON and back, its forecasts, what it refuses."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from convlstm import ConvLSTMCell
from convlstm.models.imported import ImportedConfig, ImportedNetwork
from convlstm.models.imported.cells import ForeignLSTMCell
from convlstm.models.imported.stages import (
    Activation,
    BatchNorm,
    Convolution,
    Patches,
    Pick,
    Recurrent,
    Repeat,
)


def cell(inputs: int, hidden: int, **options: Any) -> Recurrent:
    return Recurrent(input_channels=inputs, hidden_channels=hidden, kernel_size=(3, 3), **options)


def head(inputs: int, outputs: int, **options: Any) -> Convolution:
    return Convolution(input_channels=inputs, output_channels=outputs, kernel_size=(1, 1), **options)


NEXT_FRAME = (
    Patches(size=2),
    cell(4, 3),
    cell(3, 2, activation="relu"),
    head(2, 4),
    Patches(size=2, inverse=True),
)
CONFIGS = {
    "next frame": ImportedConfig(channels=1, stages=NEXT_FRAME),
    "peepholes, norms": ImportedConfig(
        channels=2,
        stages=(
            cell(2, 4, peephole=(6, 8), norm="group", groups=2),
            BatchNorm(channels=4),
            cell(4, 2, norm="layer", frame=(6, 8), bias=False, output="candidate", peephole="channel"),
            Pick(),
        ),
    ),
    "both directions": ImportedConfig(
        channels=1,
        stages=(
            cell(1, 3, merge="concat"),
            Convolution(input_channels=6, output_channels=1, kernel_size=(3, 3, 3), over_time=True),
            Activation(name="leaky_relu", slope=0.1),
        ),
    ),
    "encoder, forecaster": ImportedConfig(
        channels=1,
        stages=(
            Convolution(
                input_channels=1, output_channels=2, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)
            ),
            cell(2, 3),
        ),
        forecaster=(
            cell(2, 3, starts_from=0),
            Convolution(
                input_channels=3,
                output_channels=1,
                kernel_size=(4, 4),
                stride=(2, 2),
                padding=(1, 1),
                transposed=True,
            ),
        ),
    ),
    "own outputs": ImportedConfig(
        channels=1,
        stages=(cell(1, 3), Pick()),
        forecaster=(cell(3, 3),),
        forecaster_reads="own",
        head=(head(3, 1),),
    ),
    "one frame": ImportedConfig(channels=1, stages=(Repeat(times=4), cell(1, 1), Pick(steps=(0, 3)))),
}


def frames(config: ImportedConfig, T: int = 5) -> torch.Tensor:
    return torch.randn(2, 1 if isinstance(config.stages[0], Repeat) else T, config.channels, 6, 8)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_goes_to_json_and_back(name: str) -> None:
    config = CONFIGS[name]
    again = ImportedConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    one, other = ImportedNetwork(config).eval(), ImportedNetwork(again).eval()
    other.load_state_dict(one.state_dict())
    x, horizon = frames(config), 3 if config.forecaster else None
    torch.testing.assert_close(other(x, horizon), one(x, horizon))


@pytest.mark.parametrize("name", ["next frame", "both directions"])
def test_a_forecast_is_that_of_the_whole_sequence_read_anew(name: str) -> None:
    """The first is read frame by frame; the second looks ahead, and so reads all anew."""
    model = ImportedNetwork(CONFIGS[name]).eval()
    whole = frames(model.config)
    for _ in range(3):
        whole = torch.cat([whole, model(whole)[:, -1:]], dim=1)
    torch.testing.assert_close(model(whole[:, :5], 3), whole[:, 5:])


@pytest.mark.parametrize("name", ["next frame", "peepholes, norms", "encoder, forecaster"])
def test_a_run_goes_on_from_states(name: str) -> None:
    model = ImportedNetwork(CONFIGS[name]).eval()
    x = frames(model.config)
    output, states = model.run(x)
    first, between = model.run(x[:, :2])
    second, last = model.run(x[:, 2:], between)
    whole = second if output.dim() == 4 else torch.cat([first, second], dim=1)
    torch.testing.assert_close(whole, output)
    for one, other in zip(states, last, strict=True):
        torch.testing.assert_close(one, other)


def test_the_foreign_cell_with_our_choices_is_our_cell() -> None:
    stage = cell(2, 3, peephole="channel")
    theirs, ours = ForeignLSTMCell(stage), ConvLSTMCell(2, 3, 3, peephole="channel")
    ours.weight_ch = torch.nn.Parameter(torch.randn(9, 1, 1))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 2, 5, 7)
    for found, expected in zip(theirs.sequence(x, None, None), ours.sequence(x, None, None), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_reach_all_parameters() -> None:
    for config in CONFIGS.values():
        model = ImportedNetwork(config)
        model(frames(config), 3 if config.forecaster else None).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            reads_zeros = config.forecaster_reads == "zeros" and name == "forecaster.0.cells.0.weight_ih"
            assert bool(parameter.grad.any()) != reads_zeros, name


RECURRENT = {"stage": "recurrent", "input_channels": 1, "hidden_channels": 1, "kernel_size": [3, 3]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"spatial_dims": 1}, "stage 0 .* reads frames of 2 axes"),
        ({"spatial_dims": 4}, "spatial_dims is 4; it needs .* 1 to 3"),
        ({"stages": ()}, "stages is empty"),
        ({"forecaster_reads": "all"}, "forecaster_reads is 'all'; it"),
        ({"channels": 2}, "stage 0 of stages reads 1 channels; its input has 2"),
        ({"stages": (cell(1, 2), BatchNorm(channels=3))}, "reads 3 channels; its input has 2"),
        ({"stages": ({"stage": "pool"},)}, "needs an object with 'stage'"),
        ({"stages": ({"stage": "patches"},)}, "a stage 'patches' does not fit: .*'size'"),
        ({"stages": ({"stage": "patches", "size": 2, "x": 1},)}, "a stage 'patches' does not fit: .*'x'"),
        ({"head": (head(1, 1),)}, "head is given without"),
        ({"forecaster": (head(1, 1),)}, "its first stage needs to be recurrent"),
        ({"stages": (RECURRENT | {"stride": [2]},)}, r"stride is \(2,\); it needs 2 numbers"),
        ({"stages": (RECURRENT | {"groups": 3},)}, "groups is 3; it needs to divide the 4"),
        ({"stages": (RECURRENT | {"norm": "layer", "frame": [-1, 4]},)}, "frame is -1"),
    ],
)
def test_configs_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImportedConfig(**{"channels": 1, "stages": (cell(1, 1),)} | fields)


def test_calls_that_do_not_fit_are_refused() -> None:
    forecaster, stack = ImportedNetwork(CONFIGS["encoder, forecaster"]), ImportedNetwork(CONFIGS["one frame"])
    patches = ImportedNetwork(ImportedConfig(channels=1, stages=(Patches(size=2), cell(4, 1))))
    down, up = CONFIGS["encoder, forecaster"].stages[0], CONFIGS["encoder, forecaster"].forecaster[1]
    back = (cell(2, 3, starts_from=1), up, cell(1, 1, starts_from=0))
    levels = ImportedNetwork(
        ImportedConfig(channels=1, stages=(cell(1, 1), down, cell(2, 3)), forecaster=back)
    )
    with pytest.raises(ValueError, match="horizon is None; this network needs a number"):
        forecaster(torch.zeros(1, 2, 1, 6, 8))
    with pytest.raises(ValueError, match=r"context has shape \(1, 2, 3, 6, 8\); it needs \(B, T, 1, H, W\)"):
        forecaster(torch.zeros(1, 2, 3, 6, 8), 2)
    with pytest.raises(ValueError, match="context has 2 frames; this network repeats one"):
        stack(torch.zeros(1, 2, 1, 6, 8))
    with pytest.raises(ValueError, match=r"frames are \(5, 8\) at a stage that cuts them into patches"):
        patches(torch.zeros(1, 2, 1, 5, 8))
    with pytest.raises(ValueError, match=r"frames are \(6, 8\) at a cell whose states are \(5, 8\)"):
        levels(torch.zeros(1, 2, 1, 5, 8), 2)
    with pytest.raises(ValueError, match="cannot read its own output"):
        ImportedNetwork(ImportedConfig(channels=1, stages=(cell(1, 2),)))(torch.zeros(1, 2, 1, 6, 8), 2)
    with pytest.raises(ValueError, match=r"frames of \(5, 8\) at a cell whose peepholes are for \(6, 8\)"):
        ImportedNetwork(CONFIGS["peepholes, norms"])(torch.zeros(1, 2, 2, 5, 8))
