"""The fused op against the reference: values, last states, every gradient, of LSTM and GRU."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm import ops
from convlstm.ops import fused
from convlstm.ops.fused_loop import Keep

# T, B, I, C, frame, kernel, peepholes (of an LSTM), states given, gradient of the input wanted
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
each_cell = pytest.mark.parametrize("cell", ["lstm", "gru"])
each_recompute = pytest.mark.parametrize("recompute", [False, True])


def tensors(cell: str, case: tuple, dtype: torch.dtype, seed: int = 0, bias: bool = True) -> dict[str, Any]:
    """The arguments of `ops.lstm` or `ops.gru`, in their order, with gradients wanted."""
    T, B, I, C, S, K, peephole, states, to_input = case
    generator = torch.Generator().manual_seed(seed)
    wide, gates = torch.promote_types(dtype, torch.float32), {"lstm": 4, "gru": 3}[cell]

    def draw(*shape: int, scale: float = 1.0, to: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(to).requires_grad_()

    def state(to: torch.dtype) -> Tensor | None:
        return draw(B, C, *S, to=to) if states else None

    arguments: dict[str, Any] = {"input": draw(T, B, I, *S).requires_grad_(to_input), "h0": state(dtype)}
    arguments |= {"c0": state(wide)} if cell == "lstm" else {}
    arguments["weight_ih"] = draw(gates * C, I, *K, scale=0.3) if I else None
    arguments["weight_hh"] = draw(gates * C, C, *K, scale=0.3)
    arguments["bias"] = draw(gates * C) if bias else None
    if cell == "gru":
        return arguments | {"bias_hn": draw(C) if bias else None}
    frame = {"channel": (1,) * len(S), "pixel": S}
    return arguments | {"weight_ch": draw(3 * C, *frame[peephole], to=wide) if peephole else None}


def call(cell: str, implementation: str, arguments: dict[str, Any], **options: Any) -> tuple[Tensor, ...]:
    with ops.use_implementation(implementation):
        return (ops.lstm if cell == "lstm" else ops.gru)(**arguments, **options)


def run(cell: str, implementation: str, arguments: dict[str, Any], **options: Any) -> tuple[Tensor, ...]:
    """Outputs and last states, then the gradients of all that wants one."""
    results = call(cell, implementation, arguments, **options)
    weights = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r) for r in results]
    leaves = [t for t in arguments.values() if t is not None and t.requires_grad]
    return (*results, *torch.autograd.grad(results, leaves, weights))


def detached(arguments: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Copies that want the same gradients."""
    return {
        name: None if t is None else t.detach().to(dtype or t.dtype).requires_grad_(t.requires_grad)
        for name, t in arguments.items()
    }


@each_cell
@each_recompute
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_the_fused_op_is_the_reference(cell, case, dtype, tolerance, recompute) -> None:
    for bias in (True, False):
        arguments = tensors(cell, case, dtype, bias=bias)
        expected = run(cell, "reference", arguments)
        found = run(cell, "fused", arguments, recompute=recompute)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, theirs.abs().max().item()))


@each_cell
def test_without_gradients_and_of_any_layout_the_values_are_the_same(cell) -> None:
    for case, dtype in itertools.product(CASES[:6], (torch.float64, torch.float32, torch.bfloat16)):
        arguments = tensors(cell, case, dtype)
        expected = call(cell, "fused", arguments)
        for name, tensor in arguments.items():
            if tensor is not None:
                arguments[name] = tensor.detach().transpose(0, -1).contiguous().transpose(0, -1)
        # With gradients the GRU's gate z is rounded where it is kept, and read from there.
        tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
        assert_close(call(cell, "fused", arguments), expected, rtol=tolerance, atol=tolerance)


