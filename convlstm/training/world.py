"""The processes of a run: one alone, or those that torchrun started, which share out every batch.

Everything is arranged so that the run is the same for any number of them: a step's sequences follow from its
number, each goes to one process, and the gradient is that of the whole batch. Process 0 alone writes files.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from convlstm.evaluation import TRAINING, Evaluation, Predict, Rows, Source, measure, summarize
from convlstm.evaluation.metrics import Contingency
from convlstm.training.hardware import choose_device
from convlstm.training.stopping import Stopped

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)
"""How long a process waits for the others in the middle of a step before it gives up."""
PREPARATION = timedelta(days=7)  # how long for process 0 alone, which may have films to decode


class World:
    """The processes of a run, seen from one of them.

    Args:
        rank: number of this process, 0 to size - 1.
        size: number of processes.
        store: where they leave notes for each other; None for a process alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None):
        self.rank, self.size = rank, size
        self._store, self._notes = store, 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def say(self, text: str, write: Callable[[str], object] = print) -> None:
        """Print, or have `write` do it, from process 0 alone."""
        if self.first:
            write(text)

    def device(self, name: str) -> torch.device:
        """Return the device of this process; several take one GPU each; see `choose_device`.

        Raises:
            ValueError: a device that is not there, or that several would share; LOCAL_RANK is not set.
        """
        device = choose_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise ValueError(
                f"device is {name!r}, which {self.size} processes cannot share; it needs cuda (one GPU each) "
                "or cpu"
            )
        if "LOCAL_RANK" not in os.environ:
            raise ValueError(
                "LOCAL_RANK is not set; it needs the number of the process on its machine; torchrun sets it"
            )
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
        return device

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the network such that the gradients of all processes are averaged; alone, as it is."""
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def shares(self, batch: Tensor, accumulate: int) -> list[Tensor]:
        """Return the parts of a batch (B,) that are this process's, to be read one after the other."""
        return list(batch.tensor_split(self.size)[self.rank].tensor_split(accumulate))

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Raise ValueError unless each part of a batch has a sequence."""
        if batch_size < accumulate * self.size:
            processes = f" on {self.size} processes" if self.size > 1 else ""
            raise ValueError(
                f"batch_size is {batch_size}, with accumulate {accumulate}{processes}; it needs "
                f"{accumulate * self.size} or more, a sequence for each part"
            )

    def averaging(self, replica: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Within, a part's gradients are added up; those of the last part are averaged over the processes."""
        if isinstance(replica, DistributedDataParallel) and not last:
            return replica.no_sync()
        return contextlib.nullcontext()

    def totals(self, *values: float) -> list[float]:
        """Return each value, summed over all processes: the same numbers in all of them."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def gather(self, value: T) -> list[T]:
        """Return what each process has, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Process 0 does what is within before the others: what it leaves on the disk is there for them."""
        self._notes += 1
        key, failed = f"done {self._notes}", f"failed {self._notes}"
        if self.size > 1 and not self.first:
            self._store.wait([key], PREPARATION)
            if self._store.check([failed]):
                raise SystemExit(1)  # the first one says why
        try:
            yield
        except BaseException:
            self._leave_note(failed)
            raise
        finally:
            self._leave_note(key)

    def _leave_note(self, key: str) -> None:
        if self.size > 1 and self.first:
            with contextlib.suppress(dist.DistError):  # torchrun is gone with its store: all see it
                self._store.set(key, "")

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in process 0, which alone calls it."""
        box: list[Any] = [None]
        with self.first_alone():
            if self.first:
                box = [make()]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def score(
        self,
        predictors: Mapping[str, Predict],
        source: Source,
        context: int,
        horizon: int,
        *,
        sequences: int,
        device: torch.device,
        probabilities: Collection[str],
        progress: Callable[[int], object],
        resamples: int = 0,
    ) -> Evaluation:
        """Score predictors, each sequence by one of the processes; the scores are those of one process.

        The first predictor is the model, the others are baselines. Those named in `probabilities` have a
        cross-entropy, too. By default there are no bootstrap resamples, and so no intervals.

        Raises:
            Stopped: `progress` raised it, in any of the processes.
        """
        own = _Share(source, self.rank, self.size, sequences)
        found: dict[str, Rows] | Stopped | None = None
        if len(own):
            try:
                options: dict[str, Any] = {"probabilities": probabilities, "progress": progress}
                found = measure(predictors, own, context, horizon, device=device, **options)
            except Stopped as stop:
                found = stop
        everyones = self.gather(found)
        for theirs in everyones:
            if isinstance(theirs, Stopped):
                raise theirs
        shares = [rows for rows in everyones if isinstance(rows, dict)]
        merged = {name: _merged([rows[name] for rows in shares], self.size) for name in predictors}
        return summarize(merged, context, TRAINING, resamples=resamples)


class _Share:
    """Every so-manieth of the first sequences of a source."""

    def __init__(self, source: Source, rank: int, size: int, sequences: int):
        self._source, self._numbers = source, range(rank, sequences, size)

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, indices: Any, device: Any = "cpu") -> Tensor:
        return self._source.batch([self._numbers[n] for n in indices], device)


def _merged(shares: list[Rows], size: int) -> Rows:
    """Return the rows of all sequences, in their order, from those of each process."""
    n = sum(share.metrics.shape[1] for share in shares)

    def merged(parts: list[Tensor]) -> Tensor:
        whole = parts[0].new_empty(len(parts[0]), n, *parts[0].shape[2:])
        for rank, part in enumerate(parts):
            whole[:, rank::size] = part
        return whole

    counts = Contingency(*(merged(list(kind)) for kind in zip(*(s.counts for s in shares), strict=True)))
    return shares[0]._replace(metrics=merged([share.metrics for share in shares]), counts=counts)


@contextlib.contextmanager
def join() -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    Where several fail, the first of them alone says why: the others exit in silence.

    Raises:
        ConnectionError: the others are gone.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        yield World()
        return
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    # Windows has no NCCL: gloo computes for GPUs there, too.
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size, store)
    except (Exception, Stopped) as error:
        if not _speaks(store, rank):
            raise SystemExit(128 + error.signal if isinstance(error, Stopped) else 1) from None
        # Gloo raises plain RuntimeErrors: for a connection closed or broken, or a wait that was too long.
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"process {rank} of {size} lost the others: {reason}") from error
        raise
    dist.destroy_process_group()


def _speaks(store: Any, rank: int) -> bool:
    """Whether this process is the first to fail."""
    try:
        return store.compare_set("failed", "", str(rank)).decode() == str(rank)
    except RuntimeError:  # the store is gone with torchrun, or with process 0 itself
        return rank == 0
