"""The later form of EncoderForecaster: strided convolutions between its cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from convlstm import (
    EncoderForecaster,
    EncoderForecasterConfig,
    export,
    load_weights,
    rollout,
    stream,
)
from convlstm.models.encoder_forecaster import convolution_down, convolution_up
from convlstm.ops.choice import VARIABLE

SMALL: dict[str, Any] = {"hidden_channels": (3, 4), "kernel_size": 3, "patch_size": 1, "strides": (1, 2)}
CELLS = ("rnn", "lstm", "gru")
HORIZON = 3
needs_free_sizes = pytest.mark.skipif(
    torch.__version__ < "2.12", reason="torch 2.11 keeps the frame size that it traced"
)


def make(**options: Any) -> EncoderForecaster:
    options = {"peephole": None} | options
    model = EncoderForecaster(**SMALL | options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def clip(*, channels: int = 1, size: tuple[int, int] = (8, 12), steps: int = 3) -> Tensor:
    return torch.rand(2, steps, channels, *size, dtype=torch.float64)


def cell_by_hand(p: Mapping[str, Tensor], name: str, kind: str, x: Tensor | None, state: Any) -> Any:
    """One step of a cell, written out: the state (h, c) of an LSTM, (h,) of the others."""
    h = state[0]
    padding = p[f"{name}.weight_hh"].shape[-1] // 2
    read = F.conv2d(h, p[f"{name}.weight_hh"], padding=padding)
    bias = p[f"{name}.bias"][:, None, None]
    given = bias if x is None else F.conv2d(x, p[f"{name}.weight_ih"], padding=padding) + bias
    if kind == "rnn":
        return (torch.tanh(given + read),)
    if kind == "gru":
        given = given.expand_as(read) if x is None else given
        (r, z, n), (hr, hz, hn) = given.chunk(3, 1), read.chunk(3, 1)
        r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
        n = torch.tanh(n + r * (hn + p[f"{name}.bias_hn"][:, None, None]))
        return ((1 - z) * n + z * h,)
    c = state[1]
    i, f, g, o = (given + read).chunk(4, 1)
    wi, wf, wo = p[f"{name}.weight_ch"].chunk(3) if f"{name}.weight_ch" in p else (0, 0, 0)
    i, f = torch.sigmoid(i + wi * c), torch.sigmoid(f + wf * c)
    c = f * c + i * torch.tanh(g)
    return torch.sigmoid(o + wo * c) * torch.tanh(c), c


def forecast_by_hand(model: EncoderForecaster, context: Tensor, horizon: int) -> Tensor:
    """The network frame by frame, of its parameters and torch's functions alone."""
    config, p = model.config, dict(model.named_parameters())
    L, strides, size = len(config.hidden_channels), config.strides, config.patch_size

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

    corners = [(row, column) for row in range(size) for column in range(size)]
    states: list[Any] = []
    for frame in context.unbind(1):
        x = torch.cat([frame[:, :, r::size, c::size] for r, c in corners], dim=1)
        for n, channels in enumerate(config.hidden_channels):
            x = down(x, n)
            if len(states) == n:
                states.append((x.new_zeros(len(x), channels, *x.shape[2:]),) * 2)
            states[n] = cell_by_hand(p, f"encoder.{n}", config.cell, x, states[n])
            x = states[n][0]
    predictions = []
    for _ in range(horizon):
        x, outputs = None, []
        for n in reversed(range(L)):
            states[n] = cell_by_hand(p, f"forecaster.{L - 1 - n}", config.cell, x, states[n])
            outputs.append(states[n][0])
            x = up(outputs[-1], n) if n else None
        finest = [h for h in outputs if h.shape[2:] == outputs[-1].shape[2:]]
        pixels = F.conv2d(up(torch.cat(finest, dim=1), 0), p["head.weight"], p["head.bias"])
        frame = torch.empty_like(context[:, 0])
        for part, (r, c) in zip(pixels.chunk(len(corners), dim=1), corners, strict=True):
            frame[:, :, r::size, c::size] = part
        predictions.append(frame)
    return torch.stack(predictions, dim=1)


