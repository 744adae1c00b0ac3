"""How far back gradients reach through the networks of the recurrent family.

Letters: B batch, T context frames, C channels, H W pixels.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import train
from convlstm.models.forecaster import Forecaster, build
from convlstm.models.fully_connected import FullyConnectedForecaster, FullyConnectedForecasterConfig
from convlstm.models.stacked import StackedForecaster, StackedForecasterConfig
from convlstm.training.settings import settings_of
from studies.study import Study, run_of

RADII = (0.5, 1.0, 1.5, 2.0)  # spectral radii of the recurrent weights
SMALL = 4  # height and width of the recalled frames, in pixels


def reach(model: nn.Module, clips: Tensor) -> list[float]:
    """Return how strongly the loss of one frame depends on each frame before it.

    The network predicts the last frame of each clip from all others in one step; the loss is the squared
    error of that frame, summed over pixels.

    Args:
        model: A forecaster.
        clips: Clips (B, T + 1, C, H, W).

    Returns:
        T numbers: the norm of the gradient of a clip's loss with respect to its frame 1, 2, ..., T, averaged
        over the clips.
    """
    context, target = clips[:, :-1].clone().requires_grad_(), clips[:, -1]
    loss = (model(context, 1)[:, 0] - target).square().sum()  # no clip's loss depends on another clip
    (gradient,) = torch.autograd.grad(loss, context)  # (B, T, C, H, W)
    return gradient.flatten(2).norm(dim=2).mean(dim=0).tolist()


def measure(study: Study, folder: Path, sequences: int, context: int) -> dict[str, Any]:
    """Return all measurements of gradients, as JSON values.

    Args:
        study: Study whose finished runs are measured.
        folder: Folder of the runs.
        sequences: Number of validation sequences.
        context: Number of frames T before the one that the loss is of.
    """
    found: dict[str, Any] = {"sequences": sequences, "context": context}
    found |= {"trained": {}, "initial": {}}
    for row in study.finished(folder):
        run = run_of(folder, row)
        config = settings_of(train.Config, run)
        clips = train.make_source(config, "val", context + 1).batch(range(sequences))
        torch.manual_seed(config.seed)  # as train.py does
        found["initial"][row.name] = reach(build(config.model), clips)
        found["trained"][row.name] = reach(Forecaster.from_pretrained(run), clips)
        if "radius" not in found:  # of a network of its own, on the same sequences
            found["radius"] = reach_by_radius(study, clips)
    return found


def reach_by_radius(study: Study, clips: Tensor) -> dict[str, list[float]]:
    """Return `reach` of the fully connected RNN, untrained, with recurrent weights of each of `RADII`."""
    configs = (study.settings(row).model for row in study.rows)
    config = next(c for c in configs if isinstance(c, FullyConnectedForecasterConfig) and c.cell == "rnn")
    found = {}
    for radius in RADII:
        torch.manual_seed(0)
        model = FullyConnectedForecaster(config)
        scale_recurrent(model, radius)
        found[str(radius)] = reach(model, clips)
    return found


def scale_recurrent(model: FullyConnectedForecaster, radius: float) -> None:
    """Scale the recurrent weights of each layer so that their largest eigenvalue has this magnitude."""
    with torch.no_grad():
        for name, weight in model.rnn.named_parameters():
            if name.startswith("weight_hh"):
                weight *= radius / torch.linalg.eigvals(weight).abs().max()


def recall(
    cell: Literal["rnn", "lstm", "gru"], convolutional: bool, *, context: int = 20, steps: int = 300
) -> dict[str, Any]:
    """Train a small network to show the first frame again after blank ones, which only memory can do.

    Args:
        cell: Kind of cell, "rnn", "gru" or "lstm".
        convolutional: Whether its gates are convolutions; otherwise the network is fully connected.
        context: Number of frames T, the first one and the blank ones. Default: 20.
        steps: Number of steps of Adam, each on 32 clips. Default: 300.

    Returns:
        "error", the mean squared error per pixel at the end (a constant guess has 0.25), and "initial" and
        "trained", `reach` before and after.
    """
    torch.manual_seed(0)
    size = (SMALL, SMALL)
    model: Forecaster
    if convolutional:
        model = StackedForecaster(
            StackedForecasterConfig(cell=cell, hidden_channels=(16,), kernel_size=3, patch_size=1)
        )
    else:
        model = FullyConnectedForecaster(
            FullyConnectedForecasterConfig(cell=cell, frame_size=size, hidden_size=128, num_layers=1)
        )

    def clips() -> Tensor:
        clips = torch.zeros(32, context + 1, 1, *size)
        clips[:, 0] = clips[:, -1] = torch.randint(0, 2, (32, 1, *size)).float()
        return clips

    initial = reach(model, clips())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    error = torch.zeros(())
    for _ in range(steps):
        batch = clips()
        error = (model(batch[:, :-1], 1)[:, 0] - batch[:, -1]).square().mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {"error": error.item(), "initial": initial, "trained": reach(model, clips())}
