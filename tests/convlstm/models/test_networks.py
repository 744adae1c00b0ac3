"""The networks: sizes, training, feedback, causality, and one step at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import EncoderForecaster, StackedForecaster
from convlstm.models.forecaster import Forecaster
from convlstm.ops.choice import VARIABLE

B, T, HORIZON = 2, 4, 5
NETWORKS: dict[str, Any] = {"stacked": StackedForecaster, "encoder": EncoderForecaster}
CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn", "peephole": None},
    "lstm": {"cell": "lstm", "peephole": None},
    "lstm peephole": {"cell": "lstm", "peephole": "channel"},
    "gru": {"cell": "gru", "peephole": None},
}
each_network = pytest.mark.parametrize("network", NETWORKS)
each_cell = pytest.mark.parametrize("cell", CELLS)


def make(network: str = "stacked", cell: str = "lstm", **options: Any) -> Any:
    """Build a small network in float64."""
    small = {"hidden_channels": (3, 2), "kernel_size": 3, "patch_size": 2, **CELLS[cell], **options}
    return NETWORKS[network](**small).double()


def frames(count: int, *, batch: int = B, channels: int = 1, size: tuple[int, int] = (6, 10)) -> Tensor:
    return torch.rand(batch, count, channels, *size, dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def touched(prediction: Tensor, frames: Tensor) -> list[bool]:
    """Tell for each of the frames (B, T, C, H, W) whether a prediction depends on it."""
    (grad,) = torch.autograd.grad(prediction.square().sum(), frames, retain_graph=True)
    return (grad.abs().amax(dim=(0, 2, 3, 4)) > 0).tolist()


def step_by_step(model: Forecaster, context: Tensor, horizon: int) -> Tensor:
    state, predictions = model.encode(context), []
    for _ in range(horizon):
        frame, state = model.step(None, state)
        predictions.append(frame)
    return torch.stack(predictions, dim=1)


def cells_by_hand(cells: Any, x: Tensor, states: list[Any]) -> list[Tensor]:
    """Run one frame through a stack; renew the states in place and return every cell's h."""
    hidden = []
    for number, cell in enumerate(cells):
        states[number] = cell(x, states[number])
        x = states[number][0] if isinstance(states[number], tuple) else states[number]
        hidden.append(x)
    return hidden


def forecast_by_hand(model: Any, context: Tensor, horizon: int) -> Tensor:
    """Write out a network of 2 x 2 patches, cell by cell and pixel by pixel."""
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]

    def cut(frame: Tensor) -> Tensor:
        return torch.cat([frame[:, :, r::2, s::2] for r, s in corners], dim=1)

    def paste(hidden: list[Tensor]) -> Tensor:
        patches = torch.cat(hidden, dim=1)  # the cell that runs first comes first
        patches = torch.einsum("oi,bihw->bohw", model.head.weight[:, :, 0, 0], patches)
        patches = patches + model.head.bias[:, None, None]
        frame = torch.empty_like(context[:, 0])
        for part, (r, s) in zip(patches.chunk(4, dim=1), corners, strict=True):
            frame[:, :, r::2, s::2] = part
        return frame

    predictions: list[Tensor] = []
    if isinstance(model, StackedForecaster):
        states: list[Any] = [None] * len(model.cells)
        for frame in context[:, :-1].unbind(1):
            cells_by_hand(model.cells, cut(frame), states)
        frame = context[:, -1]
        for _ in range(horizon):
            frame = paste(cells_by_hand(model.cells, cut(frame), states))
            predictions.append(frame)
    else:
        states = [None] * len(model.encoder)
        for frame in context.unbind(1):
            cells_by_hand(model.encoder, cut(frame), states)
        states.reverse()
        for _ in range(horizon):
            no_channels = context[:, 0, :0, ::2, ::2]
            predictions.append(paste(cells_by_hand(model.forecaster, no_channels, states)))
    return torch.stack(predictions, dim=1)


@each_network
@each_cell
def test_networks_are_their_cells_run_by_hand(network: str, cell: str) -> None:
    model, context = make(network, cell, channels=3), frames(T, channels=3)
    if cell == "lstm peephole":
        for name, parameter in model.named_parameters():
            if name.endswith("weight_ch"):
                torch.nn.init.normal_(parameter)
    assert_same(model(context, HORIZON), forecast_by_hand(model, context, HORIZON))


