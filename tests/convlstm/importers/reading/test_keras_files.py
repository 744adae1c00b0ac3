"""Files of Keras: read as h5py reads them, whatever they hold beside plain arrays refused."""

import importlib.util
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from torch import Tensor

from convlstm.importers.reading import hdf5_reader
from convlstm.importers.reading.files import read_foreign
from tests.convlstm.importers.reading.checkpoints import for_damaged, size_of


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((None, 5, 4, 2)),
            layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, name="first"),
            layers.BatchNormalization(),
            layers.Bidirectional(layers.ConvLSTM2D(2, (2, 3))),
        ]
    )
    network.compile("adam", "mse")
    return network


def assert_weights(tensors: dict[str, Tensor], model: keras.Model) -> None:
    """Compare values, whatever their names: no two of the model's are alike but for zeros."""
    assert len(tensors) == len(model.weights)
    for weight in model.weights:
        value = weight.value.detach()
        assert any(t.shape == value.shape and torch.equal(t, value) for t in tensors.values()), weight.path


@pytest.mark.filterwarnings("ignore")
def test_keras_3_models_and_weights(tmp_path: Path, model: keras.Model) -> None:
    model.save(tmp_path / "a.keras")
    content = read_foreign(tmp_path / "a.keras")
    assert content.keras_version == keras.__version__
    assert content.config is not None
    assert content.config["class_name"] == "Sequential"
    assert_weights(content.tensors, model)
    assert torch.equal(content.tensors["layers/conv_lstm2d/cell/vars/0"], model.weights[0].value.detach())
    assert content.notes["dropped"] == ["optimizer"]

    model.save_weights(tmp_path / "b.weights.h5")
    content = read_foreign(tmp_path / "b.weights.h5")
    assert (content.keras_version, content.config) == (None, None)
    assert "layers/bidirectional/backward_layer/cell/vars/2" in content.tensors
    assert_weights(content.tensors, model)

    model.save(tmp_path / "a.h5")
    os.rename(tmp_path / "a.h5", tmp_path / "a.keras")  # whatever it is called
    content = read_foreign(tmp_path / "a.keras")
    assert content.keras_version == keras.__version__
    assert content.notes["layer_names"] == [layer.name for layer in model.layers]
    assert content.config is not None
    assert_weights(content.tensors, model)


def keras_2(path: Path, wrapped: bool = True) -> dict[str, np.ndarray]:
    """Write a file as Keras 2 does; return its arrays by their paths."""
    generator = np.random.default_rng(0)
    arrays = {}
    with h5py.File(path, "w") as file:
        base = file.create_group("model_weights") if wrapped else file
        if wrapped:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "s"}})
            file["optimizer_weights/Adam/m:0"] = np.ones(3)
        file.attrs["keras_version"] = base.attrs["keras_version"] = b"2.15.0"
        base.attrs["backend"] = "tensorflow"
        layers = ["conv_lstm2d", "dropout", "conv_lstm2d_1"]
        base.attrs["layer_names"] = [name.encode() for name in layers]
        for layer in layers:
            group = base.create_group(layer)
            weights = [] if layer == "dropout" else [f"{layer}/kernel:0", f"{layer}/bias:0"]
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name in weights:
                array = generator.normal(size=(3, 2, 4)).astype(np.float32)
                group[name] = arrays[f"{layer}/{name}"] = array
    return arrays


@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize("wrapped", [True, False])
def test_keras_2_files(tmp_path: Path, wrapped: bool) -> None:
    arrays = keras_2(tmp_path / "a.h5", wrapped)
    content = read_foreign(tmp_path / "a.h5")
    assert content.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        torch.testing.assert_close(content.tensors[name], torch.from_numpy(array), rtol=0, atol=0)
    assert content.keras_version == "2.15.0"
    assert content.notes["layer_names"] == ["conv_lstm2d", "dropout", "conv_lstm2d_1"]
    assert content.notes["dropped"] == (["optimizer_weights"] if wrapped else [])
    assert content.config == ({"class_name": "Sequential", "config": {"name": "s"}} if wrapped else None)


