"""Load weights into a network of another shape, and freeze parts of a network."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convlstm.core.checks import shortened
from convlstm.hub.checkpoint import WEIGHTS, load_checkpoint
from convlstm.hub.matching import match

ORIGIN = "init_from"  # in config.json of a run: where its first weights came from


@dataclass(frozen=True)
class Transfer:
    """What `load_weights` did; `print` shows it as a table."""

    loaded: tuple[str, ...]
    """Names of the model's tensors that are now the source's."""
    adapted: Mapping[str, str]
    """Names of the model's tensors that were made from the source's, and how."""
    skipped: Mapping[str, str]
    """Names of the source's tensors that were not used, and why."""
    missing: tuple[str, ...]
    """Names of the model's tensors that kept their own values."""

    def __str__(self) -> str:
        counts = [f"{len(self.loaded)} tensors loaded", f"{len(self.adapted)} adapted"]
        counts += [f"{len(self.skipped)} skipped", f"{len(self.missing)} of the network kept as they were"]
        sections = {
            "loaded": dict.fromkeys(self.loaded, ""),
            "adapted": self.adapted,
            "skipped": self.skipped,
            "kept": dict.fromkeys(self.missing, ""),
        }
        rows = [(word, name, text) for word, texts in sections.items() for name, text in texts.items()]
        width = max((len(name) for _, name, _ in rows), default=0)
        lines = [f"  {word:7}  {name:{width}}  {text}".rstrip() for word, name, text in rows]
        return "\n".join([", ".join(counts), *lines])


def load_weights(
    model: nn.Module,
    source: str | Path | nn.Module | Mapping[str, Tensor],
    *,
    strict: bool = True,
) -> Transfer:
    """Load weights into a model in place, from a network of the same shape or, with strict=False, of another.

    Everything is checked before anything changes. Values are cast to the type of the model's weights.

    A longer context or horizon needs no adaptation: no weight depends on them. Nor does one depend on the
    frame size, except peepholes per pixel.

    With strict=False the tensors that have the same place in both networks are loaded where they fit. Places
    are names, with two exceptions: the cells of a StackedForecaster or of a layer correspond to those of an
    EncoderForecaster's encoder (each reads the cell below it), and a forecaster's cells count from the
    frames. Differences are treated as follows:

    - image channels: what was learned holds on gray clips. The input weights are summed over the source's
      channels and shared evenly by the model's, so that a gray clip in all channels has the same result as
      before; each channel of the head predicts the mean of the source's. From gray to RGB, weights are
      repeated and divided by 3; from RGB to gray they are summed, as in timm (`adapt_input_conv`).
    - more layers on top: the lower ones are loaded. The weights by which the head, and a forecaster's cell,
      read a new layer are zero, so that the model predicts what the source predicts until it learns more
      (Chen et al. 2016, "Net2Net"). Fewer layers: the head is left out, as it is with head="last".
    - the kind of a cell, its hidden channels, kernel, nonlinearity or reset gate: the cell is left out, and
      the head that reads it.
    - the patch size: the first cell's input weights and the head are left out; the head also where `output`,
      `head` or the kind of network differ.
    - the stride before a cell, `residual` or `norm`: the cell's input weights are left out; the head, too,
      where the strides of the shared layers differ.
    - the frame size of fully connected networks: the weights of pixels are left out.
    - biases, peepholes, norms or convolutions between cells that only one of the networks has: left out, or
      kept as they are.

    Args:
        model: a forecaster, layer, cell or any other module, also in torch.compile's wrapper.
        source: the directory of a saved network; a module; or a state dict, whose tensors are matched by
            names and shapes alone: it does not say what its numbers mean, so nothing is adapted.
        strict: refuse a source unless all of its tensors and all of the model's fit as they are (default:
            True).

    Returns:
        Which tensors were loaded, adapted, skipped and kept.

    Raises:
        FileNotFoundError: no saved network in that directory.
        TypeError: model is not a module, or source is of another kind.
        ValueError: with strict, anything that does not fit; else, nothing that fits. Weights that are not
            finite in the type of the model. A damaged checkpoint.

    Example:
        >>> gray = convlstm.StackedForecaster(hidden_channels=(8,))
        >>> color = convlstm.StackedForecaster(hidden_channels=(8,), channels=3)
        >>> convlstm.load_weights(color, gray, strict=False).adapted["cells.0.weight_ih"]
        'repeated for 3 channels, divided by 3'
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it needs a module, such as a forecaster")
    what = f"source {str(source)!r}" if isinstance(source, str | Path) else "source"
    values, adapted, skipped = match(model, _opened(source))
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    loaded = tuple(name for name in values if name not in adapted)
    missing = tuple(name for name in own if name not in values)
    problems = [f"{name} ({text})" for name, text in skipped.items()]
    if not values:
        raise ValueError(
            f"{what} has nothing that fits the model: {shortened(problems, '; ') or 'it is empty'}"
        )
    problems += [f"{name} (only adapted: {text})" for name, text in adapted.items()]
    problems += [f"{name} (not in the source)" for name in missing if name not in skipped]
    if strict and problems:
        raise ValueError(
            f"{what} does not fit the model: {shortened(problems, '; ')}; strict=False loads what fits"
        )
    for name, value in values.items():
        if not value.isfinite().all():
            raise ValueError(f"{what} has values for {name} that are not finite; it needs finite weights")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return Transfer(loaded, adapted, skipped, missing)


def freeze(model: nn.Module, parts: Sequence[str]) -> int:
    """Exclude parts of a model from training; return how many parameters they have.

    Args:
        model: any module.
        parts: names of modules or parameters, such as "cells", "cells.0" or "cells.0.weight_ih".

    Raises:
        ValueError: the model has no such part, or no part is left to train.
    """
    parameters = dict(model.named_parameters())
    known = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))
    frozen: set[str] = set()
    for part in parts:
        found = {name for name in parameters if f"{name}.".startswith(f"{part}.")}
        if not found:
            raise ValueError(f"freeze has {part!r}, which is no part of the network; its parts are {known}")
        frozen |= found
    if frozen and len(frozen) == len(parameters):
        raise ValueError(f"freeze is {' '.join(parts)}, all of the network; leave one to train of {known}")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sum(parameters[name].numel() for name in frozen)


def start_from(model: nn.Module, directory: Path, say: Callable[[str], object] = print) -> dict[str, Any]:
    """Load what fits of a checkpoint, report what was done, return a note for config.json.

    Raises:
        FileNotFoundError: see `load_weights`.
        ValueError: see `load_weights`.
    """
    transfer = load_weights(model, directory, strict=False)
    say(f"weights of {directory}: {transfer}")
    with (directory / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {ORIGIN: {"path": str(directory), "sha256": digest}}


def _opened(source: object) -> nn.Module | Mapping[str, Any]:
    if isinstance(source, str | Path):
        return load_checkpoint(source)
    source = getattr(source, "_orig_mod", source)
    if isinstance(source, nn.Module | Mapping):
        return source
    raise TypeError(
        f"source is a {type(source).__name__}; it needs a checkpoint's directory, a module or a state dict"
    )
