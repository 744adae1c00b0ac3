"""All forms of the forecasters: against loops written out by hand, step by step, in short types, compiled."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from convlstm import EncoderForecaster, FullyConnectedForecaster, StackedForecaster, ops

B, T, HORIZON = 2, 3, 4
WIDE = (16, 16, 16)
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "stacked rnn": (StackedForecaster, {"cell": "rnn"}),
    "stacked lstm": (StackedForecaster, {"channels": 3}),
    "stacked lstm, peephole": (StackedForecaster, {"peephole": "channel", "kernel_size": 2}),
    "stacked gru": (StackedForecaster, {"cell": "gru", "output": "sigmoid"}),
    "stacked, residual": (StackedForecaster, {"residual": True, "hidden_channels": WIDE, "cell": "rnn"}),
    "stacked, norm": (StackedForecaster, {"norm": "group", "hidden_channels": WIDE}),
    "stacked, residual, norm": (
        StackedForecaster,
        {"residual": True, "norm": "group", "hidden_channels": WIDE, "cell": "gru"},
    ),
    "stacked, last": (StackedForecaster, {"head": "last", "output": "sigmoid"}),
    "stacked gru, last": (StackedForecaster, {"head": "last", "cell": "gru", "hidden_channels": WIDE}),
    "encoder rnn": (EncoderForecaster, {"cell": "rnn", "peephole": None, "output": "sigmoid"}),
    "encoder lstm": (EncoderForecaster, {"channels": 3}),
    "encoder gru": (EncoderForecaster, {"cell": "gru", "peephole": None, "hidden_channels": (3, 2, 4)}),
    "strided rnn": (EncoderForecaster, {"strides": (2, 1), "cell": "rnn", "peephole": None}),
    "strided lstm": (EncoderForecaster, {"strides": (1, 2), "channels": 3, "output": "sigmoid"}),
    "strided gru": (EncoderForecaster, {"strides": (2, 2), "cell": "gru", "peephole": None}),
    "strided by 3": (EncoderForecaster, {"strides": (1, 3), "patch_size": 1}),
    "strided by 4": (EncoderForecaster, {"strides": (1, 4), "patch_size": 1, "peephole": None}),
    "strided above": (EncoderForecaster, {"strides": (1, 1, 2), "hidden_channels": (2, 3, 4)}),
    "strided twice": (EncoderForecaster, {"strides": (2, 1, 2), "hidden_channels": (3, 3, 2)}),
    "fully connected rnn": (FullyConnectedForecaster, {"cell": "rnn", "num_layers": 1, "channels": 2}),
    "fully connected lstm": (FullyConnectedForecaster, {"num_layers": 3, "output": "sigmoid"}),
    "fully connected gru": (FullyConnectedForecaster, {"cell": "gru"}),
}
each_form = pytest.mark.parametrize("form", FORMS)


def make(form: str, **options: Any) -> Any:
    """Build a small network in float64, all of whose parameters are drawn."""
    kind, own = FORMS[form]
    convolutional = {"hidden_channels": (3, 2), "kernel_size": 3, "patch_size": 2}
    small = {"frame_size": (4, 6), "hidden_size": 6} if kind is FullyConnectedForecaster else convolutional
    model = kind(**{**small, **own, **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def frames(model: Any, count: int, batch: int = B) -> Tensor:
    config = model.config
    size = getattr(config, "frame_size", None) or [n * config._unit()[0] for n in (2, 3)]
    return torch.rand(batch, count, config.channels, *size, dtype=torch.float64)


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    assert_close(actual, expected, rtol=0, atol=tolerance)


def hidden(state: Any) -> Tensor:
    return state[0] if isinstance(state, tuple) else state


def cut(frame: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, size * size * C, H / size, W / size): the pixels of a patch, row by row."""
    return torch.cat([frame[:, :, r::size, s::size] for r, s in product(range(size), repeat=2)], dim=1)


