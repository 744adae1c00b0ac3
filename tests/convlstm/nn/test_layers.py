"""The layers: what a stack over time does beyond its cells, its types, and what torch does around modules."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from convlstm import ConvGRU, ConvLSTM, ConvRNN, ops
from convlstm.nn.base import ConvCell, ConvRecurrent

T, B, C_IN, C = 6, 2, 3, 2
KINDS = [ConvRNN, ConvLSTM, ConvGRU]
each_kind = pytest.mark.parametrize("kind", KINDS)


def states_of(layer: ConvRecurrent, *frame: int, batch: int = B, scale: float = 1.0) -> Any:
    """Draw states as the layer takes them: a tensor, or a pair of them."""
    shape = (len(layer.cells), batch, layer.hidden_channels, *frame)
    h, c = scale * torch.randn(shape), scale * torch.randn(shape)
    return (h, c) if isinstance(layer, ConvLSTM) else h


def as_list(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def each(function: Any, state: Any) -> Any:
    """Apply a function to a state, or to both of a pair."""
    return function(state) if isinstance(state, Tensor) else tuple(function(s) for s in state)


def by_hand(cell: ConvCell, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Run a cell over (T, B, I, H, W) one call at a time."""
    outputs = []
    for frame in frames:
        state = cell(frame, state)
        outputs.append(as_list(state)[0])
    return torch.stack(outputs), state


@each_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("kernel", "steps", "batch", "frame"),
    [((3, 2), T, B, (7, 5)), ((2, 4), 1, 1, (2, 9)), ((3, 8), 3, 2, (1, 1)), (1, 2, 1, (7, 5))],
)
def test_stack_is_its_cells_run_by_hand(
    kind: Any, bidirectional: bool, given: bool, kernel: Any, steps: int, batch: int, frame: tuple[int, int]
) -> None:
    layer = kind(C_IN, C, kernel, 2, bidirectional=bidirectional)
    x = torch.randn(2 * steps, batch, *frame, C_IN).movedim(-1, 2)[::2]  # not contiguous
    hx = each(lambda s: s.mT.contiguous().mT, states_of(layer, *frame, batch=batch)) if given else None
    frames, last = x, []
    for number in range(2):
        outputs = []
        for direction in range(1 + bidirectional):
            index = number * (1 + bidirectional) + direction
            state = each(lambda s, n=index: s[n], hx) if given else None
            output, state = by_hand(layer.cells[index], frames.flip(0) if direction else frames, state)
            outputs.append(output.flip(0) if direction else output)
            last.append(as_list(state))
        frames = torch.cat(outputs, dim=2)
    output, state = layer(x, hx)
    assert_close(output, frames)
    assert_close(as_list(state), [torch.stack(s) for s in zip(*last, strict=True)])


@each_kind
def test_a_run_in_two_parts_is_one_run(kind: Any) -> None:
    layer = kind(C_IN, 8, 3, num_layers=2)
    x = torch.randn(10, B, C_IN, 7, 5)
    output, last = layer(x)
    first, state = layer(x[:4])
    second, end = layer(x[4:], state)
    assert_close(torch.cat([first, second]), output, rtol=0, atol=1e-6)
    assert_close(end, last, rtol=0, atol=1e-6)


@each_kind
def test_states_default_to_zeros_and_batches_may_come_first_or_not_at_all(kind: Any) -> None:
    layer = kind(C_IN, C, 3, num_layers=2, bidirectional=True)
    x, hx = torch.randn(T, B, C_IN, 7, 5), states_of(layer, 7, 5)
    output, last = layer(x, hx)
    assert_close(layer(x)[0], layer(x, each(torch.zeros_like, hx))[0], rtol=0, atol=0)
    layer.batch_first = True
    first, last_first = layer(x.transpose(0, 1), hx)
    assert_close(first, output.transpose(0, 1))
    assert_close(last_first, last)
    for layer.batch_first in (False, True):  # without a batch, there is nothing to come first
        for n in range(B):
            alone, last_alone = layer(x[:, n], each(lambda s, n=n: s[:, n], hx))
            assert_close(alone, output[:, n])
            assert_close(last_alone, each(lambda s, n=n: s[:, n], last))


