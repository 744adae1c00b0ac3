"""What Keras writes, read through h5py, without Keras: Keras 3's .keras and .weights.h5, Keras 2's .h5."""

import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convlstm.importers.foreign import Foreign

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"  # in a .keras file
SECONDS = 60  # where the reader's own limit does not hold; a busy machine is slow
_READER = Path(__file__).with_name("hdf5_reader.py")
_SETTINGS = {
    "HDF5_PLUGIN_PRELOAD": "::",  # no plugins, which a file could ask for
    "HDF5_USE_FILE_LOCKING": "FALSE",  # which fails on read-only disks
    "OPENBLAS_NUM_THREADS": "1",  # threads that numpy would start for nothing
}


def read_keras(archive: zipfile.ZipFile) -> Foreign:
    """Read a .keras file, a zip of the model's config, what wrote it and its weights as HDF5."""
    found = read_hdf5(archive.read(WEIGHTS))
    metadata = _json(METADATA, archive.read(METADATA)) if METADATA in archive.namelist() else {}
    version = metadata.get("keras_version")
    return dataclasses.replace(
        found,
        config=_json(CONFIG, archive.read(CONFIG)),
        keras_version=version if isinstance(version, str) else None,
    )


def read_hdf5(source: Path | bytes) -> Foreign:
    """Read an HDF5 file, or the content of one: every array in it, and Keras's attributes.

    Arrays are named by their paths; those under Keras 2's "model_weights" by their paths in it. A process of
    its own reads them, so that a file that makes libhdf5 crash or never come back does no harm.

    Raises:
        ValueError: a damaged file, or one with links, storage or types that weights do not need.
        ImportError: h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ImportError(
            'reading files of Keras needs h5py, which is not installed: pip install "convlstm[import]"'
        )
    content = source if isinstance(source, bytes) else source.read_bytes()
    with np.load(io.BytesIO(_run_reader(content))) as arrays:
        header = json.loads(arrays["header"].tobytes())
        if "error" in header:
            raise ValueError(header["error"])
        tensors = {}
        for number, (name, kind) in enumerate(header["arrays"]):
            tensors[name] = torch.from_numpy(arrays[f"arr_{number}"]).view(getattr(torch, kind))
    if not tensors:
        raise ValueError("it holds no arrays; it needs a model's weights")
    config, version = header["model_config"], header["keras_version"]
    return Foreign(
        tensors,
        notes={name: header[name] for name in ("layer_names", "dropped")},
        config=_json("model_config", config) if isinstance(config, str) else None,
        keras_version=version if isinstance(version, str) else None,
    )


def _run_reader(content: bytes) -> bytes:
    """Return what the process that reads HDF5 answers."""
    places = os.pathsep.join(place for place in sys.path if place)
    try:
        # -P: Python does not look for modules beside the script.
        done = subprocess.run(
            [sys.executable, "-P", _READER],
            input=content,
            capture_output=True,
            timeout=SECONDS + len(content) / 2**20,
            env=os.environ | _SETTINGS | {"PYTHONPATH": places},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError("its HDF5 is damaged: libhdf5 came to no end of it") from error
    if done.returncode < 0:
        raise ValueError(
            f"its HDF5 is damaged: libhdf5 crashed or came to no end of it (signal {-done.returncode})"
        )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ValueError(f"its HDF5 could not be read: the process that reads it said {lines[-1]}")
    return done.stdout


def _json(name: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is not a JSON object")
    return value