def paste(patches: Tensor, size: int) -> Tensor:
    B, channels, h, w = patches.shape
    frame = patches.new_empty(B, channels // size**2, h * size, w * size)
    for part, (r, s) in zip(patches.chunk(size**2, dim=1), product(range(size), repeat=2), strict=True):
        frame[:, :, r::size, s::size] = part
    return frame


def norm_by_hand(x: Tensor, norm: Any) -> Tensor:
    groups = x.unflatten(1, (2, 8)).flatten(2)  # two groups of 8 channels, all their pixels
    variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    x = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(x)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def stacked_by_hand(model: Any, frame: Tensor, states: list[Any]) -> Tensor:
    """Predict the frame after a frame; renew the states in place."""
    config, x, outputs = model.config, cut(frame, model.config.patch_size), []
    for n, cell in enumerate(model.cells):
        if n:
            x = sum(outputs, torch.zeros(())) if config.residual else outputs[-1]
            x = norm_by_hand(x, model.norms[n - 1]) if config.norm else x
        states[n] = cell(x, states[n])
        outputs.append(hidden(states[n]))
    read = outputs[-1] if config.head == "last" else torch.cat(outputs, dim=1)
    return paste(F.conv2d(read, model.head.weight, model.head.bias), config.patch_size)


def fully_connected_by_hand(model: Any, frame: Tensor, states: list[Any]) -> Tensor:
    """As `stacked_by_hand`, of torch.nn's cells."""
    config, x = model.config, frame.flatten(1)
    kind = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}[config.cell]
    for n in range(config.num_layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = {name: model.rnn.get_parameter(f"{name}_l{n}") for name in names}
        cell = kind(x.shape[1], config.hidden_size)
        states[n] = torch.func.functional_call(cell, weights, (x, states[n]))
        x = hidden(states[n])
    return (x @ model.head.weight.t() + model.head.bias).view_as(frame)


def fed_back_by_hand(model: Any, context: Tensor, targets: Tensor, use_target: Tensor) -> Tensor:
    """All predictions, frame by frame: of context frames 2..T and of the horizon."""
    connected = isinstance(model, FullyConnectedForecaster)
    layers = model.config.num_layers if connected else len(model.cells)
    states, predictions = [None] * layers, []
    for t in range(T + HORIZON - 1):
        if t < T:
            frame = context[:, t]
        else:
            true = use_target[:, t - T, None, None, None]
            frame = torch.where(true, targets[:, t - T], predictions[-1])
        predicted = (fully_connected_by_hand if connected else stacked_by_hand)(model, frame, states)
        predictions.append(predicted.sigmoid() if model.config.output == "sigmoid" else predicted)
    return torch.stack(predictions, dim=1)


def encoder_by_hand(model: Any, context: Tensor) -> Tensor:
    config, p = model.config, dict(model.named_parameters())
    L, size = len(config.hidden_channels), config.patch_size
    strides = config.strides or (1,) * L

    def down(x: Tensor, n: int) -> Tensor:
        if (s := strides[n]) == 1:
            return x
        x = F.conv2d(x, p[f"down.{n}.0.weight"], p[f"down.{n}.0.bias"], stride=s, padding=s - 1)
        return torch.where(x > 0, x, 0.2 * x)

    def up(x: Tensor, n: int) -> Tensor:
        if (s := strides[n]) == 1:
            return x
        x = F.conv_transpose2d(x, p[f"up.{n}.0.weight"], p[f"up.{n}.0.bias"], stride=s)
        before, after = (s + 1) // 2, s // 2  # of what hangs over the frame
        x = x[:, :, before : x.shape[2] - after, before : x.shape[3] - after]
        return torch.where(x > 0, x, 0.2 * x)

    states: list[Any] = [None] * L
    for frame in context.unbind(1):
        x = cut(frame, size)
        for n in range(L):
            states[n] = model.encoder[n](down(x, n), states[n])
            x = hidden(states[n])
    predictions = []
    for _ in range(HORIZON):
        x, outputs = hidden(states[-1])[:, :0], []  # the first cell reads nothing but the size
        for n in reversed(range(L)):
            states[n] = model.forecaster[L - 1 - n](x, states[n])
            outputs.append(hidden(states[n]))
            x = up(outputs[-1], n) if n else outputs[-1]
        finest = [h for h in outputs if h.shape[2:] == outputs[-1].shape[2:]]
        patches = F.conv2d(up(torch.cat(finest, dim=1), 0), p["head.weight"], p["head.bias"])
        predictions.append(paste(patches.sigmoid() if config.output == "sigmoid" else patches, size))
    return torch.stack(predictions, dim=1)


@each_form
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_values_and_gradients_are_those_of_a_loop_by_hand(form: str, implementation: str) -> None:
    model = make(form)
    context, targets = frames(model, T).requires_grad_(), frames(model, HORIZON)
    true = {"targets": targets, "use_target": torch.tensor([[True, False, True], [False, False, True]])}
    with ops.use_implementation(implementation):
        if model.feedback:
            found = model(context, HORIZON, return_context=True, **true)
            expected = fed_back_by_hand(model, context, **true)
        else:
            found, expected = model(context, HORIZON), encoder_by_hand(model, context)
    assert_same(found, expected, 1e-10)
    weights, leaves = torch.randn_like(found), [context, *model.parameters()]
    ours, theirs = (torch.autograd.grad((f * weights).sum(), leaves) for f in (found, expected))
    assert_same(ours, theirs, 1e-8)
    assert all(gradient.any() for gradient in theirs)


@each_form
@pytest.mark.parametrize("steps", [1, T])
def test_encode_and_step_are_forward_for_any_horizon(form: str, steps: int) -> None:
    model = make(form, output="linear")
    context = frames(model, steps)
    predictions = model(context, HORIZON)
    assert predictions.shape == (B, HORIZON, *context.shape[2:])
    first = state = model.encode(context)
    for t in range(HORIZON):
        frame, state = model.step(None, state)
        assert_same(frame, predictions[:, t])
        assert_same(model(context, t + 1), predictions[:, : t + 1])
    assert_same(model(context[1:], HORIZON), predictions[1:])
    bounded = make(form, output="sigmoid")
    bounded.load_state_dict(model.state_dict())
    assert_same(bounded(context, 1), torch.sigmoid(model(context, 1)))
    if model.feedback:
        assert_same(model.step(context[:, -1], first)[0], predictions[:, 0])
        other = frames(model, 1)
        given, _ = model.step(other[:, 0], model.step(None, first)[1])
        assert_same(given, model(torch.cat([context, other], dim=1), 1)[:, 0])
        assert_same(model(context, HORIZON, return_context=True)[:, steps - 1 :], predictions)
        targets, unread = frames(model, HORIZON), torch.zeros(B, HORIZON - 1, dtype=torch.bool)
        assert_same(model(context, HORIZON, targets=targets, use_target=unread), predictions)


@each_form
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_autocast_gives_frames_in_the_type_of_the_context(form: str, implementation: str) -> None:
    model = make(form).float()
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    context = frames(model, T).float()
    with ops.use_implementation(implementation):
        exact = model(context, HORIZON)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, state = model(context, HORIZON), model.encode(context)
            short = model(context.bfloat16(), HORIZON)
            stepped, _ = model.step(None, state)
        assert (rounded.dtype, stepped.dtype, short.dtype) == (torch.float32, torch.float32, torch.bfloat16)
        assert not torch.equal(rounded, exact)
        assert_same(rounded, exact, 0.05)
        assert_same(short.float(), exact, 0.05)
        for frame in (stepped, model.step(None, state)[0]):  # a state from autocast goes on without
            assert_same(frame, exact[:, 0], 0.05)


def connected_count(gates: int) -> int:
    N, pixels = 6, 2 * 3 * 5
    return gates * N * (pixels + N + 2) + 2 * gates * N * (2 * N + 2) + (N + 1) * pixels


CONNECTED = {"frame_size": (3, 5), "channels": 2, "hidden_size": 6, "num_layers": 3}
SCALE = {"hidden_channels": (32, 64, 96), "kernel_size": 3, "patch_size": 1, "strides": (2, 2, 2)}


@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [
        (EncoderForecaster, {}, 7_585_296),  # the paper's
        (EncoderForecaster, {"hidden_channels": (256,)}, 13_524_496),
        (EncoderForecaster, {"hidden_channels": (128, 128)}, 10_042_896),
        (EncoderForecaster, {**SCALE, "peephole": None}, 1_955_969),
        (
            StackedForecaster,
            {"channels": 3, "hidden_channels": (8, 5)},
            4 * 8 * ((48 + 8) * 25 + 1) + 4 * 5 * ((8 + 5) * 25 + 1) + (8 + 5 + 1) * 48,
        ),
        (FullyConnectedForecaster, {**CONNECTED, "cell": "rnn"}, connected_count(1)),
        (FullyConnectedForecaster, {**CONNECTED, "cell": "gru"}, connected_count(3)),
        (FullyConnectedForecaster, CONNECTED, connected_count(4)),
    ],
)
def test_networks_have_the_parameters_that_their_docs_count(kind: Any, options: dict, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in kind(**options).parameters()) == count


@pytest.mark.parametrize(
    "form",
    ["stacked lstm", *(pytest.param(f, marks=pytest.mark.slow) for f in ("stacked rnn", "strided gru"))],
)
def test_training_is_one_graph_for_the_compiler(form: str) -> None:
    """In the reference, which GPUs run: the loop over the frames is unrolled, whatever was drawn."""
    model = make(form)
    context, targets = frames(model, 2), frames(model, 2)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    with ops.use_implementation("reference"):
        for drawn in (True, False):
            options: dict[str, Any] = {"targets": targets, "use_target": torch.tensor([[drawn], [False]])}
            options = {**options, "return_context": True} if model.feedback else {}
            assert_same(compiled(context, 2, **options), model(context, 2, **options))
