"""The fused LSTM op against the reference: values, last states, every gradient."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm import ops
from convlstm.ops import fused

# T, B, I, C, frame, kernel, peepholes, whether states are given, whether the input wants a gradient
CASES = [
    (5, 2, 3, 4, (6, 5), (3, 3), None, False, False),
    (5, 2, 3, 4, (6, 5), (3, 5), "channel", True, True),
    (1, 2, 3, 4, (6, 5), (3, 3), "pixel", True, True),
    (1, 1, 1, 1, (1, 1), (1, 1), None, False, True),
    (7, 3, 0, 5, (6, 7), (3, 3), "pixel", False, False),
    (4, 3, 0, 5, (6, 7), (3, 3), None, True, False),
    (7, 2, 2, 16, (4, 6, 7), (3, 3, 1), "channel", False, True),
    (9, 1, 2, 17, (8, 8), (1, 1), None, True, True),
    (4, 2, 3, 4, (6, 5), (2, 4), None, False, True),
    (4, 2, 3, 4, (9,), (3,), "pixel", True, True),
    (4, 2, 3, 4, (3, 1), (3, 3), None, False, True),
]
NAMES = ("input", "h0", "c0", "weight_ih", "weight_hh", "bias", "weight_ch")


def tensors(case: tuple, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    """The arguments of a case, with gradients wanted."""
    T, B, I, C, S, K, peephole, states, to_input = case
    generator = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)

    def draw(*shape: int, scale: float = 1.0, to: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(to).requires_grad_()

    frame = {"channel": (1,) * len(S), "pixel": S}
    return {
        "input": draw(T, B, I, *S).requires_grad_(to_input),
        "h0": draw(B, C, *S) if states else None,
        "c0": draw(B, C, *S, to=wide) if states else None,
        "weight_ih": draw(4 * C, I, *K, scale=0.3) if I else None,
        "weight_hh": draw(4 * C, C, *K, scale=0.3),
        "bias": draw(4 * C),
        "weight_ch": draw(3 * C, *frame[peephole], to=wide) if peephole else None,
    }


def run(arguments: dict[str, Any], **options: Any) -> tuple[Tensor, ...]:
    """Outputs and last states, then the gradients of all that wants one."""
    results = ops.lstm(**arguments, **options)
    weights = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r) for r in results]
    leaves = [t for t in arguments.values() if t is not None and t.requires_grad]
    return (*results, *torch.autograd.grad(results, leaves, weights))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_the_fused_op_is_the_reference(case, dtype, tolerance, recompute) -> None:
    arguments = tensors(case, dtype)
    expected = run(arguments, implementation="reference")
    found = run(arguments, implementation="fused", recompute=recompute)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[7]])
def test_bfloat16_is_as_exact_as_the_reference_in_bfloat16(case, recompute) -> None:
    short = tensors(case, torch.bfloat16)
    wide = {
        name: None if t is None else t.detach().double().requires_grad_(t.requires_grad)
        for name, t in short.items()
    }
    exact = run(wide, implementation="reference")
    reference = run(short, implementation="reference")
    found = run(short, implementation="fused", recompute=recompute)
    for right, theirs, ours in zip(exact, reference, found, strict=True):
        assert ours.dtype == theirs.dtype
        error, allowed = (ours - right).abs().max(), (theirs - right).abs().max()
        assert error <= 1.5 * allowed + 2**-8 * right.abs().max()


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("recompute", [False, True])
def test_sequences_of_different_length_run_as_if_alone(implementation, recompute) -> None:
    case = (6, 4, 3, 5, (4, 5), (3, 3), "channel", True, True)
    arguments, lengths = tensors(case, torch.float64), [3, 6, 1, 5]
    options = {"implementation": implementation, "recompute": recompute}
    together = run(arguments, lengths=lengths, **options)
    output, h_n, c_n, d_input, d_h0, d_c0, *d_weights = together
    alone = []
    for b, length in enumerate(lengths):
        one: dict[str, Any] = {
            n: None if t is None else t.detach().requires_grad_() for n, t in arguments.items()
        }
        for name in ("h0", "c0"):
            one[name] = one[name][b : b + 1].detach().requires_grad_()
        one["input"] = one["input"][:length, b : b + 1].detach().requires_grad_()
        results = ops.lstm(**one, **options)
        assert_close(results[0][:, 0], output[:length, b])
        assert (output[length:, b] == 0).all()
        assert_close(results[1][0], h_n[b])
        assert_close(results[2][0], c_n[b])
        full = ops.lstm(**arguments, lengths=lengths, **options)
        weights = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r) for r in full]
        own = (weights[0][:length, b : b + 1], weights[1][b : b + 1], weights[2][b : b + 1])
        alone.append(torch.autograd.grad(results, list(one.values()), own))
        assert_close(alone[-1][0][:, 0], d_input[:length, b])
        assert (d_input[length:, b] == 0).all()
        assert_close(alone[-1][1][0], d_h0[b])
        assert_close(alone[-1][2][0], d_c0[b])
    for ours, *parts in zip(d_weights, *(gradients[3:] for gradients in alone), strict=True):
        assert_close(sum(parts), ours)


def test_what_lies_past_a_length_does_not_matter() -> None:
    arguments = tensors((4, 2, 1, 3, (4, 4), (3, 3), None, False, True), torch.float32)
    clean = run(arguments, lengths=[2, 4], implementation="fused")
    with torch.no_grad():
        arguments["input"][2:, 0] = torch.nan
    for ours, theirs in zip(run(arguments, lengths=[2, 4], implementation="fused"), clean, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("lengths", [[0, 3], [4, 2], [2], [1.0, 2.0], "ab", [True, True]])
def test_bad_lengths_are_named(lengths) -> None:
    arguments = tensors((3, 2, 1, 3, (4, 4), (3, 3), None, False, True), torch.float32)
    with pytest.raises(ValueError, match=r"lengths .* 2 whole numbers from 1 to 3"):
        ops.lstm(**arguments, lengths=lengths)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_nans_stay(dtype, implementation) -> None:
    arguments = tensors(CASES[0], dtype)
    with torch.no_grad():
        arguments["input"][1, 0, 0, 2, 2] = torch.nan
    output, _, c_n = ops.lstm(**arguments, implementation=implementation)
    assert output[1, 0].isnan().any()
    assert not output[:, 1].isnan().any()
    assert c_n[0].isnan().all()


@pytest.mark.parametrize("shared", [torch.float32, torch.bfloat16])
def test_large_numbers_saturate_as_in_torch(shared) -> None:
    arguments = tensors(CASES[0], shared)
    with torch.no_grad():
        arguments["input"].mul_(1e4)
    for ours, theirs in zip(
        ops.lstm(**arguments, implementation="fused"),
        ops.lstm(**arguments, implementation="reference"),
        strict=True,
    ):
        assert_close(ours, theirs, rtol=0.02, atol=0.02)


def test_gradcheck() -> None:
    arguments = tensors((3, 2, 1, 2, (3, 2), (3, 1), "channel", True, True), torch.float64)
    for recompute, lengths in itertools.product([False, True], [None, [2, 3]]):
        options: dict[str, Any] = {"recompute": recompute, "lengths": lengths, "implementation": "fused"}

        def run_fused(*values: Tensor, options: dict[str, Any] = options) -> tuple[Tensor, ...]:
            return ops.lstm(**dict(zip(NAMES, values, strict=True)), **options)

        torch.autograd.gradcheck(run_fused, list(arguments.values()))


# torch's checker looks at .grad of copies that it made of a list's tensors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("keep", [fused.NOTHING, fused.EVERYTHING, fused.STATES])
@pytest.mark.parametrize("case", [CASES[0], CASES[1]])
def test_opcheck(case, keep) -> None:
    arguments = [*tensors(case, torch.float32).values(), None, None]
    if keep == fused.NOTHING:
        arguments = [None if t is None else t.detach() for t in arguments]
    present, given = [int(t is not None) for t in arguments], [t for t in arguments if t is not None]
    numbers = [case[0], keep, case[0], 0, 0]
    torch.library.opcheck(fused._stack, ("lstm", given, present, numbers, None, None))


def test_a_graph_can_be_walked_twice() -> None:
    arguments = tensors(CASES[1], torch.float32)
    output = ops.lstm(**arguments, implementation="fused")[0].sum()
    first = torch.autograd.grad(output, arguments["weight_hh"], retain_graph=True)[0]
    assert_close(torch.autograd.grad(output, arguments["weight_hh"])[0], first, rtol=0, atol=0)


def test_second_derivatives_are_refused_in_words() -> None:
    arguments = tensors(CASES[1], torch.float32)
    output = ops.lstm(**arguments, implementation="fused")[0].square().sum()
    (gradient,) = torch.autograd.grad(output, arguments["input"], create_graph=True)
    with pytest.raises(NotImplementedError, match="CONVLSTM_OPS=reference"):
        gradient.sum().backward()


def test_only_what_is_asked_for_has_a_gradient() -> None:
    arguments = tensors(CASES[1], torch.float32)
    for name in ("weight_ih", "c0", "bias"):
        arguments[name].requires_grad_(False)
    expected = run({n: t.detach().requires_grad_() for n, t in arguments.items()}, implementation="reference")
    leaves = ["input", "h0", "weight_hh", "weight_ch"]
    gradients: dict[str, Tensor] = dict(zip(NAMES, expected[3:], strict=True))
    for ours, name in zip(run(arguments, implementation="fused")[3:], leaves, strict=True):
        assert_close(ours, gradients[name], rtol=1e-4, atol=1e-5)


def test_compiled_it_is_the_same() -> None:
    arguments = tensors(CASES[1], torch.float32)
    compiled = torch.compile(
        lambda: ops.lstm(**arguments, implementation="fused"), backend="aot_eager", fullgraph=True
    )
    results, expected = compiled(), run(arguments, implementation="fused")
    cotangents = [torch.linspace(-1, 1, r.numel()).view_as(r) for r in results]
    gradients = torch.autograd.grad(results, list(arguments.values()), cotangents)
    for ours, theirs in zip((*results, *gradients), expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck_with_weights_of_another_memory_format() -> None:
    arguments = [*tensors(CASES[0], torch.float32).values(), None, None]
    last = torch.channels_last
    arguments = [
        t.detach().contiguous(memory_format=last).requires_grad_() if t is not None and t.dim() == 4 else t
        for t in arguments
    ]
    present, given = [int(t is not None) for t in arguments], [t for t in arguments if t is not None]
    numbers = [CASES[0][0], fused.EVERYTHING, CASES[0][0], 0, 0]
    torch.library.opcheck(fused._stack, ("lstm", given, present, numbers, None, None))


def test_a_length_that_no_step_has_leaves_no_garbage() -> None:
    arguments = {n: t.detach() for n, t in tensors(CASES[1], torch.float32).items()}
    T = len(arguments["input"])
    compiled = torch.compile(
        lambda lengths: ops.lstm(**arguments, lengths=lengths, implementation="fused"), backend="eager"
    )
    _, h_n, c_n = compiled(torch.tensor([T + 1, T]))  # a graph that is traced does not look at them
    assert (h_n[0] == 0).all()
    assert (c_n[0] == 0).all()


def test_infinite_cell_states_stay_without_peepholes() -> None:
    arguments: dict[str, Any] = tensors(CASES[3], torch.float32) | {
        "c0": torch.full((1, 1, 1, 1), -torch.inf),
        "h0": None,
    }
    for implementation in ("reference", "fused"):
        c_n = ops.lstm(**arguments, implementation=implementation)[2]
        assert (c_n == -torch.inf).all()
