"""FullyConnectedForecaster: torch.nn's layers over flattened frames, called as the other forecasters are."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import train
from convlstm import (
    FullyConnectedForecaster,
    FullyConnectedForecasterConfig,
    create_model,
    list_models,
    load_weights,
)
from convlstm.models.forecaster import ForecasterState
from convlstm.training.settings import settings_from_dict, settings_to_dict

CELLS: dict[str, Any] = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
each_cell = pytest.mark.parametrize("cell", CELLS)
B, T, HORIZON, SIZE = 2, 3, 4, (3, 5)


def make(**options: Any) -> FullyConnectedForecaster:
    small: dict[str, Any] = {"frame_size": SIZE, "hidden_size": 6, "channels": 2}
    return FullyConnectedForecaster(**small | options).double()


def frames(count: int) -> Tensor:
    return torch.rand(B, count, 2, *SIZE, dtype=torch.float64)


def forecast_by_hand(
    model: FullyConnectedForecaster, context: Tensor, targets: Tensor, use_target: Tensor
) -> Tensor:
    """All predictions, frame by frame, of torch.nn's cells: of context frames 2..T and of the horizon."""
    L, cells = model.config.num_layers, []
    for n in range(L):
        weights = {
            name.removesuffix(f"_l{n}"): p
            for name, p in model.rnn.named_parameters()
            if name.endswith(f"_l{n}")
        }
        rows, columns = weights["weight_ih"].shape
        with torch.device("meta"):
            cell = CELLS[model.config.cell](columns, model.config.hidden_size)
        assert rows == len(cell.weight_ih)
        cells.append((cell, weights))
    states: list[Any] = [None] * L
    predictions: list[Tensor] = []
    for t in range(T + HORIZON - 1):
        if t < T:
            frame = context[:, t]
        else:
            true = use_target[:, t - T, None, None, None]
            frame = torch.where(true, targets[:, t - T], predictions[-1])
        x = frame.reshape(B, -1)
        for n, (cell, weights) in enumerate(cells):
            states[n] = torch.func.functional_call(cell, weights, (x, states[n]))
            x = states[n][0] if isinstance(states[n], tuple) else states[n]
        predictions.append((x @ model.head.weight.t() + model.head.bias).view_as(frame))
    return torch.stack(predictions, dim=1)


@each_cell
@pytest.mark.parametrize("layers", [1, 3])
def test_values_and_gradients_are_those_of_torchs_cells(cell: str, layers: int) -> None:
    model = make(cell=cell, num_layers=layers)
    context, targets = frames(T), frames(HORIZON)
    true = {"targets": targets, "use_target": torch.tensor([[True, False, True], [False, False, True]])}
    predictions = model(context, HORIZON, return_context=True, **true)
    expected = forecast_by_hand(model, context, **true)
    assert_close(predictions, expected, rtol=0, atol=1e-12)
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(f.square().sum(), parameters) for f in (predictions, expected))
    assert_close(ours, theirs, rtol=0, atol=1e-10)


@each_cell
@pytest.mark.parametrize("steps", [1, T])
def test_encode_and_step_are_forward(cell: str, steps: int) -> None:
    model, context = make(cell=cell), frames(steps)
    predictions = model(context, HORIZON)
    assert predictions.shape == (B, HORIZON, 2, *SIZE)
    state = model.encode(context)
    for t in range(HORIZON):
        frame, state = model.step(None, state)
        assert_close(frame, predictions[:, t], rtol=0, atol=1e-12)
    assert [[s.shape for s in layer or ()] for layer in state.cells] == [
        [(B, 6, 1, 1)] * (2 if cell == "lstm" else 1)
    ] * 2
    bounded = make(cell=cell, output="sigmoid")
    bounded.load_state_dict(model.state_dict())
    assert_close(bounded(context, 1), torch.sigmoid(model(context, 1)))


@each_cell
def test_a_state_from_autocast_goes_on_without(cell: str) -> None:
    model, context = make(cell=cell).float(), frames(T).float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, state = model(context, 1), model.encode(context)
    assert rounded.dtype == torch.float32
    exact = model(context, 1)
    for frame in (rounded[:, 0], model.step(None, state)[0]):
        assert frame.dtype == torch.float32
        assert_close(frame, exact[:, 0], rtol=0, atol=0.02)


