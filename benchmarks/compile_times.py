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


class TextbookLayer(torch.nn.Module):
    """The textbook with the parameters of a ConvLSTM layer of ours."""

    def __init__(self, layer: ConvLSTM):
        super().__init__()
        ih, hh, bias = (p.detach() for p in layer.parameters())
        self.weight = torch.nn.Parameter(torch.cat([ih, hh], dim=1))
        self.bias = torch.nn.Parameter(bias.clone())

    def forward(self, input: Tensor) -> tuple[Tensor]:
        """Return the outputs, first of a tuple as in our layer."""
        return (textbook_layer(input, self.weight, self.bias),)


def main(lengths: tuple[int, ...] = LENGTHS) -> None:
    """Measure and print a Markdown table."""
    os.environ[VARIABLE] = "fused"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = ConvLSTM(CHANNELS, CHANNELS, 3).to(device)
    modules: dict[str, Callable[[], torch.nn.Module]] = {
        "textbook": lambda: TextbookLayer(layer).to(device),
        "ours": lambda: layer,
    }
    rows = []
    with config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
        for make in modules.values():  # the compiler's own start is not counted
            _compile(make(), 1, device)
        for name, make in modules.items():
            for T in lengths:
                seconds, graphs, breaks = _compile(make(), T, device)
                rows.append([name, str(T), f"{seconds:.1f}", str(graphs), str(breaks)])
    columns = ["layer", "T", "compile time, forward and backward, s", "graphs", "graph breaks"]
    print(f"{timing.machine_name(device)}, torch {torch.__version__}\n\n{timing.markdown(columns, rows)}")


def _compile(module: torch.nn.Module, T: int, device: torch.device) -> tuple[float, int, int]:
    """Return the seconds, the number of graphs and of graph breaks."""
    torch._dynamo.reset()
    counters.clear()
    compiled: Any = torch.compile(module, dynamic=False)
    input = torch.randn(T, 2, CHANNELS, SIZE, SIZE, device=device)

    def run() -> float:
        start = timing.now(device)
        compiled(input)[0].sum().backward()
        return timing.now(device) - start

    seconds = run() - run()
    return seconds, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


if __name__ == "__main__":
    main()
