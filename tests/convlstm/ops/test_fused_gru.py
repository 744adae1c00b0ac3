"""The fused GRU against the reference: values, last states and all gradients."""

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm import ops
from convlstm.ops import fused, reference

C, B = 5, 2
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def make(
    T: int,
    I: int,
    S: tuple[int, ...],
    K: tuple[int, ...],
    *,
    bias: bool = True,
    h0: bool = True,
    reset_after: bool = True,
    seed: int = 0,
) -> dict[str, Tensor | None]:
    """Random arguments in float64, in the order of the ops."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    scale = 1 / math.sqrt(C * math.prod(K))
    return {
        "input": normal(T, B, I, *S),
        "h0": normal(B, C, *S) if h0 else None,
        "weight_ih": normal(3 * C, I, *K, scale=scale) if I else None,
        "weight_hh": normal(3 * C, C, *K, scale=scale),
        "bias": normal(3 * C) if bias else None,
        "bias_hn": normal(C) if bias and reset_after else None,
    }


def run(
    implementation: str,
    tensors: dict[str, Tensor | None],
    dtype: torch.dtype,
    reset_after: bool,
    *,
    lengths: Tensor | None = None,
    recompute: bool = False,
    frozen: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Outputs, last state and gradients, from the same cotangents for all implementations."""
    leaves = {
        name: tensor.to(dtype).requires_grad_(name not in frozen)
        for name, tensor in tensors.items()
        if tensor is not None
    }
    everything: dict[str, Any] = {name: leaves.get(name) for name in tensors}
    if implementation == "fused":
        out, h_n = ops.gru(
            **everything,
            reset_after=reset_after,
            lengths=lengths,
            recompute=recompute,
            implementation="fused",
        )
    else:
        h, x = everything.pop("h0"), everything["input"]
        if h is None:
            h = x.new_zeros(B, C, *x.shape[3:])
        out, h_n = reference.gru(**everything, h=h, reset_after=reset_after, lengths=lengths)
    if lengths is not None:  # the outputs past the lengths are nobody's
        past = torch.arange(len(out))[:, None] >= lengths
        out = out.masked_fill(past.reshape(*past.shape, *(1 for _ in out.shape[2:])), 0)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (out, h_n)]
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    gradients = torch.autograd.grad(
        [out, h_n], wanted, [w.to(dtype) for w in weights], materialize_grads=True, allow_unused=True
    )
    names = [f"d_{name}" for name, leaf in leaves.items() if leaf.requires_grad]
    return {"out": out.detach(), "h_n": h_n.detach(), **dict(zip(names, gradients, strict=True))}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        largest = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(
            actual[name],
            value,
            rtol=0,
            atol=tolerance * max(largest, 1),
            msg=lambda m, name=name: f"{name}: {m}",
        )