@each_cell
def test_its_parameters_are_those_its_docs_count(cell: str) -> None:
    G, N, pixels = {"rnn": 1, "lstm": 4, "gru": 3}[cell], 6, 2 * 3 * 5
    count = G * N * (pixels + N + 2) + 2 * G * N * (2 * N + 2) + (N + 1) * pixels
    assert sum(p.numel() for p in make(cell=cell, num_layers=3).parameters()) == count


def test_it_is_saved_loaded_and_listed(tmp_path: Path) -> None:
    model = make(cell="gru").float()
    model.save_pretrained(tmp_path)
    assert "FullyConnectedForecaster" in (tmp_path / "README.md").read_text()
    loaded = FullyConnectedForecaster.from_pretrained(tmp_path)
    context = frames(T).float()
    assert_close(loaded(context, 2), model(context, 2), rtol=0, atol=0)
    assert "moving_mnist_fully_connected" in list_models()
    small = create_model("moving_mnist_fully_connected", frame_size=SIZE, hidden_size=2)
    assert small(torch.rand(1, 2, 1, *SIZE), 1).shape == (1, 1, 1, *SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_size": 64}, r"frame_size is 64; it needs a height and a width, as \(64, 64\)"),
        ({"frame_size": (64,)}, r"frame_size is \(64,\); it needs a height and a width"),
        ({"frame_size": (64, 0)}, r"frame_size is 0; it needs a whole number of 1 or more"),
        ({"hidden_size": 0}, "hidden_size is 0; it needs"),
        ({"num_layers": 1.5}, "num_layers is 1.5; it needs"),
        ({"channels": 0}, "channels is 0; it needs"),
        ({"cell": "conv"}, "cell is 'conv'; it needs one of"),
        ({"output": "tanh"}, "output is 'tanh'; it needs one of"),
    ],
)
def test_config_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FullyConnectedForecasterConfig(**options)


def test_frames_of_another_size_are_refused() -> None:
    message = (
        "frames of 5 x 3 pixels, but a fully connected network reads those of its frame_size alone: 3 x 5"
    )
    for call in (lambda context: make()(context, 1), make().encode):
        with pytest.raises(ValueError, match=message):
            call(torch.rand(1, 2, 2, 5, 3, dtype=torch.float64))


def test_a_state_of_another_network_is_refused() -> None:
    model, context = make(), frames(T)
    for other in (make(cell="gru"), make(num_layers=3)):
        with pytest.raises(ValueError, match=r"state.cells has \[.*\] tensors; it needs 2 for each of 2 lay"):
            model.step(None, other.encode(context))
    with pytest.raises(ValueError, match=r"state.cells has \[\] tensors; it needs 2 for each of 2 layers"):
        model.step(None, ForecasterState((None,), context[:, 0]))
    with pytest.raises(ValueError, match=r"h has shape \(2, 7, 1, 1\)"):
        model.step(None, make(hidden_size=7).encode(context))


def test_weights_of_other_pixels_are_left_out() -> None:
    done = load_weights(make(frame_size=(5, 3)), make(), strict=False)
    assert done.skipped == dict.fromkeys(
        ("rnn.weight_ih_l0", "head.weight", "head.bias"), "frame_size is (3, 5), the network's is (5, 3)"
    )
    done = load_weights(make(output="sigmoid"), make(), strict=False)
    assert list(done.skipped) == ["head.weight", "head.bias"]


def test_the_training_script_takes_it() -> None:
    config = train.parse(["--preset", "fully-connected", "--model.cell", "gru", "--model.hidden-size", "8"])
    assert config.model == FullyConnectedForecasterConfig(cell="gru", hidden_size=8)
    assert settings_from_dict(train.Config, json.loads(json.dumps(settings_to_dict(config)))) == config
    with pytest.raises(ValueError, match=r"data.image_size is 48, but a fully connected .* alone: 64 x 64"):
        dataclasses.replace(config, data=train.DataConfig(image_size=48))
