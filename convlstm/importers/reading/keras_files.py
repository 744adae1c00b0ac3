"""What Keras writes, read through h5py, without Keras: Keras 3's .keras and .weights.h5, Keras 2's .h5."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convlstm.importers.reading.archives import Archive

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"  # in a .keras file
SECONDS = 60  # for a file of no size, where the reader's own limit does not hold; a busy machine is slow
_READER = Path(__file__).with_name("hdf5_reader.py")


@dataclass
class Tree:
    """What a file of Keras holds; the fields are those of content.Content."""

    tensors: dict[str, Tensor]
    wrapper: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    keras_version: str | None = None


def read_keras(archive: Archive) -> Tree:
    """Read a .keras file, a zip of the model's config, what wrote it and its weights as HDF5.

    Raises:
        ValueError: a damaged file.
        ImportError: h5py is not installed.
    """
    config = _json(CONFIG, archive.read(CONFIG))
    metadata = _json(METADATA, archive.read(METADATA)) if METADATA in archive.entries else {}
    tree = read_hdf5(archive.read(WEIGHTS))
    version = metadata.get("keras_version")
    tree.notes["metadata"] = metadata
    tree.config, tree.keras_version = config, version if isinstance(version, str) else None
    return tree


def read_hdf5(source: Path | bytes) -> Tree:
    """Read an HDF5 file, or the content of one: every array in it, and Keras's attributes.

    Arrays are named by their paths; those under Keras 2's "model_weights" by their paths in it. The notes
    hold layer_names and weight_names ({layer: names}), in Keras's order, the backend, and what was dropped,
    where the file has them. A process of its own does the reading, so that a file that makes libhdf5 crash
    or never come back does no harm.

    Raises:
        ValueError: a damaged file, or one with links, storage or types that weights do not need.
        ImportError: h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ImportError(
            'reading files of Keras needs h5py, which is not installed: pip install "convlstm[import]"'
        )
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    settings = {
        "PYTHONPATH": os.pathsep.join(place for place in sys.path if place),
        "HDF5_PLUGIN_PRELOAD": "::",  # no plugins, which a file could ask for
        "HDF5_USE_FILE_LOCKING": "FALSE",  # which fails on read-only disks
        "OPENBLAS_NUM_THREADS": "1",  # threads that numpy would start for nothing
    }
    try:
        # -P: Python does not look for modules beside the script.
        done = subprocess.run(
            [sys.executable, "-P", _READER, *([] if isinstance(source, bytes) else [source])],
            input=source if isinstance(source, bytes) else b"",
            capture_output=True,
            timeout=SECONDS + size / 2**20,
            env=os.environ | settings,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError("its HDF5 is damaged: libhdf5 came to no end of it") from error
    if done.returncode < 0:
        raise ValueError(
            f"its HDF5 is damaged: libhdf5 crashed or came to no end of it (signal {-done.returncode})"
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ValueError(f"its HDF5 could not be read: the process that reads it said {said[-1]}")
    return _tree(done.stdout)


def _tree(output: bytes) -> Tree:
    """Take apart what the reader wrote."""
    start = 8 + int.from_bytes(output[:8], "little")
    header = json.loads(output[8:start])
    if "error" in header:
        raise ValueError(header["error"])
    tensors = {}
    for path, kind, shape in header["arrays"]:
        tensor = torch.empty(shape, dtype=getattr(torch, kind))  # the reader lets numpy's own numbers through
        end = start + math.prod(shape) * tensor.element_size()
        if end > start:
            tensor.reshape(-1).view(torch.uint8).numpy().data[:] = output[start:end]
        tensors[path] = tensor
        start = end
    config = header["model_config"]
    return Tree(
        tensors,
        tuple(header["wrapper"]),
        header["notes"],
        None if config is None else _json("model_config", config),
        header["keras_version"],
    )


def _json(name: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is not a JSON object")
    return value
