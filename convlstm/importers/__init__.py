"""Weights from other code: one file per foreign format."""

from convlstm.importers.torch_rnn import from_torch

__all__ = ["from_torch"]
