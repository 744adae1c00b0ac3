"""Foreign checkpoints: told by their content, read to the values that torch reads, or refused."""

import argparse
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from convlstm.importers.reading import archives
from convlstm.importers.reading.content import Content, read_content
from tests.convlstm.importers.fixtures import CHECKPOINTS

ROOT = Path(__file__).parents[4]
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.float8_e4m3fn,
]  # fmt: skip
# How torch.save writes a file.
FORMATS = [
    {},
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5, "_use_new_zipfile_serialization": False},
]


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


def saved(tmp_path: Path, value: Any, **options: Any) -> Path:
    path = tmp_path / "checkpoint.bin"
    torch.save(value, path, **options)
    return path


def assert_equal(content: Content, expected: dict[str, Tensor]) -> None:
    assert content.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        actual = content.tensors[name]
        assert (actual.dtype, actual.stride()) == (tensor.dtype, tensor.stride())
        assert not actual.requires_grad
        as_bytes = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (actual, tensor))
        torch.testing.assert_close(*as_bytes, rtol=0, atol=0)


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


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rezipped(change: Callable[[dict[str, bytes]], Any], method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch archive whose entries are changed."""
    with zipfile.ZipFile(io.BytesIO(torch_bytes({"weight": torch.arange(64.0)}))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    return zipped(entries, method)


def set_to(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({f"archive/{name}": content})


BAD = {
    "empty": (b"", "it is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
    "tar": (b"pickle".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 999, "tar archive"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 30, "gzip"),
    "text": (b"hello, this is text", "it begins with b'hello, this is t'"),
    "json": (b'{"weights": [1.5, 2.5]}', "it begins with"),
    "pickle": (pickle.dumps({"weight": [1.0]}), "torch.save did not write"),
    "zip": (zipped({"a.npy": b"1", "b.npy": b"2"}), "neither torch .* nor Keras .*'a.npy', 'b.npy'"),
    "two pickles": (zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "neither torch"),
    "no end": (torch_bytes({"a": torch.ones(2)})[:-40], "zip archive is damaged"),
    "no storage": (rezipped(lambda entries: entries.pop("archive/data/0")), "'archive/data/0' is missing"),
    "short storage": (rezipped(set_to("data/0", b"1234")), "has 4 bytes; its pickle needs 256"),
    "long storage": (rezipped(set_to("data/0", b"1234" * 65)), "has 260 bytes; its pickle needs 256"),
    "big endian": (rezipped(set_to("byteorder", b"big")), "'big' byte order"),
    "script": (rezipped(set_to("constants.pkl", b"N.")), "TorchScript"),
    "safetensors": (struct.pack("<Q", 2**40) + b'{"a":', "header claims 1099511627776 bytes"),
    "safetensors_2": (save({"a": torch.ones(3)})[:-4], "safetensors are damaged"),
    "safetensors_3": (save({"a\x1b[2J": torch.ones(3)}), "not printable"),
    "tensor": (torch_bytes(torch.ones(3)), "a single tensor"),
    "list": (torch_bytes([torch.ones(3)]), "a list"),
    "nothing": (torch_bytes({"epoch": 3}), "no tensors by name"),
    "two models": (
        torch_bytes({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}),
        "models, model, ema",
    ),
    "no name": (torch_bytes({(1, 2): torch.ones(1)}), "no text"),
    "escape": (torch_bytes({"a\x1b[2J": torch.ones(1)}), "not printable"),
    "long name": (torch_bytes({"a" * 1001: torch.ones(1)}), "too long"),
    "twice": (torch_bytes({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}), "two tensors named 'a.b'"),
    "sparse": (torch_bytes({"a": torch.ones(1), "b": torch.eye(3).to_sparse()}), "'b' is a tensor of a kind"),
    "conjugate": (torch_bytes({"a": torch.ones(1, dtype=torch.complex64).conj()}), "conjugate"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("suffix", [".pth", ".h5"])
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, name: str, suffix: str) -> None:
    content, reason = BAD[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} cannot be read: .*{reason}") as error:
        read_content(path)
    assert type(error.value) is ValueError
    assert len(str(error.value).splitlines()) == 1


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth is no file"):
        read_content(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is a directory"):
        read_content(str(tmp_path))


def test_compressed_archives_are_read_unless_they_are_bombs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(rezipped(lambda entries: None, zipfile.ZIP_DEFLATED))
    assert_equal(read_content(path), {"weight": torch.arange(64.0)})
    bomb = torch_bytes({"weight": torch.zeros(10**5)})
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(zipped(entries, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="claims 400000 bytes in"):
        read_content(path)


def test_a_hostile_checkpoint_is_read_without_harm(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = (
        b"cos\nsystem\n(X" + struct.pack("<I", len(f"touch {marker}")) + f"touch {marker}".encode() + b"tR"
    )
    with zipfile.ZipFile(io.BytesIO(torch_bytes({"weight": torch.arange(64.0)}))) as archive:
        harmless = archive.read("archive/data.pkl")
    assert harmless.endswith(b"s.")
    hostile = harmless[:-1] + b"X\x04\x00\x00\x00evil" + command + b"s."
    path = tmp_path / "file"
    path.write_bytes(rezipped(set_to("data.pkl", hostile)))
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()
    content = read_content(path)
    assert not marker.exists()
    assert content.notes == {"evil": {"class": "os.system", "args": [f"touch {marker}"]}}


@pytest.mark.parametrize("options", FORMATS[:2])
def test_every_truncated_file_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = torch_bytes({"state_dict": {"a": torch.randn(3), "b": torch.ones(2, 2)}, "epoch": 1}, **options)
    path = tmp_path / "file"
    for end in {*range(0, len(whole), 7), *range(len(whole) - 60, len(whole))}:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cannot be read"):
            read_content(path)


DAMAGED = {
    "zip": torch_bytes({"state_dict": {"a": torch.ones(3), "b": torch.ones(2, 2)}, "epoch": 1}),
    "row": torch_bytes({"state_dict": {"a": torch.ones(3)}, "e": 1}, _use_new_zipfile_serialization=False),
    "safetensors": save({"a": torch.ones(3), "b": torch.ones(2, 2)}),
    "modules": torch_bytes(nn.LSTM(1, 1), _use_new_zipfile_serialization=False),
}


@given(st.sampled_from(sorted(DAMAGED)), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3))
@settings(deadline=None, max_examples=500, derandomize=True)
def test_damaged_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(DAMAGED[kind])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        content = read_content(path)
    except ValueError:
        pass
    else:
        assert sum(t.numel() * t.element_size() for t in content.tensors.values()) <= len(damaged)
        if kind == "zip":  # whose entries have checksums
            assert all((tensor == 1).all() for tensor in content.tensors.values())


def test_a_directory_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    size = archives.LARGEST_DIRECTORY + 1
    path = tmp_path / "file"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 4, 0)
    path.write_bytes(b"PK\x03\x04" + b"\0" * size + end)
    with pytest.raises(ValueError, match="directory of 16777217 bytes"):
        read_content(path)


def doubled(levels: int, leaf: Any, double: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        leaf = double(leaf)
    return leaf


@pytest.mark.parametrize(
    "value",
    [
        {"weight": torch.ones(1), "note": doubled(60, [], lambda x: [x, x])},
        {"weight": torch.ones(1), "note": doubled(60, (), lambda x: (x, x))},
        {"weight": torch.ones(1), "note": doubled(60, {}, lambda x: {"a": x, "b": x})},
        {
            "state_dict": {"weight": torch.ones(1)},
            "note": doubled(60, torch.ones(1), lambda x: {"a": x, "b": x}),
        },
    ],
)
def test_notes_that_unfold_without_end_are_cut(tmp_path: Path, value: Any) -> None:
    content = read_content(saved(tmp_path, value))
    assert_equal(content, {"weight": torch.ones(1)})


class Bag:
    """An object of many attributes, which a pickle may give to many others."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state


def test_attributes_that_many_objects_share_count_for_each(tmp_path: Path) -> None:
    """Without that count, this takes a thousand million steps."""
    state = dict.fromkeys(map(str, range(20_000)))
    content = read_content(
        saved(tmp_path, {"weight": torch.ones(1), "note": [Bag(state) for _ in range(50_000)]})
    )
    assert content.notes["note"][-1] == "..."


def test_weights_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    for levels, width in ((60, 2), (14, 9)):
        nested = doubled(
            levels, {"w": torch.ones(1)}, lambda x, width=width: {str(n): x for n in range(width)}
        )
        with pytest.raises(ValueError, match=r"too deep|absurd|more than"):
            read_content(saved(tmp_path, nested))


def test_memory_stays_within_twice_the_file(tmp_path: Path) -> None:
    """A process that may take no more than twice the size of a file, and 32 MiB, above what it had at first.

    Files of some bytes that claim terabytes end there in the usual error.
    """
    state = {f"{n}": torch.full((2**20,), float(n)) for n in range(16)}  # 64 MiB
    for number, options in enumerate(FORMATS[:2]):
        torch.save(state, tmp_path / f"good_{number}", **options)
    claims = [
        struct.pack("<Q", 2**40) + b'{"a":',
        b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**45),
        b"PK\x03\x04" + b"\0" * 99 + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 2**32 - 2, 4, 0),
    ]
    for number, claim in enumerate(claims):
        (tmp_path / f"bad_{number}").write_bytes(claim)
    code = """
import pathlib, resource, sys
from convlstm.importers.reading.content import read_content
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 160 * 2**20,) * 2)
for path in pathlib.Path(sys.argv[1]).glob("good_*"):
    content = read_content(path)
    assert all((tensor == int(name)).all() for name, tensor in content.tensors.items())
    del content
for path in pathlib.Path(sys.argv[1]).glob("bad_*"):
    try:
        read_content(path)
    except ValueError:
        continue
    sys.exit(path)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


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
