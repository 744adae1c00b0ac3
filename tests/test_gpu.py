"""On a CUDA device: the same numbers as on the CPU, fused ops as exact as the reference, a training run."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import train
from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvRNN,
    EncoderForecasterConfig,
    StackedForecasterConfig,
    ops,
    rollout,
)
from convlstm.models.forecaster import build
from convlstm.ops.kernels import kernels_for

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", [ConvRNN, ConvLSTM, ConvGRU])
def test_layers_compute_what_they_compute_on_the_cpu(kind) -> None:
    layer = kind(2, 5, (3, 4), num_layers=2, bidirectional=True, dtype=torch.float64)
    twin = copy.deepcopy(layer).cuda()
    input = torch.rand(3, 2, 2, 7, 5, dtype=torch.float64)
    for module, frames in ((layer, input), (twin, input.cuda())):
        module(frames)[0].square().sum().backward()
    assert_close(twin(input.cuda())[0].cpu(), layer(input)[0], rtol=0, atol=1e-12)
    for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        assert_close(ours.grad.cpu(), theirs.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [StackedForecasterConfig, EncoderForecasterConfig])
def test_rollouts_agree(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the CPU has none
    model = build(kind(hidden_channels=(8, 8), kernel_size=3))
    context = torch.rand(2, 4, 1, 16, 24)
    twin = copy.deepcopy(model).cuda()
    assert_close(rollout(twin, context.cuda(), 6).cpu(), rollout(model, context, 6), rtol=1e-4, atol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        frames = rollout(twin, context.cuda(), 6)
    assert frames.dtype == torch.float32
    assert_close(frames.cpu(), rollout(model, context, 6), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_there_are_compiled_kernels(dtype: torch.dtype) -> None:
    kernels = kernels_for("lstm", torch.device("cuda"), dtype)
    assert kernels.__name__ == "convlstm.ops.kernels.cuda_lstm", "no triton, or no C compiler"


def lstm_arguments(
    I: int,
    C: int,
    kernel: tuple[int, ...],
    frame: tuple[int, ...],
    pixels: tuple[int, ...] | None,
    states: bool,
) -> dict[str, Tensor | None]:
    """Arguments of `ops.lstm`, numbers that bfloat16 holds; `pixels` is the shape of a peephole, or None."""
    shapes: dict[str, tuple[int, ...] | None] = {
        "input": (5, 2, I, *frame),
        "h0": (2, C, *frame) if states else None,
        "c0": (2, C, *frame) if states else None,
        "weight_ih": (4 * C, I, *kernel),
        "weight_hh": (4 * C, C, *kernel),
        "bias": (4 * C,),
        "weight_ch": None if pixels is None else (3 * C, *pixels),
    }
    fan_in = (I + C) * torch.Size(kernel).numel()
    scales = {"weight_ih": fan_in**-0.5, "weight_hh": fan_in**-0.5}
    return {
        name: None if shape is None else (scales.get(name, 1) * torch.randn(shape)).bfloat16().double()
        for name, shape in shapes.items()
    }


def lstm_results(
    implementation: str,
    arguments: dict[str, Tensor | None],
    device: str,
    dtype: torch.dtype,
    autocast: bool = False,
    **options,
) -> dict[str, Tensor]:
    """Values and gradients of `ops.lstm`, by name, in float64 on the CPU."""
    leaves = {
        name: None if tensor is None else tensor.to(device, dtype, copy=True).requires_grad_()
        for name, tensor in arguments.items()
    }
    with torch.autocast(device, torch.bfloat16, enabled=autocast), ops.use_implementation(implementation):
        values = dict(zip(("output", "h_n", "c_n"), ops.lstm(**leaves, **options), strict=True))
    torch.manual_seed(1)
    cotangents = [torch.randn(value.shape).to(device, value.dtype) for value in values.values()]
    wanted = {f"d_{name}": leaf for name, leaf in leaves.items() if leaf is not None}
    gradients = torch.autograd.grad(list(values.values()), list(wanted.values()), cotangents)
    results = values | dict(zip(wanted, gradients, strict=True))
    return {name: tensor.detach().cpu().double() for name, tensor in results.items()}


@pytest.mark.parametrize(
    ("dtype", "autocast", "floor"),
    [
        (torch.float32, False, 1e-5),
        (torch.bfloat16, False, 5e-3),
        (torch.float16, False, 1e-3),
        (torch.float32, True, 5e-3),
    ],
    ids=["float32", "bfloat16", "float16", "autocast"],
)
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((3, 17, (3, 3), (7, 5), None, True), {}),
        ((1, 64, (5, 5), (16, 16), None, False), {}),
        ((16, 24, (3, 4), (7, 5), (1, 1), True), {"lengths": [5, 2]}),
        ((2, 5, (3, 3), (7, 5), (7, 5), True), {"recompute": True}),
        ((2, 8, (3, 3, 3), (3, 4, 5), (1, 1, 1), False), {}),
    ],
    ids=["odd", "wide", "lengths", "recompute", "three axes"],
)
def test_the_fused_lstm_is_as_exact_as_the_reference(
    sizes, options, dtype, autocast: bool, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    arguments = lstm_arguments(*sizes)
    exact = lstm_results("reference", arguments, "cpu", torch.float64, **options)
    fused, reference = (
        lstm_results(implementation, arguments, "cuda", dtype, autocast, **options)
        for implementation in ("fused", "reference")
    )
    assert fused.keys() == exact.keys()
    for name, truth in exact.items():
        error, allowed = (fused[name] - truth).norm(), (reference[name] - truth).norm()
        assert error <= 2 * allowed + floor * truth.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_lstm_runs_in_a_cuda_graph(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVLSTM_OPS", "fused")
    layer = ConvLSTM(3, 17, 3, num_layers=2, peephole="channel", device="cuda", dtype=dtype)
    frames, others = torch.rand(2, 4, 2, 3, 7, 5, device="cuda").to(dtype)
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        expected = layer(others)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles kernels, chooses algorithms
            for _ in range(3):
                layer(frames)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            output, (h_n, c_n) = layer(frames)
    frames.copy_(others)
    graph.replay()
    assert_close((output, *(h_n, c_n)), (expected[0], *expected[1]))


def test_the_fused_lstm_runs_on_a_device_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    layer = ConvLSTM(3, 17, 3, device="cuda:0")
    frames = torch.rand(4, 2, 3, 7, 5, device="cuda:0")
    other = copy.deepcopy(layer).to("cuda:1")
    assert_close(other(frames.to("cuda:1"))[0].cpu(), layer(frames)[0].cpu())


def test_a_state_on_the_wrong_device_is_named() -> None:
    layer = ConvLSTM(1, 3, 3, device="cuda")
    state = torch.zeros(1, 2, 3, 8, 8)
    with pytest.raises(ValueError, match="h_0 is on cpu, the input is on cuda"):
        layer(torch.rand(4, 2, 1, 8, 8, device="cuda"), (state, state))


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_a_resumed_run_is_the_run_but_for_the_order_of_sums(state_of, train_until) -> None:
    assert train.hardware.choose_device("auto").type == "cuda"
    config = dataclasses.replace(train.PRESETS["tiny"], device="cuda", bfloat16="off")
    whole = train.main(dataclasses.replace(config, name="whole"))
    train_until(4, dataclasses.replace(config, name="parts"))
    parts = train.main(train.parse(["--resume", "runs/parts"]))
    assert (parts / "rollout.gif").exists()
    ours, theirs = (state_of(path)["model"] for path in (parts, whole))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_too_little_memory_names_the_settings_that_need_less() -> None:
    device = torch.device("cuda")
    needs = r"GiB were in use on cuda, .* --accumulate 2 "
    with pytest.raises(MemoryError, match=needs), train.explain_out_of_memory(device, 4, 1):
        torch.empty(2**50, device=device)
