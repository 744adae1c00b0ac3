"""Foreign checkpoints: told by their content, and read to the values that torch reads."""

import argparse
import io
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from convlstm.importers.reading.content import read_content
from tests.convlstm.importers.fixtures import CHECKPOINTS
from tests.convlstm.importers.reading.checkpoints import FORMATS, assert_equal, saved

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.float8_e4m3fn,
]  # fmt: skip


class Net(nn.Module):
    """A module of several levels, with what a pickle of modules meets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 3, (3, 5), stride=2, padding=1), nn.BatchNorm2d(3))
        self.rnn = nn.LSTM(4, 2)
        self.tied = self.stem[0]
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("transient", torch.zeros(2), persistent=False)
        self.register_buffer("absent", None)
        self.activation = torch.tanh
        self.sizes = (1, [2, 3], {"a": None})
        self.width = 7
        self.peephole = torch.ones(2, 3) * nn.Parameter(torch.ones(1))  # never registered


def weights() -> dict[str, Tensor]:
    """A state dict of every type and several layouts of tensors."""
    base = torch.randn(4, 5)
    return {
        **{f"types.{dtype}".replace("torch.", ""): (torch.randn(3, 2) * 9).to(dtype) for dtype in DTYPES},
        "transposed": base.T,
        "part": base[1:3, 2:],
        "same": base,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(3)),
    }


@pytest.mark.parametrize("options", FORMATS)
def test_values_are_what_torch_saved(tmp_path: Path, options: dict[str, Any]) -> None:
    state = weights()
    if "_use_new_zipfile_serialization" in options:  # which knows the older types alone
        for dtype in ("uint16", "uint32", "float8_e4m3fn"):
            del state[f"types.{dtype}"]
    path = saved(tmp_path, OrderedDict(state), **options)
    content = read_content(path)
    assert (content.container, content.wrapper, content.path) == ("torch", (), path)
    assert_equal(content, state)
    assert content.tensors["same"].data_ptr() == content.tensors["transposed"].data_ptr()


@pytest.mark.parametrize("options", FORMATS[:2])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "generator"])
def test_wrapped_weights_and_what_stands_beside_them(
    tmp_path: Path, key: str, options: dict[str, Any]
) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    checkpoint = {
        key: model.state_dict(),
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "loss": np.float64(0.125),
        "losses": np.arange(3, dtype=np.float32).reshape(1, 3),
        "best": torch.tensor(0.5),
        "large": torch.zeros(40, 40),
        "args": argparse.Namespace(
            lr=0.1, sizes=(3, 4), name="x", device=torch.device("cpu"), kind=torch.float16
        ),
        "path": Path("a/b"),
        "rng": b"\xff" * 5000,
        (1, 2): {3, 4},
    }
    content = read_content(saved(tmp_path, checkpoint, **options))
    assert content.wrapper == (key,)
    assert_equal(content, dict(model.state_dict()))
    notes = content.notes
    assert [notes[name] for name in ("epoch", "loss", "losses", "best")] == [3, 0.125, [[0.0, 1.0, 2.0]], 0.5]
    assert notes["args"] == {
        "lr": 0.1,
        "sizes": [3, 4],
        "name": "x",
        "device": "cpu",
        "kind": "torch.float16",
    }
    assert notes["optimizer"].keys() == {"param_groups"}
    assert notes["optimizer"]["param_groups"][0]["lr"] == 0.01
    assert notes["optimizer_states"][0].keys() == {"param_groups"}
    assert notes["large"] == "a tensor of size [40, 40]"
    assert notes["rng"] == "5000 bytes"
    assert notes["..."] == [3, 4]
    assert_plain(notes)


def assert_plain(value: Any) -> None:
    assert value is None or type(value) in (str, int, float, bool, list, dict), value
    if isinstance(value, list):
        for item in value:
            assert_plain(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            assert key is None or type(key) in (str, int, float, bool)
            assert_plain(item)


def test_wrappers_in_wrappers_and_dicts_of_state_dicts(tmp_path: Path) -> None:
    one, two = {"weight": torch.ones(2)}, {"weight": torch.zeros(3), "deep": {"bias": torch.ones(1)}}
    content = read_content(saved(tmp_path, {"model": {"state_dict": one, "epoch": 1}, "epoch": 2}))
    assert (content.wrapper, content.notes) == (("model", "state_dict"), {"epoch": 2})
    content = read_content(saved(tmp_path, {"encoder": one, "decoder": two, "epoch": 2}))
    assert (content.wrapper, content.notes) == ((), {"epoch": 2})
    assert_equal(
        content,
        {
            "encoder.weight": one["weight"],
            "decoder.weight": two["weight"],
            "decoder.deep.bias": two["deep"]["bias"],
        },
    )


@pytest.mark.parametrize("options", FORMATS[:2])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules(tmp_path: Path, options: dict[str, Any], wrapped: bool) -> None:
    model = Net()
    content = read_content(saved(tmp_path, {"model": model} if wrapped else model, **options))
    assert content.wrapper == (("model", "module") if wrapped else ("module",))
    assert_equal(content, {**model.state_dict(), "peephole": model.peephole})
    modules = content.modules
    assert modules.keys() == {name for name, _ in model.named_modules(remove_duplicate=False)}
    conv = modules["stem.0"]
    assert conv["class"] == "torch.nn.modules.conv.Conv2d"
    assert (conv["kernel_size"], conv["stride"], conv["padding"], conv["groups"]) == (
        [3, 5],
        [2, 2],
        [1, 1],
        1,
    )
    assert modules[""]["class"].endswith("Net")
    assert (modules[""]["width"], modules[""]["sizes"]) == (7, [1, [2, 3], {"a": None}])
    assert modules[""]["activation"].endswith(".tanh")
    assert modules["rnn"]["hidden_size"] == 2
    assert_plain(modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"a.weight": torch.randn(3, 4).to(dtype), "b": torch.ones(()).to(dtype)}
    path = tmp_path / "model.pth"
    save_file(state, path, {"format": "pt"})
    content = read_content(path)
    assert (content.container, content.wrapper) == ("safetensors", ())
    assert content.notes == {"metadata": {"format": "pt"}}
    assert_equal(content, state)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x8004, 0x580])
def test_a_safetensors_header_whose_length_looks_like_a_pickle(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model"
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    path.write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 1.5))
    assert_equal(read_content(path), {"a": torch.tensor([1.5])})


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an HDF5 file, or of the one in a .keras file, by path; an optimizer's left out."""
    source: Any = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    found = {}
    with h5py.File(source) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return {
        name.removeprefix("model_weights/"): array
        for name, array in found.items()
        if not name.startswith(("optimizer_weights/", "optimizer/"))
    }


def tensors_of(value: Any) -> dict[str, Tensor]:
    """All tensors in a dict of dicts, by their names in the innermost that has them."""
    found = {}
    for key, item in value.items():
        if isinstance(item, Tensor):
            found[key] = item
        elif isinstance(item, dict) and key not in ("optimizer", "optimizer_states"):
            found |= tensors_of(item)
    return found


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: "/".join(path.parts[-3:]))
def test_checkpoints_of_other_projects(path: Path) -> None:
    content = read_content(path)
    assert_plain(content.notes)
    assert_plain(content.modules)
    if content.container in ("keras", "hdf5"):
        expected = {name: torch.from_numpy(np.array(array)) for name, array in arrays_of(path).items()}
        assert (content.config is None) == ("weights" in path.name)
    elif (
        path.name == "best_model.pth"
    ):  # a whole module, of a class that is not here; its state_dict beside it
        expected = torch.load(path.with_name("state_dict_only.pth"), weights_only=True)
        assert content.wrapper == ("module",)
    else:
        expected = tensors_of(torch.load(path, map_location="cpu", weights_only=False))
    assert_equal(content, expected)
