"""Networks of other projects, as stages of one class."""

from convlstm.staged.network import StagedConfig, StagedNetwork

__all__ = ["StagedConfig", "StagedNetwork"]
