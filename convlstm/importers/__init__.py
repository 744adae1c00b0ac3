"""Weights from other code: one file per foreign format."""

from convlstm.importers.sources import import_checkpoint
from convlstm.importers.torch_rnn import from_torch

__all__ = ["from_torch", "import_checkpoint"]