@pytest.mark.parametrize(
    "options",
    [
        *({"cell": cell} for cell in CELLS),
        {"peephole": "channel", "channels": 3, "patch_size": 2},
        {"strides": (2, 1), "channels": 3},
        {"strides": (2, 2), "cell": "gru"},
        {"strides": (1, 3), "peephole": "channel"},
        {"strides": (1, 1, 2), "hidden_channels": (2, 3, 4)},
        {"strides": (2, 1, 2), "hidden_channels": (3, 3, 2)},
        {"strides": (1, 4)},
    ],
    ids=str,
)
def test_values_and_gradients_are_those_worked_out_by_hand(options: dict[str, Any]) -> None:
    model = make(**options)
    unit = model.config.unit
    context = clip(channels=model.config.channels, size=(2 * unit, 3 * unit)).requires_grad_()
    weights = torch.randn(2, HORIZON, *context.shape[2:], dtype=torch.float64)
    results = []
    for frames in (model(context, HORIZON), forecast_by_hand(model, context, HORIZON)):
        results.append(
            (frames, *torch.autograd.grad((frames * weights).sum(), [*model.parameters(), context]))
        )
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, rtol=0, atol=1e-11)
        assert expected.any()


@pytest.mark.parametrize("cell", CELLS[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_ops_agree_with_the_reference(
    monkeypatch: pytest.MonkeyPatch, cell: str, dtype: torch.dtype
) -> None:
    model, context = make(cell=cell, strides=(2, 2)).float(), clip().float()
    results = []
    for name in ("fused", "reference"):
        monkeypatch.setenv(VARIABLE, name)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            frames = model(context, HORIZON)
        results.append((frames, *torch.autograd.grad(frames.square().sum(), list(model.parameters()))))
    scale = 1e-5 if dtype == torch.float32 else 0.05
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, rtol=0, atol=scale * max(1.0, expected.abs().max().item()))


def test_frames_come_one_by_one_and_in_the_type_of_the_context() -> None:
    model, context = make(channels=3, strides=(2, 2), patch_size=2).float(), clip(channels=3, size=(16, 8))
    whole = rollout(model, context.float(), 5)
    assert_close(torch.stack(list(stream(model, context.float(), 5)), dim=1), whole, rtol=0, atol=1e-6)
    state = model.encode(context.float())
    assert [[s.shape[1:] for s in cell or ()] for cell in state.cells] == [[(4, 2, 1)] * 2, [(3, 4, 2)] * 2]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = rollout(model, context.bfloat16(), 5)
    assert rounded.dtype == torch.bfloat16
    assert_close(rounded.float(), whole, rtol=0, atol=0.1 * whole.abs().max().item())


@pytest.mark.slow
def test_it_is_one_graph_for_the_compiler() -> None:
    model, context = make().float(), clip().float()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(context, 2), model(context, 2))


@pytest.mark.slow
@needs_free_sizes
def test_it_forecasts_in_onnxruntime_at_any_size_that_divides(tmp_path: Path) -> None:
    model = make(cell="rnn", hidden_channels=(2, 3)).float()
    exported = export(model, tmp_path / "model.onnx", context=2, horizon=1, size=(8, 12))
    assert exported.free == ("batch", "rows", "columns")
    context = clip(size=(4, 10), steps=2).float()
    run = onnxruntime.InferenceSession(tmp_path / "model.onnx").run
    (frames,) = run(None, {"context": context.numpy()})
    assert_close(torch.as_tensor(frames), rollout(model, context, 1), rtol=0, atol=1e-5)


def test_ones_are_the_form_without_convolutions() -> None:
    ways: tuple[Any, ...] = ((), [1, 1])
    plain, ones = (EncoderForecasterConfig(**{**SMALL, "strides": strides}) for strides in ways)
    assert plain == ones
    names = EncoderForecaster(plain).state_dict().keys()
    assert {name.partition(".")[0] for name in names} == {"encoder", "forecaster", "head"}


