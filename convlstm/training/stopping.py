"""What ends or disturbs a run: signals, numbers that are not finite, too little memory; and its exit code."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TextIO

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.nn.base import ConvCell
from convlstm.training.hardware import memory_peak

# What the plain RuntimeErrors of allocators say: of the CPU, of MPS and of CUDA's own, of cuBLAS and cuDNN.
ALLOCATION_ERRORS = "allocate memory", "out of memory", "ALLOC_FAILED"
UNREAD = getattr(signal, "SIGPIPE", signal.SIGTERM)  # what a run stops by when its output is lost


def handled_signals() -> list[signal.Signals]:
    """Return the signals that stop a run: of a scheduler (some send SIGUSR1), the user, a closed terminal.

    Ignored signals stay ignored: under nohup, which ignores SIGHUP, a run outlives its terminal.
    """
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


class Stopped(BaseException):
    """A run was asked to stop. Like KeyboardInterrupt, it is not an `Exception`.

    Args:
        number: number of the signal.
        text: message for the user. Default: the name of the signal.
    """

    def __init__(self, number: int, text: str | None = None):
        self.signal = signal.Signals(number)
        super().__init__(text or f"stopped by {self.signal.name}")


class Output:
    """A text stream whose reader may go away, such as `tee` or a terminal; the text is then dropped.

    Args:
        stream: the stream, which gets each line as soon as it is written.
        lost: called when the reader is gone.
    """

    def __init__(self, stream: TextIO, lost: Callable[[], object] = lambda: None):
        self._stream, self._lost = stream, lost

    def write(self, text: str) -> int:
        """Write text; return its length."""
        try:
            self._stream.write(text)
        except OSError:
            self._drop()
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())  # or the buffer fails again as Python ends
        self._lost()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Stopping:
    """A context in which signals are noted, so that a run can end its step and save its state.

    A second Ctrl-C ends the process at once. A process whose torchrun has ended stops as if it got a
    SIGTERM, and one whose output nobody reads any more as if it got a SIGPIPE. In a thread that is not the
    main one, signals and output are left alone.

    Args:
        alone: whether this is the only process. Processes of torchrun get each Ctrl-C twice, from the
            terminal and from torchrun, so that for them a second one changes nothing. Default: True.
    """

    signal: int | None = None
    """Number of the signal that arrived, or None."""

    def __init__(self, alone: bool = True):
        self._alone = alone
        self._torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._handlers: dict[int, Any] = {}
        self._streams: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets no other handle signals
            self._handlers = {number: signal.signal(number, self._note) for number in handled_signals()}
            self._streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = (
                stream and Output(stream, self._note_unread) for stream in self._streams
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._streams:
            sys.stdout, sys.stderr = self._streams

    def is_requested(self) -> bool:
        """Return whether a signal arrived or torchrun has ended."""
        if self.signal is None and self._torchrun not in (None, os.getppid()):
            self.signal = signal.SIGTERM
            print("\ntorchrun is gone: ending this step, then saving", file=sys.stderr)
        return self.signal is not None

    def check(self, *_: Any) -> None:
        """Raise `Stopped` if a stop is requested. Arguments are ignored, so that this can be a callback."""
        self.stop_if(self.is_requested())

    def stop_if(self, requested: bool) -> None:
        """Raise `Stopped` if this or another process was asked to stop."""
        if requested:
            raise Stopped(self.signal or signal.SIGTERM)

    def _note(self, number: int, _: object) -> None:
        if self.signal is None:
            self.signal = number
            with contextlib.suppress(RuntimeError):  # it came while something else was being printed there
                print(f"\n{signal.Signals(number).name}: ending this step, then saving", file=sys.stderr)
        if self._alone:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _note_unread(self) -> None:
        self.signal = self.signal or UNREAD


def exit_status(script: str, run: Callable[[], object]) -> int:
    """Run a script; return its exit status.

    The status is 0, 2 after an error, which is printed in one line, or 128 + the number of a signal. A signal
    that the script does not handle itself raises `Stopped`, so that unfinished files are removed. A further
    Ctrl-C ends the process at once.
    """

    def stop(number: int, _: object) -> None:
        for other in handlers:  # what is unfinished is removed before the end
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN)
        raise Stopped(number)

    handlers = {number: signal.signal(number, stop) for number in handled_signals()}
    try:
        run()
    except (ArithmeticError, ValueError, OSError, MemoryError) as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=Output(sys.stderr))
        return 2
    except Stopped as stopped:
        print(f"{script}: {stopped}", file=Output(sys.stderr))
        return 128 + stopped.signal
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def find_nonfinite(model: nn.Module, losses: Iterable[Tensor]) -> tuple[int, str]:
    """Find what first had a value that is not finite: the data, a layer, the loss, or a layer's gradient.

    Args:
        model: the network, with the gradients of the step before they are clipped (clipping by a norm that is
            not finite would spoil the gradients of all layers).
        losses: computes the losses of the step's parts again, one at a time. The reference ops are used,
            layer by layer.

    Returns:
        When it happened in the step, 0 being the earliest, and its name.
    """
    found: list[tuple[int, str]] = []

    def look(time: int, name: str, values: Any) -> None:
        tensors = values if isinstance(values, tuple | list) else (values,)
        if not all(t.isfinite().all() for t in tensors if isinstance(t, Tensor)):
            found.append((time, name))

    def watched(name: str, cell: ConvCell) -> Callable[..., Any]:
        run = cell.sequence

        def sequence(input: Tensor, *arguments: Any, **options: Any) -> Any:
            look(0, "the data", input)  # if nothing before it was wrong
            output = run(input, *arguments, **options)
            look(1, name, output)
            return output

        return sequence

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, ConvCell):  # networks run it over whole sequences, past the hooks
                module.sequence = watched(name, module)
                stack.callback(delattr, module, "sequence")
            elif not any(True for _ in module.children()):

                def watch(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                    look(0, "the data", inputs)
                    look(1, name, output)

                stack.callback(module.register_forward_hook(watch).remove)
        with ops.use_implementation("reference"), torch.no_grad():
            for loss in losses:
                look(2, "the loss", loss)
    if found:
        return found[0]
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    # Gradients go from the last layer to the first.
    return (3, f"the gradient of {bad[-1].rpartition('.')[0]}") if bad else (4, "the sum over all processes")


@contextlib.contextmanager
def explain_out_of_memory(
    device: torch.device, batch_size: int, accumulate: int, processes: int = 1
) -> Iterator[None]:
    """Turn an out-of-memory error into one that says what was used, and which settings need less.

    Args:
        device: device of the run.
        batch_size: sequences per step, over all processes.
        accumulate: parts into which a process splits its sequences of a step.
        processes: number of processes. Default: 1.

    Raises:
        MemoryError: in place of the allocator's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(words in str(error) for words in ALLOCATION_ERRORS):
            raise
        parts = min(2 * accumulate, batch_size // processes)  # a part has a sequence at least
        advice = f"--accumulate {parts} (the same steps in smaller parts), " if parts > accumulate else ""
        raise MemoryError(
            f"out of memory: {memory_peak(device):.1f} GiB were in use on {device}, with batch_size "
            f"{batch_size} and accumulate {accumulate}; to need less, give {advice}--recompute (slower) or a "
            f"smaller --batch-size ({error})"
        ) from error
