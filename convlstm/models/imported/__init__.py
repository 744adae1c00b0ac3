"""Networks of other projects, as stages of one class."""

from convlstm.models.imported.network import ImportedConfig, ImportedNetwork

__all__ = ["ImportedConfig", "ImportedNetwork"]