@pytest.mark.parametrize(
    ("hidden", "count"), [((256,), 13_524_496), ((128, 128), 10_042_896), ((128, 64, 64), 7_585_296)]
)
def test_encoder_forecaster_has_the_parameters_of_the_paper(hidden: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        model = EncoderForecaster(hidden_channels=hidden)
        default = EncoderForecaster()
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.numel() for p in default.parameters()) == 7_585_296


def test_stacked_forecaster_has_the_parameters_of_its_parts() -> None:
    widths, count = (4 * 4 * 3, 8, 5), 0
    for i, c in ((widths[0], widths[1]), (widths[1], widths[2])):
        count += 4 * c * ((i + c) * 25 + 1)
    count += (8 + 5) * widths[0] + widths[0]
    model = StackedForecaster(channels=3, hidden_channels=(8, 5))
    assert sum(p.numel() for p in model.parameters()) == count


@each_network
@each_cell
def test_every_network_trains(network: str, cell: str) -> None:
    model = make(network, cell, output="sigmoid" if cell == "gru" else "linear")
    context, targets = frames(T), frames(HORIZON)

    def loss() -> Tensor:
        return (model(context, HORIZON) - targets).square().mean()

    before = loss()
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert 0 < loss() < before


@each_network
@each_cell
@pytest.mark.parametrize(("steps", "channels", "size"), [(1, 1, (6, 10)), (2, 3, (2, 4)), (T, 1, (6, 10))])
def test_encode_and_step_are_forward_for_any_horizon(
    network: str, cell: str, steps: int, channels: int, size: tuple[int, int]
) -> None:
    model = make(network, cell, channels=channels)
    context = frames(steps, channels=channels, size=size)
    predictions = model(context, HORIZON)
    assert predictions.shape == (B, HORIZON, channels, *size)
    assert_same(step_by_step(model, context, HORIZON), predictions)
    for horizon in (1, 3):
        assert_same(model(context, horizon), predictions[:, :horizon])
    bounded = make(network, cell, channels=channels, output="sigmoid")
    bounded.load_state_dict(model.state_dict())
    assert_same(bounded(context, 1), torch.sigmoid(model(context, 1)))
    assert (predictions[:, 1:] - predictions[:, :-1]).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-6


@each_network
def test_predictions_depend_on_all_of_the_context_and_on_one_sequence(network: str) -> None:
    model = make(network)
    context = frames(T, batch=3).requires_grad_()
    predictions = model(context, HORIZON)
    for t in range(HORIZON):
        assert touched(predictions[:, t], context) == [True] * T
    (grad,) = torch.autograd.grad(predictions[1].sum(), context)
    assert grad.abs().amax(dim=(1, 2, 3, 4)).gt(0).tolist() == [False, True, False]
    for n in range(3):
        assert_same(model(context[n : n + 1], HORIZON), predictions[n : n + 1])


@each_network
def test_pixels_of_a_patch_become_channels_row_by_row_and_back(network: str) -> None:
    model = make(network, channels=3, kernel_size=1, output="linear")
    cell = (model.cells if network == "stacked" else model.encoder)[0]
    for row, column, channel in ((0, 0, 0), (1, 0, 2), (0, 1, 1)):
        context = torch.zeros(1, 1, 3, 4, 6, dtype=torch.float64)
        context[0, 0, channel, 2 + row, 4 + column] = 1
        (grad,) = torch.autograd.grad(model(context, 1).sum(), cell.weight_ih)
        number = (row * 2 + column) * 3 + channel
        assert grad.abs().sum(dim=(0, 2, 3)).nonzero().flatten().tolist() == [number]
    # A kernel of one tap keeps what it sees in its place: the patch of the lit pixel alone differs.
    changed = (model(context, 1) - model(torch.zeros_like(context), 1)).abs().sum(dim=(0, 1, 2)) > 0  # (H, W)
    assert changed[2:4, 4:6].all()
    assert changed.sum() == 4
    torch.nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(12))
    predicted = model(context, 1)[0, 0]  # (C, H, W)
    for row, column, channel in ((0, 0, 0), (1, 0, 2), (0, 1, 1), (3, 5, 2)):
        assert predicted[channel, row, column] == (row % 2 * 2 + column % 2) * 3 + channel


