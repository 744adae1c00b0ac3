"""Networks of other projects, as stages of one class."""

from convlstm.models.imported.network import StagedConfig, StagedNetwork

__all__ = ["StagedConfig", "StagedNetwork"]
