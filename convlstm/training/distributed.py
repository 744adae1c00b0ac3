"""Data-parallel training: one process, or those that torchrun started, which share every step.

A run is the same for any number of processes: a step's sequences follow from its number, each goes to one
process, and the gradient is that of the whole batch. Only process 0 writes files and prints.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from convlstm.training.hardware import choose_device
from convlstm.training.stopping import Stopped

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)  # of an exchange between the processes
PREPARATION_TIMEOUT = timedelta(days=7)  # of what process 0 does alone, such as decoding videos


class Distributed:
    """The processes of a run, seen from one of them.

    Args:
        rank: number of this process, 0 to size - 1. Default: 0.
        size: number of processes. Default: 1.
        store: key-value store of the process group. Default: None, for a single process.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None):
        self.rank, self.size = rank, size
        self._store, self._sections = store, 0
        self._averaging: DistributedDataParallel | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which writes files and prints."""
        return self.rank == 0

    def print(self, text: str) -> None:
        """Print from process 0 alone, above a progress bar if there is one."""
        if self.is_first:
            tqdm.write(text)
            sys.stdout.flush()  # a log file shows it at once, too

    def device(self, name: str) -> torch.device:
        """Return the device of this process, see `choose_device`; several processes take one GPU each.

        Raises:
            ValueError: a device that is missing or cannot be shared.
        """
        device = choose_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise ValueError(
                f"device is {name!r}, which {self.size} processes cannot share; it needs cuda (one GPU each) "
                "or cpu"
            )
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
        return device

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Raise ValueError unless each part of a batch has at least one sequence."""
        if batch_size < accumulate * self.size:
            processes = f" on {self.size} processes" if self.size > 1 else ""
            raise ValueError(
                f"batch_size is {batch_size}, with accumulate {accumulate}{processes}; it needs "
                f"{accumulate * self.size} or more, a sequence for each part"
            )

    def split(self, step: int, batch_size: int, accumulate: int) -> list[Tensor]:
        """Return the numbers of this process's sequences of a step, in `accumulate` parts."""
        batch = torch.arange(step * batch_size, (step + 1) * batch_size)
        return list(batch.tensor_split(self.size)[self.rank].tensor_split(accumulate))

    def wrap(self, model: nn.Module, device: torch.device, compile: bool) -> nn.Module:
        """Return the network to train with, which averages gradients over the processes."""
        if self.size > 1:
            devices = [device.index] if device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
            self._averaging = model
        return torch.compile(model, dynamic=False) if compile else model  # pyright: ignore[reportReturnType]

    def average_gradients(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Average the gradients over the processes in the backward pass of a step's last part only."""
        return contextlib.nullcontext() if self._averaging is None or last else self._averaging.no_sync()

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over all processes, the same numbers in all of them."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def gather(self, value: T) -> list[T]:
        """Return the value of each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run a block in process 0 first, so that the others find what it leaves on the disk."""
        self._sections += 1
        done, failed = f"done {self._sections}", f"failed {self._sections}"
        if self.size > 1 and not self.is_first:
            self._store.wait([done], PREPARATION_TIMEOUT)
            if self._store.check([failed]):
                raise SystemExit(1)  # process 0 prints the reason
        try:
            yield
        except BaseException:
            self._announce(failed)
            raise
        finally:
            self._announce(done)

    def _announce(self, key: str) -> None:
        if self.size > 1 and self.is_first:
            with contextlib.suppress(dist.DistError):  # torchrun is gone with its store: all see it
                self._store.set(key, "")

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in process 0, which alone calls it."""
        box: list[Any] = [None]
        with self.first_alone():
            if self.is_first:
                box = [make()]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


@contextlib.contextmanager
def join() -> Iterator[Distributed]:
    """Join the processes that torchrun started; without torchrun, yield a single process.

    Where several fail, only the first to do so raises its error; the others exit silently.

    Raises:
        ConnectionError: the other processes are gone.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        yield Distributed()
        return
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    # Windows has no NCCL: gloo computes for GPUs there, too.
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield Distributed(rank, size, store)
    except (Exception, Stopped) as error:
        if not _is_first_to_fail(store, rank):
            raise SystemExit(128 + error.signal if isinstance(error, Stopped) else 1) from None
        # Gloo raises plain RuntimeErrors: for a connection closed or broken, or a wait that was too long.
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"process {rank} of {size} lost the others: {reason}") from error
        raise
    dist.destroy_process_group()


def _is_first_to_fail(store: Any, rank: int) -> bool:
    try:
        return store.compare_set("failed", "", str(rank)).decode() == str(rank)
    except RuntimeError:  # the store is gone with torchrun, or with process 0 itself
        return rank == 0
