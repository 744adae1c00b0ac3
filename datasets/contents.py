"""Clips known by what they hold: a hash of all their bytes, noted so that it is not taken at every start."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from convlstm.core.files import write_json


class Contents:
    """Hashes of files and folders of frames, noted in a JSON file by their paths; for several threads.

    A note counts as long as no file's size, time of change or time of its entry is another. One that is
    damaged or lost costs time alone.
    """

    def __init__(self, notes: Path) -> None:
        self._path = notes
        try:
            known = json.loads(notes.read_text())
        except (OSError, ValueError, RecursionError):
            known = None
        self._notes: dict[str, Any] = known if isinstance(known, dict) else {}
        self._changed = False

    def hash_of(self, path: Path) -> str:
        """Return a hash of a file's bytes, or of the names and bytes of the files in a folder.

        Raises:
            OSError: a file that cannot be read.
        """
        files = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
        statuses = [file.stat() for file in files]
        state = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in statuses]
        names = [file.name for file in files] if path.is_dir() else []
        seen = hashlib.sha256(json.dumps([names, state]).encode()).hexdigest()
        place = os.path.abspath(path)
        match self._notes.get(place):
            case [known, str(content)] if known == seen:
                return content
        content = hashlib.sha256(json.dumps(names).encode())
        for file in files:
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
        self._notes[place] = [seen, content.hexdigest()]
        self._changed = True
        return content.hexdigest()

    def save(self) -> None:
        """Write the notes, if there are new ones and there is room for them."""
        if self._changed:
            with contextlib.suppress(OSError):
                write_json(self._path, self._notes)
