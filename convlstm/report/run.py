"""What a report shows of the run that a checkpoint came from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convlstm.checkpoint import read_config

__all__ = ["Run", "read_run"]

METRICS = "metrics.jsonl"


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
    metrics = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            raise ValueError(
                f"{path}, line {number}, is damaged; it needs a JSON object with a whole number under "
                '"step": mend the line or remove it'
            )
        metrics.append(values)
    return Run(config, metrics)
