"""How long torch.compile takes for a ConvLSTM layer, forward and backward, at two lengths of sequence.

    python benchmarks/compile_times.py

The textbook's loop over time is unrolled; the library's layer is one op. No cache of compiled code is used.
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks import timing
from benchmarks.contenders import textbook_layer
from convlstm import ConvLSTM
from convlstm.ops.choice import VARIABLE

LENGTHS = (10, 40)
CHANNELS, SIZE = 8, 8  # the compiler's time does not depend on them


def main() -> None:
    """Measure and print a Markdown table."""
    os.environ[VARIABLE] = "fused"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = ConvLSTM(CHANNELS, CHANNELS, 3).to(device)
    ih, hh, bias = layer.parameters()
    weight = torch.cat([ih, hh], dim=1).detach().requires_grad_()
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "textbook": lambda input: textbook_layer(input, weight, bias),
        "ours": lambda input: layer(input)[0],
    }
    rows = []
    with config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
        for function in functions.values():  # the compiler's own start is not counted
            _compile(function, 1, device)
        for name, function in functions.items():
            for T in LENGTHS:
                seconds, graphs, breaks = _compile(function, T, device)
                rows.append([name, str(T), f"{seconds:.1f}", str(graphs), str(breaks)])
    columns = ["layer", "T", "compile time, forward and backward, s", "graphs", "graph breaks"]
    print(f"{timing.machine_name(device)}, torch {torch.__version__}\n\n{timing.markdown(columns, rows)}")


def _compile(function: Callable[[Tensor], Tensor], T: int, device: torch.device) -> tuple[float, int, int]:
    """Return the seconds, the number of graphs and of graph breaks."""
    torch._dynamo.reset()
    counters.clear()
    compiled: Any = torch.compile(function, dynamic=False)
    input = torch.randn(T, 2, CHANNELS, SIZE, SIZE, device=device)

    def run() -> float:
        start = timing.now(device)
        compiled(input).sum().backward()
        return timing.now(device) - start

    seconds = run() - run()
    return seconds, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


if __name__ == "__main__":
    main()