@each_recompute
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[7]])
def test_a_bfloat16_lstm_is_as_exact_as_the_reference_in_bfloat16(case, recompute) -> None:
    short = tensors("lstm", case, torch.bfloat16)
    exact = run("lstm", "reference", detached(short, torch.float64))
    reference = run("lstm", "reference", short)
    found = run("lstm", "fused", short, recompute=recompute)
    for right, theirs, ours in zip(exact, reference, found, strict=True):
        assert ours.dtype == theirs.dtype
        error, allowed = (ours - right).abs().max(), (theirs - right).abs().max()
        assert error <= 1.5 * allowed + 2**-8 * right.abs().max()


@each_recompute
def test_a_bfloat16_gru_errs_no_more_than_the_reference_in_bfloat16(recompute) -> None:
    squares: dict[str, Any] = {"reference": 0.0, "fused": 0.0}
    for seed in range(4):  # bias_hn has few numbers, whose errors differ by chance
        short = tensors("gru", CASES[1], torch.bfloat16, seed)
        exact = run("gru", "reference", detached(short, torch.float64))
        for name in squares:
            found = run("gru", name, short, recompute=recompute)
            squares[name] += torch.stack([(f - e).square().mean() for f, e in zip(found, exact, strict=True)])
    assert (squares["fused"] <= squares["reference"]).all()


@each_cell
@each_recompute
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_sequences_of_different_length_run_as_if_alone(cell, implementation, recompute) -> None:
    arguments = tensors(cell, (6, 4, 3, 5, (4, 5), (3, 3), "channel", True, True), torch.float64)
    lengths, states = [3, 6, 1, 5], [name for name in arguments if name in ("h0", "c0")]
    results = call(cell, implementation, arguments, lengths=lengths, recompute=recompute)
    weights = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r) for r in results]
    gradients = torch.autograd.grad(results, list(arguments.values()), weights)
    count, of_weights = 1 + len(states), []
    for b, length in enumerate(lengths):
        one = detached(arguments)
        one["input"] = one["input"][:length, b : b + 1].detach().requires_grad_()
        for name in states:
            one[name] = one[name][b : b + 1].detach().requires_grad_()
        alone = call(cell, implementation, one, recompute=recompute)
        assert_close(
            [alone[0][:, 0], *(s[0] for s in alone[1:])],
            [results[0][:length, b], *(s[b] for s in results[1:])],
        )
        assert (results[0][length:, b] == 0).all()
        own = [weights[0][:length, b : b + 1], *(w[b : b + 1] for w in weights[1:])]
        found = torch.autograd.grad(alone, list(one.values()), own)
        assert_close(found[0][:, 0], gradients[0][:length, b])
        assert (gradients[0][length:, b] == 0).all()
        assert_close([d[0] for d in found[1:count]], [d[b] for d in gradients[1:count]])
        of_weights.append(found[count:])
    assert_close([sum(parts) for parts in zip(*of_weights, strict=True)], list(gradients[count:]))


def test_what_lies_past_a_length_does_not_matter() -> None:
    arguments = tensors("lstm", (4, 2, 1, 3, (4, 4), (3, 3), None, False, True), torch.float32)
    clean = run("lstm", "fused", arguments, lengths=[2, 4])
    with torch.no_grad():
        arguments["input"][2:, 0] = torch.nan
    assert_close(run("lstm", "fused", arguments, lengths=[2, 4]), clean)


@each_cell
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_nans_stay(cell, dtype, implementation) -> None:
    arguments = tensors(cell, (4, 2, 2, 4, (4, 7), (1, 1), None, False, True), dtype)
    with torch.no_grad():
        arguments["input"][1, 0, 0, 2, 3] = math.nan
    arguments["input"].requires_grad_(False)
    results = run(cell, implementation, arguments)
    output, d_weight_hh = results[0], next(t for t in results if t.shape == arguments["weight_hh"].shape)
    found = output.isnan()
    assert found[1:, 0, :, 2, 3].all()
    found[1:, 0, :, 2] = False  # oneDNN's bfloat16 convolutions of few channels reach one pixel further
    assert not found.any()
    assert d_weight_hh.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_and_infinite_numbers_are_as_in_torch(dtype) -> None:
    arguments = tensors("lstm", CASES[0], dtype)
    with torch.no_grad():
        arguments["input"].mul_(1e4)
    results = [call("lstm", name, arguments) for name in ("fused", "reference")]
    assert_close(*results, rtol=0.02, atol=0.02)
    arguments = tensors("lstm", CASES[3], dtype) | {"c0": torch.full((1, 1, 1, 1), -torch.inf)}
    for implementation in ("reference", "fused"):
        assert (call("lstm", implementation, arguments)[2] == -torch.inf).all()


