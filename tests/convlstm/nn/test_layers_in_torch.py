"""The layers under what torch does around modules: views, checkpointing, transforms, tracing."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from convlstm import ConvGRU, ConvLSTM, ConvRNN

T, B, C_IN, C = 6, 2, 3, 2


@pytest.mark.parametrize("kind", [ConvRNN, ConvLSTM, ConvGRU])
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
    torch.testing.assert_close(torch.autograd.grad(output.sum(), [input, *layer.parameters()]), expected)


def test_transforms_of_torch_func_take_the_reference() -> None:
    layer, input = ConvLSTM(C_IN, C, 3, recompute=True), torch.rand(T, B, C_IN, 5, 4)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], input: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (input,))[0].sum()

    gradients = torch.func.grad(loss)(weights, input)
    layer(input)[0].sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    each = torch.func.vmap(loss, in_dims=(None, 1))(weights, input.unsqueeze(2))
    torch.testing.assert_close(each.sum(), loss(weights, input))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ConvLSTM, ConvGRU])
def test_traced_without_a_break_in_any_implementation(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for implementation in ("auto", "reference", "fused"):
        monkeypatch.setenv("CONVLSTM_OPS", implementation)
        torch._dynamo.reset()
        layer, input = kind(C_IN, C, 3, 2), torch.rand(2, B, C_IN, 5, 4)
        compiled: Any = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(input)[0], layer(input)[0])