@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}])
def test_types_and_storage(tmp_path: Path, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(7, 9)) * 9
    types = ("f2", "f4", "f8", ">f4", "i1", "i2", "i4", ">i8", "u1", "u2", "u4", "u8", "?")
    arrays = {dtype: np.abs(values).astype(dtype) for dtype in types}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for dtype, array in arrays.items():
            file.create_dataset(f"{dtype}/all", data=array, **options)
            file[f"{dtype}/scalar"] = array[0, 0]
            file[f"{dtype}/empty"] = array[:0]
    tensors = read_foreign(tmp_path / "a.h5").tensors
    for dtype, array in arrays.items():
        for name, expected in (("all", array), ("scalar", array[0, 0]), ("empty", array[:0])):
            actual = tensors[f"{dtype}/{name}"].numpy()
            assert actual.dtype == expected.dtype.newbyteorder("=")
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.filterwarnings("ignore")
def test_half_precision_of_keras(tmp_path: Path) -> None:
    for dtype in ("float16", "bfloat16"):
        layer = keras.layers.Dense(3, dtype=dtype)
        model = keras.Sequential([keras.layers.Input((2,)), layer])
        model.save_weights(tmp_path / "a.weights.h5")
        tensors = read_foreign(tmp_path / "a.weights.h5").tensors
        kernel = tensors["layers/dense/vars/0"]
        assert kernel.dtype == getattr(torch, dtype)
        torch.testing.assert_close(kernel, layer.weights[0].value.detach(), rtol=0, atol=0)


def external_storage(file: h5py.File) -> None:
    file.create_dataset("link", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual_storage(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("link", layout)


def dataset(*shape: Any, **options: Any) -> Callable[[h5py.File], Any]:
    return lambda file: file.create_dataset("link", *shape, **options)


CHUNKS = {"chunks": (1000, 1000), "compression": "gzip"}
REFUSED: list[tuple[Callable[[h5py.File], Any], str]] = [
    (external_storage, "'link' is stored elsewhere"),
    (virtual_storage, "'link' is stored elsewhere"),
    (dataset(data=["a"], dtype=h5py.string_dtype()), "'link' is of type object"),
    (dataset((1,), dtype=h5py.ref_dtype), "'link' is of type object"),
    (dataset(data=np.zeros(3, [("a", "f4"), ("b", "i4")])), "'link' is of type"),
    (dataset(data=np.zeros(3, np.longdouble)), "'link' is of type float128"),
    (dataset(data=h5py.Empty("f4")), "'link' is of type"),
    (dataset((10**9, 10**6), "f4", **CHUNKS), "have 32 times its size"),
    (dataset(data=np.zeros(10**6), compression="gzip"), "have 32 times its size"),
    (lambda file: file.attrs.update(model_config="{"), "its model_config is not JSON"),
    (lambda file: file.attrs.update(model_config="[" * 60_000), "its model_config is not JSON"),
]


@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize(("change", "match"), REFUSED)
def test_what_weights_do_not_need_is_refused(
    tmp_path: Path, change: Callable[[h5py.File], Any], match: str
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)
        change(file)
    with pytest.raises(ValueError, match=f"^{path} cannot be read: .*{match}"):
        read_foreign(path)


@pytest.mark.usefixtures("hdf5_in_this_process")
def test_links_to_elsewhere_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(3)
        file["soft"] = h5py.SoftLink("/x")
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        file["group/again"] = file["group"] if "group" in file else file["/"]  # a cycle
    assert read_foreign(tmp_path / "a.h5").tensors.keys() == {"x"}


@pytest.mark.usefixtures("hdf5_in_this_process")
def test_bad_archives_of_keras_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.keras"
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["x"] = np.ones(3)
    weights = (tmp_path / "w.h5").read_bytes()
    for config, content, match in (
        (b"{", weights, "config.json is not JSON"),
        (b"[]", weights, "config.json is not a JSON object"),
        (b"[" * 10**5, weights, "config.json is not JSON"),
        (b"{}", weights[:-9], "HDF5 is damaged"),
        (b"{}", b"", "HDF5 is damaged"),
        (b"{}", b"x" * 999, "HDF5 is damaged"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", content)
        with pytest.raises(ValueError, match=f"cannot be read: its {match}"):
            read_foreign(path)


@pytest.mark.parametrize("examples", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_read(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "damaged.h5"
    keras_2(path)
    whole = path.read_bytes()
    for end in range(8, len(whole), 97):
        assert b"its HDF5 is damaged" in hdf5_reader.answer(whole[:end])

    def check(tensors: dict[str, Tensor]) -> None:
        assert size_of(tensors) <= 32 * len(whole)

    for_damaged(path, whole, examples, check)


def test_a_file_on_which_libhdf5_never_ends_is_refused(tmp_path: Path) -> None:
    """A text in the heap claims a length that leads into zeros: libhdf5 seeks the next there, for ever."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)
        file.attrs["layer_names"] = np.array(["x"], dtype=object)
    content = bytearray(path.read_bytes())
    first_text = content.find(b"GCOL") + 16
    content[first_text + 9] = 8  # its length: 1 becomes 2049
    path.write_bytes(content)
    with pytest.raises(ValueError, match="libhdf5 crashed or came to no end of it"):
        read_foreign(path)


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras_2(tmp_path / "a.h5")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "convlstm\[import\]"'):
        read_foreign(tmp_path / "a.h5")
