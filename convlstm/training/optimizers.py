"""The optimizers that a run can choose from, by name."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "adam", "muon"]


class MuonAdamW:
    """Muon for the matrices between layers and over time, AdamW for all else, at one learning rate.

    Muon steps along the momentum of the gradient with all its singular values brought to about 1:

        M <- 0.95 M + 0.05 G
        O = NewtonSchulz5(0.95 M + 0.05 G)      about U V^T, where U S V^T is what it is given
        W <- W - 0.2 sqrt(max(rows, columns)) lr O

    so that directions that only a few frames ask for are learnt as fast as the common ones. A convolution's
    kernel is the matrix of output channels by (input channels x its height x its width). The factor gives the
    entries of a step the root mean square that AdamW's have, about 0.2 lr: both take the same rates.

    AdamW has the biases, peepholes and norms, which are no matrices, and the head, whose outputs are pixels.

    Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the factor: Liu et
    al. 2025, "Muon is Scalable for LLM Training", section 2.2. Both parts are torch.optim's.

    Args:
        network: whose parameters that require gradients are trained; they stay where they are in memory.
        weight_decay: decoupled, of both parts.
    """

    def __init__(self, network: nn.Module, weight_decay: float = 0.0):
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._kernels = [p for name, p in trained.items() if _is_hidden(name, p)]
        self._rest = [p for name, p in trained.items() if not _is_hidden(name, p)]
        # torch.optim.Muon takes matrices alone: views of the same numbers.
        self._matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in self._kernels]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if self._rest:
            self._parts["adamw"] = torch.optim.AdamW(self._rest, weight_decay=weight_decay)
        if self._matrices:
            self._parts["muon"] = torch.optim.Muon(
                self._matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of both parts; the learning rate is set in them."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in (*self._kernels, *self._rest):
            parameter.grad = None

    def step(self) -> None:
        """Step along the gradients, where there are any."""
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part in self._parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part by its name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            KeyError, ValueError: it is another network's, or another optimizer's.
        """
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def _is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for a parameter: a matrix or a kernel, not of the head, nor peepholes."""
    leaf = name.rpartition(".")[2]
    matrix = leaf.startswith("weight") and leaf != "weight_ch" and parameter.ndim >= 2
    return matrix and not name.startswith("head.")


def make_optimizer(
    name: OptimizerName, network: nn.Module, weight_decay: float
) -> torch.optim.Optimizer | MuonAdamW:
    """Return the optimizer of a network's parameters that require gradients, its rate yet to be set."""
    if name == "muon":
        return MuonAdamW(network, weight_decay)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    return kind([p for p in network.parameters() if p.requires_grad], weight_decay=weight_decay)
