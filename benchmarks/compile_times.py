"""What torch.compile takes of a ConvLSTM layer, forward and backward, at two lengths of sequence."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config

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


def compile_times(device: torch.device) -> tuple[list[dict[str, Any]], str]:
    """Return the records and a Markdown table; no cache of compiled code is used."""
    os.environ[VARIABLE] = "fused"
    layer = ConvLSTM(CHANNELS, CHANNELS, 3).to(device)
    modules: dict[str, Callable[[], torch.nn.Module]] = {
        "textbook": lambda: TextbookLayer(layer).to(device),
        "ours": lambda: layer,
    }
    with config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")  # as is asked for here
        for make in modules.values():  # what the compiler sets up once is not counted
            _compile(make(), 1, device)
        records = [
            {"layer": name, "T": T} | _compile(make(), T, device)
            for name, make in modules.items()
            for T in LENGTHS
        ]
    rows = [
        [r["layer"], str(r["T"]), f"{r['seconds']:.1f}", str(r["graphs"]), str(r["graph_breaks"])]
        for r in records
    ]
    columns = ["layer", "T", "compile time, forward and backward, s", "graphs", "graph breaks"]
    return records, f"## torch.compile\n\n{timing.markdown(columns, rows)}"


def _compile(module: torch.nn.Module, T: int, device: torch.device) -> dict[str, Any]:
    torch._dynamo.reset()
    counters.clear()
    compiled: Any = torch.compile(module, dynamic=False)
    input = torch.randn(T, 2, CHANNELS, SIZE, SIZE, device=device)

    def run() -> float:
        start = timing.now(device)
        compiled(input)[0].sum().backward()
        return timing.now(device) - start

    first = run()
    return {
        "seconds": first - run(),
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }
