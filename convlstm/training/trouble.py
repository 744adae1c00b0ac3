"""What goes wrong in a step: numbers that are not finite, memory that does not suffice.

A step whose loss or gradient is not finite is skipped: the weights stay as they are, and the run goes on with
the next sequences. After `PATIENCE` such steps in a row it ends.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.nn.base import ConvCell
from convlstm.training.hardware import memory_peak
from convlstm.training.run import RunDirectory
from convlstm.training.world import World

PATIENCE = 10
"""Steps in a row that may be skipped."""
# What the plain RuntimeErrors of allocators say: of the CPU, of MPS and of CUDA's own, of cuBLAS and cuDNN.
ALLOCATORS = "allocate memory", "out of memory", "ALLOC_FAILED"


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of the gradient of each layer, as "gradient_norm/LAYER", for the log."""
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter.grad)
    return {f"gradient_norm/{layer}": nn.utils.get_total_norm(g).item() for layer, g in layers.items()}


def skip_step(run: RunDirectory, loss: float, world: World, where: Callable[[], tuple[int, str]]) -> str:
    """Count a step that is skipped, and return what to tell the user.

    Args:
        run: whose progress has the number of the step.
        loss: of the step.
        world: the processes.
        where: finds what went wrong in this process; see `where_it_began`.

    Raises:
        ArithmeticError: it was one too many.
    """
    progress = run.progress
    if progress.in_a_row == 0:
        progress.trouble = min(world.gather(where()))[1]
    progress.skipped += 1
    progress.in_a_row += 1
    what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
    if progress.in_a_row >= PATIENCE:
        first = progress.step - progress.in_a_row + 1
        raise ArithmeticError(
            f"{what} at step {progress.step}, and so it was in {PATIENCE} steps in a row; it began at step "
            f"{first} in {progress.trouble}; lower --lr or --clip-norm and begin anew, from the best network "
            f"so far with --init-from {run.path}"
        )
    return f"step {progress.step}: {what}, first in {progress.trouble}; skipped"


def where_it_began(model: nn.Module, parts: Sequence[Callable[[], Tensor]]) -> tuple[int, str]:
    """Find what first had a value that is not finite: a layer, the loss, or the gradient of a layer.

    Args:
        model: the network, with the gradients of the step as they came, not yet clipped: a norm that is not
            finite spoils those of all layers.
        parts: each computes the loss of a part of the step anew; they are run one after the other, as in the
            step, by the reference ops, layer by layer.

    Returns:
        How late in the step it is, and its name.
    """
    if (found := _first_in_forward(model, parts)) is not None:
        return found
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    # Gradients go from the last layer to the first.
    return (3, f"the gradient of {bad[-1].rpartition('.')[0]}") if bad else (4, "the sum over all processes")


def _first_in_forward(model: nn.Module, parts: Sequence[Callable[[], Tensor]]) -> tuple[int, str] | None:
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
            for part in parts:
                look(2, "the loss", part())
    return found[0] if found else None


@contextlib.contextmanager
def explained_memory(
    device: torch.device, batch_size: int, accumulate: int, processes: int = 1
) -> Iterator[None]:
    """Turn an error about memory into one that says what was used, and which settings need less.

    Args:
        device: computed on.
        batch_size: sequences per step, of all processes together.
        accumulate: in how many parts a process computes its share of them.
        processes: how many there are.

    Raises:
        MemoryError: in place of the allocator's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(words in str(error) for words in ALLOCATORS):
            raise
        more = min(2 * accumulate, batch_size // processes)  # a part has a sequence at least
        parts = f"--accumulate {more} (the same steps in smaller parts), " if more > accumulate else ""
        raise MemoryError(
            f"out of memory: {memory_peak(device):.1f} GiB were in use on {device}, with batch_size "
            f"{batch_size} and accumulate {accumulate}; to need less, give {parts}--recompute (slower) or a "
            f"smaller --batch-size ({error})"
        ) from error
