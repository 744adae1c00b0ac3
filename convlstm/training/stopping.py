"""Signals: a run that is asked to stop ends its step, saves its state and exits with the usual code."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from convlstm.training.output import Outlet

__all__ = ["Stopped", "Stopping", "exit_status"]

# Asked for by a scheduler (SIGUSR1 is what several send some time before), by the user, or by a terminal
# that is closed.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK", "SIGHUP")
    if hasattr(signal, name)
]
if "SIGHUP" in signal.Signals.__members__ and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    SIGNALS.remove(signal.SIGHUP)  # under nohup a run outlives its terminal
UNREAD = getattr(signal, "SIGPIPE", signal.SIGTERM)  # what a program ends with that nobody reads


class Stopped(BaseException):
    """A run that ends before its time, because it was asked to.

    It may come at any moment, as KeyboardInterrupt does: who catches every Exception must not catch it.

    Args:
        number: of the signal.
        text: what to tell the user; None (default): which signal it was.
    """

    def __init__(self, number: int, text: str | None = None):
        self.signal = signal.Signals(number)
        super().__init__(text or f"stopped by {self.signal.name}")

    def __reduce__(self) -> tuple[type[Self], tuple[int, str]]:
        return type(self), (self.signal, str(self))  # processes tell each other of it


class Stopping:
    """While it is entered, a signal is noted and the code goes on until it asks with `check`.

    A second Ctrl-C ends the process at once. Output that nobody reads any more, as where `tee` got the same
    Ctrl-C, is no error: it asks the run to stop, too. Where torchrun is gone, killed or ended by a signal
    that it does not handle (SIGUSR1 is one), that is taken for a SIGTERM: nobody is left to pass one on.

    Args:
        alone: whether this process has no others beside it: those that torchrun started get a Ctrl-C twice,
            from the terminal and from torchrun, and the second means nothing then.
    """

    signal: int | None = None
    """Number of the signal that came, or None."""

    def __init__(self, alone: bool = True):
        self._alone = alone
        self._torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._before: dict[int, Any] = {}
        self._streams: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows it to no other
            self._streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = (stream and Outlet(stream, self._unread) for stream in self._streams)
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._streams:
            sys.stdout, sys.stderr = self._streams

    def asked(self) -> bool:
        """Whether a signal came, or torchrun is gone."""
        if self.signal is None and self._torchrun not in (None, os.getppid()):
            self.signal = signal.SIGTERM
            print("\ntorchrun is gone: ending this step, then saving", file=sys.stderr)
        return self.signal is not None

    def check(self, *_: Any) -> None:
        """Raise `Stopped` if it is asked for; takes and ignores what a progress callback is given."""
        self.stop_if(self.asked())

    def stop_if(self, asked: bool) -> None:
        """Raise `Stopped` if this or another process was asked to."""
        if asked:
            raise Stopped(self.signal or signal.SIGTERM)

    def _note(self, number: int, _: object) -> None:
        if self.signal is None:
            self.signal = number
            with contextlib.suppress(RuntimeError):  # it came while something else was being printed there
                print(f"\n{signal.Signals(number).name}: ending this step, then saving", file=sys.stderr)
        if self._alone:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _unread(self) -> None:
        self.signal = self.signal or UNREAD


def exit_status(script: str, run: Callable[[], object]) -> int:
    """Run a script; return 0, 2 after one line on stderr for what was wrong, or 128 + a signal's number.

    Signals that the script does not handle itself end it as an error does, so that nothing unfinished is
    left behind; a Ctrl-C after that ends it at once.
    """

    def leave(number: int, _: object) -> None:
        for another in SIGNALS:  # what is unfinished is removed before the end
            signal.signal(another, signal.SIG_DFL if another == signal.SIGINT else signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        run()
    except (ArithmeticError, ValueError, OSError, MemoryError) as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=Outlet(sys.stderr))
        return 2
    except Stopped as stop:
        print(f"{script}: {stop}", file=Outlet(sys.stderr))
        return 128 + stop.signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0
