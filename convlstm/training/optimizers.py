"""The optimizers that a run can choose from, by name, and the schedules of their learning rate."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convlstm.core.checks import choice

OptimizerName = Literal["adamw", "adam", "muon"]
MOMENTUM = 0.95
# a, b and c of the iteration, by Jordan et al.: they bring small singular values up in the fewest iterations,
# and leave all of them between about 0.7 and 1.15.
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """The Muon optimizer: each step is the momentum of the gradient with singular values of about 1.

    With G the gradient, M its momentum (0 at first) and W the weight, d the weight decay and lr the rate:

        M <- 0.95 M + 0.05 G
        O  = NewtonSchulz(0.95 M + 0.05 G)               about U V^T, where U S V^T is what it is given
        W <- (1 - lr d) W - 0.2 sqrt(max(m, n)) lr O     O: m rows, n columns

        NewtonSchulz(X): X <- X / |X|, the root of the sum of squares; then five times
                         A = X X^T,  X <- 3.4445 X + (-4.7750 A + 2.0315 A A) X

    Directions that few sequences ask for are learned as fast as those that all of them share. A kernel is
    taken as the matrix of its first axis by all others. The root mean square of a step is about 0.2 lr, as
    it mostly is with AdamW, so that both work at the same learning rates.

    torch.optim.Muon computes the same, but for weights of two axes only, and only in bfloat16, which is slow
    on most CPUs.

    Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the factor of the
    rate: Liu et al. 2025, "Muon is Scalable for LLM Training".

    Args:
        parameters: parameters of two axes or more.
        weight_decay: weight decay d, per step. Default: 0.
        bfloat16: whether to compute the Newton-Schulz iteration in bfloat16, which suffices, or in float32.
            Default: False.
    """

    def __init__(self, parameters: Iterable[Tensor], *, weight_decay: float = 0.0, bfloat16: bool = False):
        super().__init__(parameters, {"lr": 1e-3, "weight_decay": weight_decay})
        self._dtype = torch.bfloat16 if bfloat16 else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients."""
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for weight in (p for p in group["params"] if p.grad is not None):
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight.grad)
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                matrix = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
                step = orthogonal(matrix.to(self._dtype)).view(weight.shape)
                weight.mul_(1 - lr * decay).add_(step, alpha=-0.2 * math.sqrt(max(matrix.shape)) * lr)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T, by Newton and Schulz; see `Muon`. Zeros remain zeros."""
    if len(matrix) > matrix.shape[1]:  # the squares are then smaller
        return orthogonal(matrix.T).T.contiguous()
    a, b, c = NEWTON_SCHULZ
    x = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


class MuonAdamW:
    """`Muon` for kernels and matrices, AdamW for all else, at one learning rate.

    AdamW updates the head, whose outputs are pixels, and everything that is not a matrix: biases, peepholes,
    norms. The head is known by its name; the output convolution of an `ImportedNetwork`, a stage like
    others, is updated by Muon.

    Args:
        network: network to train; only parameters that require gradients are updated.
        weight_decay: decoupled weight decay of both, per step. Default: 0.
        bfloat16: whether `Muon` computes in bfloat16. Default: False.

    Attributes:
        parts: "muon" and "adamw"; where one would have no parameters, the other alone.
    """

    def __init__(self, network: nn.Module, *, weight_decay: float = 0.0, bfloat16: bool = False):
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        kernels = [p for name, p in trained if is_kernel(name, p)]
        others = [p for name, p in trained if not is_kernel(name, p)]
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if kernels:
            self.parts["muon"] = Muon(kernels, weight_decay=weight_decay, bfloat16=bfloat16)
        if others:
            self.parts["adamw"] = torch.optim.AdamW(others, weight_decay=weight_decay)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both parts, in which the learning rate is set."""
        return [group for part in self.parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self.parts.values():
            part.zero_grad()

    def step(self) -> None:
        """Update the parameters that have gradients."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part by its name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that `state_dict` returned. Shapes are not compared, as in torch.optim.

        Raises:
            KeyError: it is the state of another optimizer.
            ValueError: it is of another number of parameters.
        """
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def is_kernel(name: str, parameter: Tensor) -> bool:
    """Whether a network's parameter is a kernel or a matrix, neither of its head nor of a peephole."""
    *path, leaf = name.split(".")
    weight = leaf.startswith("weight") and leaf != "weight_ch"
    return weight and parameter.ndim >= 2 and "head" not in path


def make_optimizer(
    name: OptimizerName, network: nn.Module, weight_decay: float = 0.0, bfloat16: bool = False
) -> torch.optim.Optimizer | MuonAdamW:
    """Return an optimizer of the parameters of a network that require gradients.

    Args:
        name: "adamw" (decoupled weight decay), "adam", or "muon" (`MuonAdamW`).
        network: network to train.
        weight_decay: weight decay, per step. Default: 0.
        bfloat16: whether `Muon` computes in bfloat16; the others never do. Default: False.
    """
    if name == "muon":
        return MuonAdamW(network, weight_decay=weight_decay, bfloat16=bfloat16)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    return kind([p for p in network.parameters() if p.requires_grad], weight_decay=weight_decay)


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of the gradient of each layer, as "gradient_norm/LAYER", for the log."""
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter.grad)
    return {f"gradient_norm/{layer}": nn.utils.get_total_norm(g).item() for layer, g in layers.items()}


def set_lr(optimizer: torch.optim.Optimizer | MuonAdamW, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """Return the learning rate at a step as a share of the peak learning rate.

    With s = (step + 1/2) / steps, the middle of the step, and w = warmup:

        cosine      s / w up to w, then (1 + cos(pi (s - w) / (1 - w))) / 2
        one-cycle   from 1/25 to 1 along half a cosine up to w, then as above

    Sources: Loshchilov and Hutter 2017, "SGDR"; Smith and Topin 2018, "Super-Convergence", as in
    torch.optim.lr_scheduler.OneCycleLR, but without its cycle of momentum and down to 0.

    Args:
        step: optimizer steps done, 0 to steps - 1.
        steps: optimizer steps of the whole run.
        schedule: "cosine" or "one-cycle".
        warmup: fraction of the run in which the rate rises, 0 to below 1.

    Raises:
        ValueError: an unknown schedule.
    """
    choice("schedule", schedule, ("cosine", "one-cycle"))
    # The middle of the step: the first is not at rate zero, nor is the last.
    progress = (step + 0.5) / steps
    if progress >= warmup:
        return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    rise = progress / warmup
    return rise if schedule == "cosine" else 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * rise)) / 2