FRAMES = [((6, 5), (3, 3)), ((3, 4, 5), (3, 1, 3))]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("S", "K"), FRAMES)
@pytest.mark.parametrize("I", [0, 3])
@pytest.mark.parametrize("h0", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reset_after", [False, True])
def test_values_and_gradients(
    reset_after: bool,
    bias: bool,
    h0: bool,
    I: int,
    S: tuple[int, ...],
    K: tuple[int, ...],
    dtype: torch.dtype,
    recompute: bool,
) -> None:
    for T in (1, 6):
        tensors = make(T, I, S, K, bias=bias, h0=h0, reset_after=reset_after)
        expected = run("reference", tensors, dtype, reset_after)
        assert_same(run("fused", tensors, dtype, reset_after, recompute=recompute), expected, dtype)


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_odd_sizes(dtype: torch.dtype, reset_after: bool, recompute: bool) -> None:
    sizes = [(7, 2, (7, 5), (2, 4)), (3, 1, (1, 1), (3, 3)), (5, 2, (9,), (3,)), (2, 1, (5,), (2,))]
    for T, I, S, K in sizes:
        tensors = make(T, I, S, K, reset_after=reset_after)
        for name, tensor in tensors.items():  # what is given need not be contiguous
            if tensor is not None:
                tensors[name] = tensor.transpose(0, -1).contiguous().transpose(0, -1)
        expected = run("reference", tensors, dtype, reset_after)
        actual = run("fused", tensors, dtype, reset_after, recompute=recompute)
        assert_same(actual, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_lengths(dtype: torch.dtype, reset_after: bool, recompute: bool) -> None:
    tensors = make(6, 3, (6, 5), (3, 3), reset_after=reset_after)
    options: dict[str, Any] = {"lengths": torch.tensor([2, 6])}
    expected = run("reference", tensors, dtype, reset_after, **options)
    actual = run("fused", tensors, dtype, reset_after, recompute=recompute, **options)
    assert_same(actual, expected, dtype)


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("h0", [False, True])
def test_an_input_that_needs_no_gradient(reset_after: bool, h0: bool) -> None:
    tensors = make(5, 3, (6, 5), (3, 3), reset_after=reset_after, h0=h0)
    expected = run("reference", tensors, torch.float64, reset_after, frozen=("input",))
    assert_same(run("fused", tensors, torch.float64, reset_after, frozen=("input",)), expected, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reset_after", [False, True])
def test_without_gradients_the_values_are_the_same(dtype: torch.dtype, reset_after: bool) -> None:
    for h0, I in [(False, 0), (True, 3), (False, 3)]:
        tensors = make(5, I, (6, 5), (3, 3), reset_after=reset_after, h0=h0)
        expected = run("fused", tensors, dtype, reset_after)
        cast: dict[str, Any] = {name: None if t is None else t.to(dtype) for name, t in tensors.items()}
        out, h_n = ops.gru(
            **cast, reset_after=reset_after, lengths=None, recompute=False, implementation="fused"
        )
        # z is rounded where it is kept, and read from there.
        tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
        torch.testing.assert_close(out, expected["out"], rtol=0, atol=tolerance)
        torch.testing.assert_close(h_n, expected["h_n"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_bfloat16_errs_no_more_than_the_reference_does(reset_after: bool, recompute: bool) -> None:
    ours: dict[str, float] = defaultdict(float)  # sums of mean squares
    theirs: dict[str, float] = defaultdict(float)
    for seed in range(8):  # bias_hn has few numbers, whose errors differ by chance
        tensors = make(8, 3, (7, 6), (3, 3), reset_after=reset_after, seed=seed)
        # The same numbers for all: those that bfloat16 has.
        tensors = {name: t if t is None else t.bfloat16().double() for name, t in tensors.items()}
        exact = run("reference", tensors, torch.float32, reset_after)
        short = run("reference", tensors, torch.bfloat16, reset_after)
        actual = run("fused", tensors, torch.bfloat16, reset_after, recompute=recompute)
        for name, value in exact.items():
            ours[name] += (actual[name].float() - value).square().mean().item()
            theirs[name] += (short[name].float() - value).square().mean().item()
    for name in theirs:
        assert ours[name] <= theirs[name], name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reset_after", [False, True])
def test_nan_in_gives_nan_out(dtype: torch.dtype, reset_after: bool) -> None:
    tensors = make(3, 2, (4, 5), (1, 1), reset_after=reset_after)
    given = tensors["input"]
    assert given is not None
    given[1, 0, 0, 2, 3] = math.nan
    results = run("fused", tensors, dtype, reset_after)
    found = results["out"].isnan()
    expected = torch.zeros_like(found)
    expected[1:, 0, :, 2, 3] = True
    assert found[expected].all()
    if dtype == torch.bfloat16:  # the convolutions of an odd number of channels reach one pixel further
        expected[1:, 0, :, 2, 2] = True
    assert not found[~expected].any()
    assert results["d_weight_hh"].isnan().any()


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradcheck(reset_after: bool, recompute: bool) -> None:
    tensors = make(3, 1, (3, 2), (3, 1), reset_after=reset_after)
    leaves: dict[str, Tensor] = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}

    def function(*given: Tensor) -> tuple[Tensor, Tensor]:
        everything: dict[str, Any] = {**tensors, **dict(zip(leaves, given, strict=True))}
        return ops.gru(
            **everything, reset_after=reset_after, lengths=None, recompute=recompute, implementation="fused"
        )

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own
@pytest.mark.parametrize("kind", ["gru", "gru_before"])
@pytest.mark.parametrize("keep", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(kind: str, keep: int, dtype: torch.dtype) -> None:
    tensors = make(3, 2, (4, 3), (3, 3), reset_after=kind == "gru")
    given = [None if t is None else t.to(dtype).requires_grad_(keep > 0) for t in tensors.values()]
    everything = [*given[:2], None, *given[2:], None, None]
    present = [int(tensor is not None) for tensor in everything]
    arguments = kind, [t for t in everything if t is not None], present, [3, keep, 3, 0, 0], None, None
    tests = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if dtype == torch.float64:  # it compares with tolerances that are not for the others
        tests.append("test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.convlstm.stack.default, arguments, test_utils=tests)


@pytest.mark.parametrize("reset_after", [False, True])
def test_a_forecast_of_two_layers(reset_after: bool) -> None:
    """Layers of different widths, a head, and predictions that are read, against a loop."""
    given, steps, first, I, widths = 3, 6, 1, 2, (4, 3)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) / 3).requires_grad_()

    x = normal(steps, B, I, 5, 4)
    layers = []
    for below, width in zip((I, *widths), widths, strict=False):
        hn = normal(width) if reset_after else None
        layers.append([normal(3 * width, below, 3, 3), normal(3 * width, width, 3, 3), normal(3 * width), hn])
    head = normal(I, sum(widths), 1, 1), normal(I)
    read_given = torch.tensor([[True, False]] * (steps - given))
    kind = "gru" if reset_after else "gru_before"
    options: dict[str, Any] = {
        "given": given,
        "steps": steps,
        "first": first,
        "sigmoid": True,
        "dtype": x.dtype,
        "recompute": False,
    }
    actual = fused.forecast(kind, x, layers, head, read_given, **options)

    states = [x.new_zeros(B, width, 5, 4) for width in widths]
    predictions: list[Tensor] = []
    for t in range(steps):
        frame = x[t]
        if t >= given:
            frame = torch.where(read_given[t - given].reshape(B, 1, 1, 1), frame, predictions[-1])
        for n, (ih, hh, bias, hn) in enumerate(layers):
            frame, states[n] = reference.gru(frame[None], states[n], ih, hh, bias, hn, reset_after)
            frame = frame[0]
        predictions.append(torch.sigmoid(F.conv2d(torch.cat(states, dim=1), *head)))
    expected = torch.stack(predictions[first:])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    leaves = [x, *(p for layer in layers for p in layer if p is not None), *head]
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for d_actual, d_expected in zip(
        torch.autograd.grad(actual, leaves, weights),
        torch.autograd.grad(expected, leaves, weights),
        strict=True,
    ):
        torch.testing.assert_close(d_actual, d_expected, rtol=0, atol=1e-12)
