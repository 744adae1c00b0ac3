"""HDF5 read in the tests' own process where its limits are not what is tested: starting others takes long."""

import pytest

from convlstm.importers.reading import hdf5_reader, keras_files


@pytest.fixture
def hdf5_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_files, "_run_reader", hdf5_reader.answer)
