"""Clips decoded once: each as a .npy file beside a JSON file that says what it is, in a cache folder.

A file is known again by its path, its size and its times of change (a folder of frames: by those of all its
files), and by what was done to its frames. Letters: N clips, T time, C channels, H W pixels.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convlstm.clips import fit, is_array, stream_clips
from convlstm.core.files import open_npy, write_atomically, write_json

VERSION = 3  # of the cache's format; clips that were kept in another one are decoded anew
HEADER = 256  # bytes of a .npy file's header, which is written last
WORKERS = min(8, os.cpu_count() or 1)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of the cache, not of the clip that met them
OPEN = 128  # arrays that are kept mapped at a time; each takes a file descriptor


def default_folder() -> Path:
    """Return the user's cache folder for clips: XDG_CACHE_HOME or ~/.cache, and in it convlstm/clips."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convlstm" / "clips"


@dataclass(frozen=True)
class CachedClips:
    """The decoded clips of one file.

    Attributes:
        name: of the file, relative to its folder.
        file: the array.
        shape: (N, T, C, H, W).
        dtype: of the array.
        low: the lowest value in it.
        high: the highest.
    """

    name: str
    file: Path
    shape: tuple[int, int, int, int, int]
    dtype: np.dtype
    low: float
    high: float

    def frames(self, clip: int, times: slice) -> NDArray:
        """Return frames of one clip, (T, C, H, W), as stored."""
        return np.asarray(_mapped(self.file)[clip, times])


_mapped = lru_cache(OPEN)(open_npy)


def decode(
    paths: Mapping[str, Path], folder: Path, settings: Mapping[str, Any], strict: bool = False
) -> tuple[list[CachedClips], dict[str, str]]:
    """Decode what is not in the cache yet, several files at a time, with a progress bar.

    Args:
        paths: the files and folders of frames, by their names.
        folder: the cache; made if it is missing.
        settings: of the frames: size, channels, layout and variable, see `convlstm.clips`.
        strict: whether a file that cannot be read stops the decoding. Default: False.

    Returns:
        What was decoded, in the order of the paths, and for each name of the others why not.

    Raises:
        ValueError: with `strict`, what is wrong with the first file that cannot be read.
        OSError: a cache that cannot be written.
        ImportError: a package is missing that the files need.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"cache is {folder}, which cannot be written ({error.strerror}); it needs a folder of your own"
        ) from error
    found: dict[str, CachedClips] = {}
    unreadable: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        tasks = {pool.submit(_decode, name, path, folder, settings): name for name, path in paths.items()}
        # Where all is in the cache, the bar would come and go within the delay.
        bar = {"leave": False, "unit": "file", "delay": 1, "disable": None}
        try:
            for task in tqdm(as_completed(tasks), "decoding", len(tasks), **bar):
                try:
                    found[tasks[task]] = task.result()
                except (ValueError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise OSError(
                            f"cache is {folder}, where nothing more can be written ({error.strerror}); it "
                            "needs a folder with more room"
                        ) from error
                    if strict:
                        raise
                    unreadable[tasks[task]] = str(error)
        finally:
            pool.shutdown(cancel_futures=True)
    names = [name for name in paths if name in found]
    return [found[name] for name in names], {name: unreadable[name] for name in paths if name in unreadable}


def _decode(name: str, path: Path, folder: Path, settings: Mapping[str, Any]) -> CachedClips:
    files = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
    statuses = [(file.name, file.stat()) for file in files]
    # The inode's time, too: that of the contents can be set to any value.
    state = [[file, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for file, s in statuses]
    known_by = [VERSION, os.path.abspath(path), state, dict(settings)]
    key = hashlib.sha256(json.dumps(known_by).encode()).hexdigest()
    array, notes = folder / f"{key}.npy", folder / f"{key}.json"
    try:
        known, kept = json.loads(notes.read_text()), open_npy(array)
        N, T, C, H, W = kept.shape
        return CachedClips(name, array, (N, T, C, H, W), kept.dtype, known["low"], known["high"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not as it was left: decoded anew
    decoded: list[CachedClips] = []
    write_atomically(array, lambda temporary: decoded.append(_write(name, path, array, temporary, settings)))
    [made] = decoded
    write_json(notes, {"file": str(path), "low": made.low, "high": made.high})
    return made


def _write(name: str, path: Path, array: Path, temporary: Path, settings: Mapping[str, Any]) -> CachedClips:
    """Decode a file into an array (N, T, C, H, W), a stretch of frames at a time."""
    geometry = {key: settings[key] for key in ("size", "channels")}
    axes = (settings["layout"], settings["variable"]) if is_array(path) else ()
    number, stretches = stream_clips(path, *axes)
    count, low, high = 0, np.inf, -np.inf
    C, H, W, dtype = 0, 0, 0, np.dtype(np.uint8)
    with temporary.open("wb") as file:
        file.write(bytes(HEADER))
        for stretch in stretches:
            if stretch.dtype.kind not in "biuf":
                raise ValueError(f"{path} has values of type {stretch.dtype}; it needs real numbers")
            stretch = np.ascontiguousarray(fit(stretch, **geometry))
            if stretch.dtype == np.float64:
                stretch = stretch.astype(np.float32)
            low, high = np.minimum(low, stretch.min()), np.maximum(high, stretch.max())  # nan stays nan
            count, (C, H, W), dtype = count + len(stretch), stretch.shape[1:], stretch.dtype
            file.write(stretch.data)
        if count == 0:
            raise ValueError(f"{path} has no frames; it needs one or more")
        if np.isnan(low):
            raise ValueError(f"{path} has values that are no numbers (nan); it needs some everywhere")
        whole = (number, count // number, C, H, W)
        text = repr({"descr": dtype.str, "fortran_order": False, "shape": whole})
        file.seek(0)
        size = HEADER - 10
        file.write(b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n")
    return CachedClips(name, array, whole, dtype, float(low), float(high))
