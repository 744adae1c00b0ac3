"""Checkpoint files of other projects, read without trust: their kind, their tensors, what is beside."""

import textwrap
import zipfile
from pathlib import Path

from safetensors import safe_open

from convlstm.importers.foreign import Foreign
from convlstm.importers.reading.keras_files import CONFIG, WEIGHTS, read_hdf5, read_keras
from convlstm.importers.reading.state_dicts import MAX_NAME, find_state_dict
from convlstm.importers.reading.torch_files import read_old, read_zip

HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_COMPRESSION = 32
"""How many times larger an entry of an archive may be than its compressed bytes."""


def read_foreign(path: str | Path) -> Foreign:
    """Read a checkpoint file of another project: torch.save's (both formats), safetensors or Keras's.

    The file's content tells its kind, its suffix does not matter. Nothing in it is executed.

    Returns:
        The tensors on the CPU by name, and what the file says beside them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one of another kind.
        ImportError: an HDF5 file, and h5py is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a directory; it needs a checkpoint file")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs a checkpoint file")
    try:
        found = _read(path)
        for name in found.tensors:
            if len(name) > MAX_NAME or not name.isprintable():
                raise ValueError(f"a tensor in it has the name {name[:40]!r}, too long or not printable")
        return found
    except ImportError:
        raise
    except Exception as error:  # torch, pickle, zipfile and safetensors have an error each for damage
        reason = textwrap.shorten(str(error).partition("\n")[0], 400)
        if type(error) is not ValueError:
            reason = f"it is damaged ({type(error).__name__}{': ' * bool(reason)}{reason})"
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _read(path: Path) -> Foreign:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError("it is empty")
    if start.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    if start.startswith(HDF5):
        return read_hdf5(path)
    # Safetensors before pickles: the length of their header can look like a pickle's beginning.
    length, rest = int.from_bytes(start[:8], "little"), path.stat().st_size - 8
    if start[8:9] == b"{" and (length <= rest or not start.startswith(b"\x80")):
        return _read_safetensors(path, length, rest)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return find_state_dict(read_old(path.read_bytes()))
    raise ValueError(_describe(start))


def _read_archive(path: Path) -> Foreign:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError("its zip archive is damaged: it has two entries of one name")
        if sum(entry.compress_size for entry in entries) > path.stat().st_size:
            raise ValueError("its zip archive is damaged: its entries are larger than the file")
        for entry in entries:
            stored = entry.compress_type == zipfile.ZIP_STORED
            if entry.file_size > entry.compress_size * (1 if stored else MAX_COMPRESSION):
                raise ValueError(
                    f"its entry {entry.filename!r:.80} claims {entry.file_size} bytes in "
                    f"{entry.compress_size}; it needs weights that are stored as they are"
                )
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) == 1:
            return find_state_dict(read_zip(archive, pickles[0].removesuffix("data.pkl")))
        if CONFIG in names and WEIGHTS in names:
            return read_keras(archive)
    first = ", ".join(map(repr, names[:3])) or "nothing"
    raise ValueError(
        f"it is a zip archive of neither torch (one data.pkl) nor Keras ({CONFIG} and {WEIGHTS}): "
        f"it has {first}"
    )


def _read_safetensors(path: Path, length: int, rest: int) -> Foreign:
    if length > rest:
        raise ValueError(f"its safetensors header claims {length} bytes; the file has {rest}")
    with safe_open(path, framework="pt") as file:
        # Copies: what safetensors gives is the file itself, mapped.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return Foreign(tensors)


def _describe(start: bytes) -> str:
    """Say what a file is that holds no weights, by its beginning."""
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-LFS, not the file itself; run git lfs pull where it came from"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, as a download that failed leaves it; download the file itself"
    if start[257:262] == b"ustar":
        return "it is a tar archive, as torch wrote before 0.4 if at all; load and save it again with torch"
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed by gzip; unpack it first"
    return (
        f"it begins with {start[:16]!r}; it needs a file of torch.save, safetensors, or Keras (.keras, .h5)"
    )