@each_cell
def test_gradcheck(cell) -> None:
    arguments = tensors(cell, (3, 2, 1, 2, (3, 2), (3, 1), "channel", True, True), torch.float64)
    for recompute, lengths in itertools.product([False, True], [None, [2, 3]]):

        def fused_op(*values: Tensor, options=(recompute, lengths)) -> tuple[Tensor, ...]:
            given = dict(zip(arguments, values, strict=True))
            return call(cell, "fused", given, recompute=options[0], lengths=options[1])

        torch.autograd.gradcheck(fused_op, list(arguments.values()), fast_mode=True)


def opcheck(cell: str, case: tuple, keep: Keep, dtype: torch.dtype, last: bool = False) -> None:
    """Check the operator's registrations; `last`: with weights whose memory is channels last."""
    arguments = tensors(cell, case, dtype)
    if cell == "gru":
        arguments = {**dict(list(arguments.items())[:2]), "c0": None, **arguments}
    given = [None if t is None else t.detach() for t in (*arguments.values(), None, None)]
    if last:
        given = [
            t.contiguous(memory_format=torch.channels_last) if t is not None and t.dim() == 4 else t
            for t in given
        ]
    there = [t.requires_grad_(keep != Keep.NOTHING) for t in given if t is not None]
    numbers = [case[0], int(keep), case[0], 0, 0]
    tests = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if dtype != torch.bfloat16:  # it compares with tolerances that are not for bfloat16
        tests.append("test_aot_dispatch_static")
    present = [int(t is not None) for t in given]
    torch.library.opcheck(fused._stack, (cell, there, present, numbers, None, None), test_utils=tests)


# torch's checker looks at .grad of copies that it made of a list's tensors.
of_the_checker = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@of_the_checker
@each_cell
@pytest.mark.parametrize(
    ("case", "keep", "dtype"),
    [
        pytest.param(case, keep, dtype, marks=[] if fast else pytest.mark.slow)
        for case in (0, 1)
        for keep in Keep
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
        for fast in [(case, keep, dtype) == (1, Keep.GATES, torch.float32)]
    ],
)
def test_opcheck(cell, case, keep, dtype) -> None:
    opcheck(cell, CASES[case], keep, dtype)
    if case == 0:
        opcheck(cell, CASES[case], keep, dtype, last=True)


def test_a_graph_can_be_walked_twice_and_has_no_second_derivatives() -> None:
    arguments = tensors("lstm", CASES[1], torch.float32)
    output = call("lstm", "fused", arguments)[0].square().sum()
    first = torch.autograd.grad(output, arguments["input"], retain_graph=True)[0]
    (again,) = torch.autograd.grad(output, arguments["input"], create_graph=True)
    assert_close(again, first, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="CONVLSTM_OPS=reference"):
        again.sum().backward()


@each_cell
def test_only_what_is_asked_for_has_a_gradient(cell) -> None:
    arguments = tensors(cell, CASES[1], torch.float64)
    expected = dict(zip(arguments, run(cell, "reference", arguments)[-len(arguments) :], strict=True))
    for frozen in (("weight_ih", "h0", "bias"), ("input",), ("input", "weight_ih", "weight_hh", "bias")):
        some = detached(arguments)
        for name in frozen:
            some[name].requires_grad_(False)
        wanted = {name: gradient for name, gradient in expected.items() if name not in frozen}
        found = run(cell, "fused", some)[-len(wanted) :]
        assert_close(dict(zip(wanted, found, strict=True)), wanted)