@each_cell
def test_use_target_chooses_what_the_network_reads(cell: str) -> None:
    model = make(cell=cell)
    context, targets = frames(T), frames(HORIZON).requires_grad_()
    everywhere = torch.ones(B, HORIZON - 1, dtype=torch.bool)

    forced = model(context, HORIZON, targets=targets, use_target=everywhere)
    for t in range(HORIZON):
        assert touched(forced[:, t], targets) == [s < t for s in range(HORIZON)]
    seen = torch.cat([context, targets[:, :-1]], dim=1)
    assert_same(forced, model(seen, 1, return_context=True)[:, T - 1 :])

    free = model(context, HORIZON, targets=targets, use_target=~everywhere)
    assert_same(free, model(context, HORIZON))
    assert not any(touched(free + 0 * targets.sum(), targets))
    assert not torch.allclose(forced[:, 1:], free[:, 1:])


def test_use_target_may_differ_between_sequences_and_frames() -> None:
    model = make()
    context, targets = frames(T, batch=3), frames(HORIZON, batch=3)
    mask = torch.tensor([[True] * 4, [False] * 4, [False, True, True, False]])
    mixed = model(context, HORIZON, targets=targets, use_target=mask)
    forced = model(context, HORIZON, targets=targets, use_target=torch.ones_like(mask))
    assert_same(mixed[0], forced[0])
    assert_same(mixed[1], model(context, HORIZON)[1])
    state, frame = model.encode(context[2:]), None
    for t in range(HORIZON):
        if t:
            frame = targets[2:, t - 1] if mask[2, t - 1] else None
        prediction, state = model.step(frame, state)
        assert_same(mixed[2:, t], prediction)


@pytest.mark.parametrize("steps", [1, T])
def test_return_context_puts_the_next_frame_predictions_first(steps: int) -> None:
    model = make()
    context = frames(steps).requires_grad_()
    predictions = model(context, HORIZON, return_context=True)
    assert predictions.shape == (B, steps - 1 + HORIZON, 1, 6, 10)
    for t in range(1, steps):
        assert_same(predictions[:, t - 1], model(context[:, :t], 1)[:, 0])
        assert touched(predictions[:, t - 1], context) == [s < t for s in range(steps)]
    assert_same(predictions[:, steps - 1 :], model(context, HORIZON))


def test_step_reads_the_given_frame_in_place_of_its_own() -> None:
    model = make()
    context, other = frames(T), frames(1)[:, 0]
    own, state = model.step(None, model.encode(context))
    assert_same(model.step(own, state)[0], model.step(None, state)[0])
    assert_same(model.step(context[:, -1], model.encode(context))[0], own)
    longer = torch.cat([context, other[:, None]], dim=1)
    given, _ = model.step(other, state)
    assert_same(given, model(longer, 1)[:, 0])
    assert not torch.allclose(given, model.step(None, state)[0])


@each_network
@each_cell
def test_autocast_gives_float32_frames(network: str, cell: str) -> None:
    model = make(network, cell).float()
    context = frames(T).float()
    with torch.autocast("cpu", torch.bfloat16):
        predictions, stepped = model(context, HORIZON), step_by_step(model, context, HORIZON)
        state = model.encode(context)
    assert {predictions.dtype, stepped.dtype} == {torch.float32}
    exact = model(context, HORIZON)
    for rounded in (predictions, stepped):
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)
    assert not torch.equal(predictions, exact)
    torch.testing.assert_close(model.step(None, state)[0], exact[:, 0], rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "cell", ["lstm", *(pytest.param(cell, marks=pytest.mark.slow) for cell in ("rnn", "gru"))]
)
def test_the_training_of_a_stack_is_one_graph_for_the_compiler(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the reference, which GPUs run: the loop over the frames is unrolled, whatever was drawn."""
    monkeypatch.setenv(VARIABLE, "reference")
    model, clips = make(cell=cell), frames(T + HORIZON)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    for use_target in (torch.rand(B, HORIZON - 1) < 0.5, torch.zeros(B, HORIZON - 1, dtype=torch.bool)):
        options: Any = {"targets": clips[:, T:], "use_target": use_target, "return_context": True}
        assert_same(compiled(clips[:, :T], HORIZON, **options), model(clips[:, :T], HORIZON, **options))
