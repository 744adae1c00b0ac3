"""What a report shows of the run that a checkpoint came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convlstm.core.files import METRICS, read_metrics
from convlstm.hub.checkpoint import read_config

__all__ = ["Run", "read_run"]


@dataclass(frozen=True)
class Run:
    """How a checkpoint was made, as far as its files tell."""

    config: Mapping[str, Any]
    """config.json of the checkpoint."""
    metrics: Sequence[Mapping[str, Any]] = field(default=())
    """Values by name such as "train/loss", the optimizer step under "step"; empty where none were kept."""


def read_run(directory: str | Path) -> Run:
    """Read config.json and, where there is one as train.py writes it, metrics.jsonl.

    A last line that is cut short, as that of a run that goes on, is left out.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a damaged config.json or line of metrics.jsonl.
    """
    config, path = read_config(directory), Path(directory) / METRICS
    if not path.is_file():
        return Run(config)
    return Run(config, [values for _, values in read_metrics(path)])