@each_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_dropout_acts_between_layers_and_in_training(
    kind: Any, bidirectional: bool, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVLSTM_OPS", implementation)
    layer = kind(C_IN, C, 3, num_layers=2, dropout=0.5, bidirectional=bidirectional)
    directions = 1 + bidirectional
    first = kind(C_IN, C, 3, bidirectional=bidirectional)
    second = kind(C * directions, C, 3, bidirectional=bidirectional)
    first.cells, second.cells = layer.cells[:directions], layer.cells[directions:]
    x = torch.randn(T, B, C_IN, 7, 5)
    between, _ = first(x)
    torch.manual_seed(3)
    expected, _ = second(F.dropout(between, 0.5))
    torch.manual_seed(3)
    assert_close(layer(x)[0], expected)
    assert not torch.allclose(layer(x)[0], expected)  # another draw
    assert_close(layer.eval()(x)[0], second(between)[0])


@each_kind
def test_dropout_with_one_layer_warns(kind: Any) -> None:
    with pytest.warns(UserWarning, match=r"dropout=0\.5 does nothing with num_layers=1") as caught:
        kind(C_IN, C, 3, dropout=0.5)
    assert caught[0].filename == __file__  # the line that asked for it


@each_kind
@pytest.mark.parametrize("bias", [False, True])
def test_without_input_convolution_frames_only_carry_sizes(kind: Any, bias: bool) -> None:
    layer = kind(0, C, 3, num_layers=2, bias=bias)
    like = kind(C_IN, C, 3, num_layers=2, bias=bias)
    like.load_state_dict(layer.state_dict() | {"cells.0.weight_ih": like.cells[0].weight_ih * 0})
    hx = states_of(layer, 7, 5)
    expected = like(torch.randn(T, B, C_IN, 7, 5), hx)
    assert_close(layer(torch.empty(T, B, 0, 7, 5), hx), expected)
    assert expected[0].std() > 1e-3


@each_kind
def test_copies_pickles_and_draws_anew(kind: Any) -> None:
    layer = kind(C_IN, C, 3, num_layers=2)
    x = torch.randn(T, B, C_IN, 7, 5)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(again(x)[0], layer(x)[0], rtol=0, atol=0)
        again.reset_parameters()
        for name, parameter in again.named_parameters():
            assert not torch.equal(parameter, layer.get_parameter(name))


@each_kind
@pytest.mark.parametrize("given", [None, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_types_under_autocast(kind: Any, given: torch.dtype | None, num_layers: int) -> None:
    layer = kind(C_IN, C, 3, num_layers)
    x = torch.randn(T, B, C_IN, 7, 5)
    hx = each(lambda s: s.to(given or s.dtype), states_of(layer, 7, 5))
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x, hx if given else None)
    assert output.dtype == torch.bfloat16
    assert [s.dtype for s in as_list(state)] == [torch.bfloat16, torch.float32][: len(as_list(state))]
    exact, _ = layer(x, each(Tensor.float, hx) if given else None)
    assert_close(output.float(), exact, rtol=0, atol=0.05)


@each_kind
@pytest.mark.parametrize(
    ("dtype", "cell_dtype"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)]
)
def test_types_of_the_parameters_and_states(kind: Any, dtype: torch.dtype, cell_dtype: torch.dtype) -> None:
    layer = kind(C_IN, C, 3, 2, dtype=dtype)
    x = torch.randn(T, B, C_IN, 7, 5, dtype=dtype)
    for hx in (None, states_of(layer, 7, 5)):  # a float32 state is cast
        output, state = layer(x, hx)
        assert output.dtype == dtype
        assert [s.dtype for s in as_list(state)] == [dtype, cell_dtype][: len(as_list(state))]
    on_meta = kind(C_IN, C, 3, 2, device="meta", dtype=dtype)
    output, state = on_meta(x.to("meta"))
    assert (output.device.type, output.shape) == ("meta", (T, B, C, 7, 5))
    assert {s.device.type for s in as_list(state)} == {"meta"}


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(ConvRNN(1, 2, 3)).startswith("ConvRNN(\n")
    layer = ConvGRU(1, 2, 3, 2, batch_first=True, dropout=0.5, bidirectional=True)
    assert repr(layer).startswith(
        "ConvGRU(\n  num_layers=2, batch_first=True, dropout=0.5, bidirectional=True\n"
    )


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
def test_sequences_of_different_length_run_as_if_alone(kind: Any, batch_first: bool) -> None:
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    input, lengths = torch.rand(5, 3, 2, 6, 4, dtype=torch.float64), [2, 5, 3]
    output, last = layer(input.transpose(0, 1) if batch_first else input, lengths=torch.tensor(lengths))
    output = output.transpose(0, 1) if batch_first else output
    for b, length in enumerate(lengths):
        alone, alone_last = layer(input[:length, b])  # unbatched
        assert_close(output[:length, b], alone)
        assert (output[length:, b] == 0).all()
        assert_close(each(lambda s, b=b: s[:, b], last), alone_last)


@pytest.mark.parametrize("kind", [ConvLSTM, ConvGRU])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_recompute_keeps_less_and_changes_no_number(kind: Any, implementation: str) -> None:
    layer, again = kind(2, 3, 3, num_layers=2), kind(2, 3, 3, num_layers=2, recompute=True)
    again.load_state_dict(layer.state_dict())
    input, kept = torch.rand(7, 2, 2, 6, 5), []

    def pack(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    with ops.use_implementation(implementation):
        for module in (layer, again):
            kept.append(0)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                module(input)[0].square().sum().backward()
    for ours, theirs in zip(again.parameters(), layer.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)
    assert kept[1] < kept[0] / 2


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
def test_results_lie_in_memory_as_those_of_torch_nn(kind: Any, batch_first: bool) -> None:
    layer = kind(C_IN, C, 3, 2, batch_first=batch_first)
    output, state = layer(torch.rand(T, B, C_IN, 5, 4))
    cell_state = layer.cells[0](torch.rand(B, C_IN, 5, 4))
    assert (output.transpose(0, 1) if batch_first else output).is_contiguous()
    for given in (state, cell_state):
        for tensor in given if isinstance(given, tuple) else (given,):
            assert tensor.is_contiguous()


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("kind", [ConvLSTM, ConvGRU])
def test_activation_checkpointing(kind: Any, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVLSTM_OPS", implementation)
    layer, input = kind(C_IN, C, 3, 2), torch.rand(T, B, C_IN, 5, 4, requires_grad=True)
    expected = torch.autograd.grad(layer(input)[0].sum(), [input, *layer.parameters()])
    output = checkpoint(lambda x: layer(x)[0], input, use_reentrant=False)
    assert isinstance(output, Tensor)
    assert_close(torch.autograd.grad(output.sum(), [input, *layer.parameters()]), expected)


def test_transforms_of_torch_func_take_the_reference() -> None:
    layer, input = ConvLSTM(C_IN, C, 3, recompute=True), torch.rand(T, B, C_IN, 5, 4)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], input: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (input,))[0].sum()

    gradients = torch.func.grad(loss)(weights, input)
    layer(input)[0].sum().backward()
    for name, parameter in layer.named_parameters():
        assert_close(gradients[name], parameter.grad)
    each = torch.func.vmap(loss, in_dims=(None, 1))(weights, input.unsqueeze(2))
    assert_close(each.sum(), loss(weights, input))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ConvLSTM, ConvGRU])
def test_traced_without_a_break_in_any_implementation(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for implementation in ("auto", "reference", "fused"):
        monkeypatch.setenv("CONVLSTM_OPS", implementation)
        torch._dynamo.reset()
        layer, input = kind(C_IN, C, 3, 2), torch.rand(2, B, C_IN, 5, 4)
        compiled: Any = torch.compile(layer, backend="eager", fullgraph=True)
        assert_close(compiled(input)[0], layer(input)[0])
