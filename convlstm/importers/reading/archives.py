"""Zip archives that are not trusted: no entry is larger than the file makes plausible."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

LARGEST_DIRECTORY = 16 * 2**20  # bytes: some 100,000 entries
MOST_TIMES_SMALLER = 32  # that an entry may have become by compression
CHUNK = 2**20

# What zipfile raises on damage.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # NotImplementedError too
    ValueError,
    OverflowError,
)


class _Cautious:
    """A file of which the zip's directory is not read whole if it claims to be absurdly large."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_DIRECTORY:
            raise ValueError(f"its directory of {size} bytes is larger than {LARGEST_DIRECTORY}")
        return self.file.read(size)


class Archive:
    """A zip file, open for reading.

    Raises:
        ValueError: a damaged directory, or two entries of one name.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        try:
            self.zip = _attempt(lambda: zipfile.ZipFile(_Cautious(self.file)))  # type: ignore[arg-type]
            entries = self.zip.infolist()
            self.entries = {entry.filename: entry for entry in entries}
            if len(self.entries) < len(entries):
                raise ValueError("its zip archive is damaged: it has two entries of one name")
            if sum(entry.compress_size for entry in entries) > self.file.seek(0, 2):
                raise ValueError("its zip archive is damaged: its entries are larger than the file")
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.zip.close()
        self.file.close()

    def read(self, name: str) -> bytes:
        """Return an entry that is known to be there, whole."""
        entry = self.entries[name]
        content = bytearray(self._plausible(entry))
        self._read_into(entry, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, target: memoryview) -> None:
        """Fill `target` with an entry, which must be of its size."""
        entry = self.entries.get(name)
        if entry is None:
            raise ValueError(f"its zip archive has no entry {name!r:.80}, which its pickle needs")
        if self._plausible(entry) != len(target):
            raise ValueError(f"its entry {name!r:.80} has {entry.file_size} bytes; it needs {len(target)}")
        self._read_into(entry, target)

    def _plausible(self, entry: zipfile.ZipInfo) -> int:
        """Return an entry's size, once it is known to be no zip bomb."""
        most = entry.compress_size * (1 if entry.compress_type == zipfile.ZIP_STORED else MOST_TIMES_SMALLER)
        if entry.file_size > most:
            raise ValueError(
                f"its entry {entry.filename!r:.80} claims {entry.file_size} bytes in {entry.compress_size}; "
                "it needs weights that are stored as they are"
            )
        return entry.file_size

    def _read_into(self, entry: zipfile.ZipInfo, target: memoryview) -> None:
        def read() -> int:
            done = 0
            with self.zip.open(entry) as content:
                while done < len(target):
                    part = content.read(min(CHUNK, len(target) - done))
                    if not part:
                        break
                    target[done : done + len(part)] = part
                    done += len(part)
                content.read(1)  # the end, where the checksum is compared
            return done

        done = _attempt(read)
        if done < len(target):
            raise ValueError(f"its entry {entry.filename!r:.80} ends early: the file is truncated or damaged")


def _attempt(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except _DAMAGE as error:
        raise ValueError(f"its zip archive is damaged: {str(error) or type(error).__name__}") from error
