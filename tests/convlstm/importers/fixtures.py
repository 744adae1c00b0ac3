"""Where the checkpoints of other projects lie: beside the checkout, or where CONVLSTM_FIXTURES says."""

import os
from pathlib import Path

import pytest

_PLACES = [Path(__file__).parents[3].parent / "shared" / "fixtures"]
if "CONVLSTM_FIXTURES" in os.environ:
    _PLACES.insert(0, Path(os.environ["CONVLSTM_FIXTURES"]))

FIXTURES: Path | None = next((place for place in _PLACES if place.is_dir()), None)
needs_fixtures = pytest.mark.skipif(FIXTURES is None, reason="needs the checkpoints of other projects")
SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".h5", ".keras")
CHECKPOINTS = (
    sorted(path for path in FIXTURES.rglob("*") if path.suffix in SUFFIXES) if FIXTURES is not None else []
)
