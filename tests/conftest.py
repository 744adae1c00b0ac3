"""Settings of all tests: Keras computes with torch, GPU and long tests run only where they can or should."""

import os

import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
# The tensors of the tests are too small to share out, and threads that wait for each other on a busy machine
# take many times as long as one.
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --long"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
