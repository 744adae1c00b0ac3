"""What a run prints: shown line by line, and no reason to lose a step when nobody reads it any more."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, TextIO


class Outlet:
    """A stream for text whose other end may go: a pipe that `tee` or `head` has left, a closed terminal.

    What is written from then on is dropped, without an error.

    Args:
        stream: where the text goes; a pipe or a file, too, gets every line as it is written.
        lost: called once, when the other end is gone.
    """

    def __init__(self, stream: TextIO, lost: Callable[[], object] = lambda: None):
        self._stream, self._lost = stream, lost

    def write(self, text: str) -> int:
        """Write text; return its length."""
        try:
            self._stream.write(text)
            if "\n" in text:
                self._stream.flush()
        except OSError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Pass on what is held back."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):  # some streams are no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what is held back would fail again as Python ends
            os.close(nowhere)
        self._lost()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
