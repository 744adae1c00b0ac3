"""How long torch.compile takes for a ConvLSTM layer, forward and backward, over 40 frames.

    python benchmarks/compile_times.py

The textbook's loop over time is unrolled; the library's layer is one op. No cache of compiled code is used.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor import config

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
from benchmarks import timing
from benchmarks.contenders import textbook_layer
from convlstm import ConvLSTM
from convlstm.ops.choice import VARIABLE

FRAMES = 40
CHANNELS, SIZE = 8, 8  # the compiler's time does not depend on them


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    timing.add_write(parser)
    options = parser.parse_args()
    os.environ[VARIABLE] = "fused"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = ConvLSTM(CHANNELS, CHANNELS, 3).to(device)
    ih, hh, bias = layer.parameters()
    weight = torch.cat([ih, hh], dim=1).detach().requires_grad_()
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "textbook": lambda input: textbook_layer(input, weight, bias),
        "ours": lambda input: layer(input)[0],
    }
    with config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
        for function in functions.values():  # the compiler's own start is not counted
            _compile(function, 1, device)
        rows = [[name, f"{_compile(function, FRAMES, device):.2g}"] for name, function in functions.items()]
    note = f"{timing.machine_name(device)}, torch {torch.__version__}, {FRAMES} frames"
    found = f"{timing.markdown(['layer', 'seconds'], rows)}\n{note}\n"
    print(found)
    if options.write:
        timing.write_measured("compile-times", found)


def _compile(function: Callable[[Tensor], Tensor], T: int, device: torch.device) -> float:
    """Return the seconds that torch.compile takes."""
    torch._dynamo.reset()
    compiled: Any = torch.compile(function, dynamic=False)
    input = torch.randn(T, 2, CHANNELS, SIZE, SIZE, device=device)

    def run() -> float:
        start = timing.now(device)
        compiled(input).sum().backward()
        return timing.now(device) - start

    return run() - run()


if __name__ == "__main__":
    main()
