"""The docstrings keep their word: examples run, public names have one, and a place in the API reference."""

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convlstm
from convlstm import clips, metrics
from convlstm.core.saving import NETWORKS

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
# Of clips: what `read_clips`, `write_clip` and `ClipSource` are made of.
PARTS = {"check_clip", "is_array", "open_clips", "stream_clips", "two_values", "unit_range"}
PUBLIC = {
    f"{module.__name__.replace('convlstm.evaluation', 'convlstm')}.{name}": getattr(module, name)
    for module in (convlstm, clips, metrics)
    for name in module.__all__
    if name not in ("__version__", "metrics")
}


def modules_with_examples() -> list[Any]:
    """Return the names of the modules in whose files there is an example."""
    files = [path for room in ("convlstm", "datasets") for path in ROOT.joinpath(room).rglob("*.py")]
    files = [path for path in files if ">>> " in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(files)]
    names = [name.removesuffix(".__init__") for name in names]
    # Writing an ONNX file takes seconds.
    slow = {"convlstm.exporters": pytest.mark.slow}
    return [pytest.param(name, marks=slow[name]) if name in slow else name for name in names]


@pytest.mark.usefixtures("in_a_folder_of_its_own")
@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_run(name: str) -> None:
    registered = dict(NETWORKS)
    names = {"convlstm": convlstm, "np": np, "torch": torch, "__name__": "examples"}
    runner = doctest.DocTestRunner(verbose=False)
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder().find(module, globs=names):
        runner.run(test)
    for network in NETWORKS.keys() - registered.keys():  # an example registered them
        del NETWORKS[network]
    assert runner.tries == Path(str(module.__file__)).read_text().count(">>> ")
    assert runner.failures == 0


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - {f"convlstm.clips.{part}" for part in PARTS}))
def test_a_public_name_has_an_example(name: str) -> None:
    # Forecaster shows a network of one's own, as code to copy: the tests of saving run it.
    assert re.search(r"^ +(>>> |import convlstm)", str(PUBLIC[name].__doc__), re.MULTILINE)


def test_every_public_name_is_in_the_api_reference_once_and_in_its_table() -> None:
    pages = "".join(page.read_text() for page in sorted(API.glob("*.md")))
    shown = re.findall(r"^\.\. auto(?:class|function):: (\S+?)(?:\(\))?$", pages, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert PUBLIC.keys() <= set(shown)
    names = re.findall(r"^   (\w[\w.]*)$", (API / "index.md").read_text(), re.MULTILINE)
    table = [f"convlstm.{name}" for name in names]
    assert len(table) == len(set(table))
    assert PUBLIC.keys() <= set(table) <= set(shown)