def test_the_parameters_of_the_scale_that_is_trained() -> None:
    config = EncoderForecasterConfig(
        hidden_channels=(32, 64, 96), kernel_size=3, patch_size=1, strides=(2, 2, 2), peephole=None
    )
    with torch.device("meta"):
        model = EncoderForecaster(config)
    assert sum(p.numel() for p in model.parameters()) == 1_955_969


@pytest.mark.parametrize("stride", [2, 3, 4, 5])
def test_convolutions_change_the_size_by_the_stride_and_every_pixel_counts_alike(stride: int) -> None:
    frames = torch.ones(1, 1, 6, 7)
    down, up = convolution_down(1, 1, stride), convolution_up(1, 1, stride)
    for module in (down, up):
        for parameter in module.parameters():
            torch.nn.init.ones_(parameter)
    enlarged = up(frames)
    assert enlarged.shape == (1, 1, 6 * stride, 7 * stride)
    inside = enlarged[..., stride:-stride, stride:-stride]
    assert_close(inside, torch.full_like(inside, 5.0))  # two taps per axis, and the bias
    read = enlarged.detach().requires_grad_()
    assert down(read).shape == (1, 1, 6, 7)
    (gradient,) = torch.autograd.grad(down(read).sum(), read)
    assert gradient.min() >= 1


@pytest.mark.parametrize("make", [convolution_down, convolution_up])
@pytest.mark.parametrize("stride", [2, 3])
def test_what_passes_keeps_its_mean_square_at_first(make: Any, stride: int) -> None:
    passed = make(32, 64, stride)(torch.randn(4, 32, 12 * stride, 12 * stride))[..., 1:-1, 1:-1]
    assert 0.85 < passed.square().mean() < 1.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (1, 2, 2)}, r"strides is \(1, 2, 2\); it needs 2 numbers, as hidden_channels has"),
        ({"strides": 2}, r"strides is 2; it needs one number per layer, as in \(1, 2\)"),
        ({"strides": (1, 0)}, "strides is 0; it needs a whole number of 1 or more"),
        ({"strides": (1, 2.0)}, "strides is 2.0; it needs a whole number of 1 or more"),
    ],
)
def test_strides_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderForecasterConfig(**SMALL | options)


def test_frames_that_do_not_divide() -> None:
    model = make(patch_size=2, strides=(1, 2))
    message = (
        r"context has frames of 10 x 16 pixels, which patches of 2 x 2 and strides of \(1, 2\) do not divide"
        "; sizes that would do: 8 x 16 or 12 x 16, or any multiples of 4"
    )
    with pytest.raises(ValueError, match=message):
        model(clip(size=(10, 16)), 1)


@pytest.mark.parametrize(("few", "more"), [((1, 2), (1, 2, 2)), ((2, 1), (2, 1, 1)), ((1, 1), (1, 1, 2))])
def test_new_layers_on_top_change_no_forecast_until_they_learn(few: tuple, more: tuple) -> None:
    source, model = make(strides=few), make(strides=more, hidden_channels=(3, 4, 2), channels=3)
    assert not load_weights(model, source, strict=False).skipped
    context = clip(size=(8, 16))
    expected = source(context, 3).expand(-1, -1, 3, -1, -1)
    assert_close(model(context.expand(-1, -1, 3, -1, -1), 3), expected, rtol=0, atol=1e-12)


def test_weights_that_read_another_grid_are_left_out() -> None:
    options: dict[str, Any] = {"hidden_channels": (3, 3)}
    done = load_weights(make(**options), make(**options, strides=(1, 1)), strict=False)
    stride = "stride is 1, the network's is 2"
    assert done.skipped == {
        "encoder.1.weight_ih": stride,
        "forecaster.1.weight_ih": stride,
        "head.weight": "strides is (1, 1), the network's is (1, 2)",
        "head.bias": "strides is (1, 1), the network's is (1, 2)",
    }
    assert {name.partition(".")[0] for name in done.missing} == {
        "encoder",
        "forecaster",
        "head",
        "down",
        "up",
    }
