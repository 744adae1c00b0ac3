"""What the benchmarks share: interleaved timing, agreement of results, peak memory, Markdown."""

import argparse
import contextlib
import ctypes
import gc
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Job = Callable[[], object]
ROOT = Path(__file__).parents[1]  # of the pages that `write_measured` writes
WARM_UP = 2  # rounds that are not counted: compilers, caches and allocators settle in them


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def interleave(jobs: Mapping[str, Job], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each job in each round; a round runs every job once.

    Whatever disturbs the machine for a while then disturbs all jobs, and ratios stand.

    Args:
        jobs: Jobs by name.
        rounds: Number of rounds that are counted.
        device: Device that the jobs run on.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(WARM_UP + rounds):
        for name, job in jobs.items():
            start = now(device)
            job()
            if number >= WARM_UP:
                seconds[name].append(now(device) - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each job's seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def graph_pool(device: torch.device) -> Any:
    """Return a memory pool for CUDA graphs whose results are not read; None on other devices."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


def graphed(job: Job, device: torch.device, pool: Any = None) -> Job:
    """Return a replay of the job as a CUDA graph, which takes no time to launch kernels from Python.

    Args:
        job: Job to replay. Its result is lost.
        device: Device that it runs on. On devices other than CUDA the job itself is returned.
        pool: Memory of `graph_pool`. Default: None, a pool of its own.
    """
    if device.type != "cuda":
        return job
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # libraries set themselves up in calls that cannot be captured
        for _ in range(WARM_UP):
            job()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        job()
    return graph.replay


def relative_errors(tensors: Iterable[Tensor], truth: Iterable[Tensor]) -> list[float]:
    """Return the relative root mean square error |a - b| / |b| of each tensor, NaN if a value is not finite.

    Raises:
        ValueError: if the tensors differ in number or shape.
    """
    errors = []
    for n, (a, b) in enumerate(zip(tensors, truth, strict=True)):
        if a.shape != b.shape:
            raise ValueError(f"tensor {n} has shape {tuple(a.shape)}; it needs {tuple(b.shape)}")
        a, b = a.detach().double(), b.detach().double()
        errors.append(((a - b).norm() / b.norm().clamp_min(torch.finfo(b.dtype).tiny)).item())
    return errors


def disagreement(tensors: Iterable[Tensor], truth: Iterable[Tensor], tolerance: float) -> str | None:
    """Return what is wrong with a contender's results, or None if all are within the tolerance."""
    try:
        errors = relative_errors(tensors, truth)
    except ValueError as error:
        return str(error)
    # Written so that NaN is above every tolerance.
    far = [f"tensor {n} is off by {error:.1e}" for n, error in enumerate(errors) if not error <= tolerance]
    return f"{', '.join(far)}; at most {tolerance:.0e} is allowed" if far else None


@contextlib.contextmanager
def exact_convolutions():
    """Compute float32 convolutions in float32 on GPUs too, where torch's default is TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def peak_memory(job: Job, device: torch.device) -> int | None:
    """Return the peak memory of a job in bytes, above what was held before it.

    On CUDA it is what torch allocates; elsewhere the process's resident memory, or None without Linux. The
    job runs twice, first to compile and to set libraries up.
    """
    job()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        job()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # Give back what the first run freed, which would count as held before.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        job()
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return 1024 * int(found[1])


def header(device: torch.device, rounds: int) -> dict[str, Any]:
    """Return the conditions of a measurement, for a table's first lines and for JSON."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": rounds,
        "warm_up_rounds": WARM_UP,
    }


def format_header(values: Mapping[str, Any]) -> str:
    """Return the header as one paragraph."""
    return (
        f"{values['machine']}, {values['threads']} threads, torch {values['torch']}; medians of "
        f"{values['rounds']} rounds that run every job once.\n"
    )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def add_write(parser: argparse.ArgumentParser) -> None:
    """Add the option `--write` to a script that calls `write_measured` where it is given."""
    parser.add_argument("--write", action="store_true", help="write into the pages of the documentation")


def write_measured(name: str, text: str, *commands: str, show_commands: bool = True) -> None:
    """Write what was measured into the page that shows it: README.md, or one in docs/.

    It stands between the page's lines `<!-- measured: NAME -->` and `<!-- end of NAME -->`.

    Args:
        name: What the lines call it.
        text: Tables, and under which conditions they were measured.
        commands: Commands that measure it. Default: that of this process.
        show_commands: Show them below the text.
    """
    page, before, _, after = _find_measured(name)
    lines = commands or (shlex.join(["python", *sys.argv]),)
    text = "\n".join([text.strip(), *(["", "```sh", *lines, "```"] if show_commands else [])])
    page.write_text(f"{before}{text}\n{after}", encoding="utf-8")


def read_measured(name: str) -> str:
    """Return what a page shows of what `write_measured` wrote."""
    return _find_measured(name)[2]


def _find_measured(name: str) -> tuple[Path, str, str, str]:
    """Return the page that shows what was measured, and its text before, there and after."""
    begin, end = f"<!-- measured: {name} -->\n", f"<!-- end of {name} -->\n"
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before, found, rest = page.read_text(encoding="utf-8").partition(begin)
        if found:
            shown, found, after = rest.partition(end)
            if found:
                return page, before + begin, shown, end + after
    raise LookupError(f"no page has the lines {begin.strip()} and {end.strip()}")


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds with three digits."""
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
