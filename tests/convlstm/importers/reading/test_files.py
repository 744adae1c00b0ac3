"""Foreign checkpoint files: their kind told by their content, their weights found, damaged ones refused."""

import argparse
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from convlstm.importers.reading.files import read_foreign
from convlstm.importers.reading.state_dicts import entries
from tests.convlstm.importers.reading.checkpoints import (
    OLD,
    assert_equal,
    for_damaged,
    size_of,
    torch_bytes,
    zipped,
)


def saved(tmp_path: Path, value: Any, **options: Any) -> Path:
    path = tmp_path / "checkpoint.bin"
    torch.save(value, path, **options)
    return path


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
        self.peephole = torch.ones(2, 3) * nn.Parameter(torch.ones(1))  # never registered


@pytest.mark.parametrize("options", [{}, OLD])
@pytest.mark.parametrize("key", ["state_dict", "net"])
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
        "losses": np.arange(3, dtype=np.float32),
        "best": torch.tensor(0.5),
        "callbacks": {"best_model_score": torch.tensor(0.5)},
        "args": argparse.Namespace(lr=0.1, sizes=(3, 4), kind=torch.float16),
        "path": Path("a/b"),
        (1, 2): {3, 4},
    }
    found = read_foreign(saved(tmp_path, checkpoint, **options))
    assert_equal(found.tensors, dict(model.state_dict()))
    assert found.notes["epoch"] == 3
    args = entries(found.notes["args"])
    assert args is not None
    assert (args["lr"], args["sizes"]) == (0.1, (3, 4))


def test_wrappers_in_wrappers_and_dicts_of_state_dicts(tmp_path: Path) -> None:
    one, two = {"weight": torch.ones(2)}, {"weight": torch.zeros(3), "deep": {"bias": torch.ones(1)}}
    found = read_foreign(saved(tmp_path, {"model": {"state_dict": one, "epoch": 1}, "rate": 2}))
    assert found.tensors.keys() == {"weight"}
    assert (found.notes["epoch"], found.notes["rate"]) == (1, 2)
    for names in (("encoder", "decoder"), ("model", "ema")):  # of several models, a prefix says which
        found = read_foreign(saved(tmp_path, {names[0]: one, names[1]: two, "epoch": 2}))
        expected = {f"{names[0]}.weight": one["weight"], f"{names[1]}.weight": two["weight"]}
        assert_equal(found.tensors, expected | {f"{names[1]}.deep.bias": torch.ones(1)})


@pytest.mark.parametrize("options", [{}, OLD])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules(tmp_path: Path, options: dict[str, Any], wrapped: bool) -> None:
    model = Net()
    found = read_foreign(saved(tmp_path, {"model": model} if wrapped else model, **options))
    assert_equal(found.tensors, {**model.state_dict(), "peephole": model.peephole})
    modules = found.modules
    assert modules.keys() == {name for name, _ in model.named_modules(remove_duplicate=False)}
    conv = modules["stem.0"]
    assert conv["class"] == "torch.nn.modules.conv.Conv2d"
    assert (conv["kernel_size"], conv["stride"], conv["padding"]) == ((3, 5), (2, 2), (1, 1))
    assert modules[""]["class"].endswith("Net")
    assert modules["rnn"]["hidden_size"] == 2


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        state = {"a.weight": torch.randn(3, 4).to(dtype), "b": torch.ones(()).to(dtype)}
        save_file(state, path, {"format": "pt"})
        assert_equal(read_foreign(path).tensors, state)
    for length in (0x280, 0x380, 0x8004, 0x580):  # of a header, which looks like the beginning of a pickle
        header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
        path.write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 1.5))
        assert_equal(read_foreign(path).tensors, {"a": torch.tensor([1.5])})


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
    "no end": (torch_bytes({"a": torch.ones(2)})[:-40], "it is damaged .BadZipFile"),
    "no storage": (rezipped(lambda entries: entries.pop("archive/data/0")), "storage '0' is missing"),
    "short storage": (rezipped(set_to("data/0", b"1234")), "storage '0' is missing or damaged: .* 256 bytes"),
    "long storage": (rezipped(set_to("data/0", b"1234" * 65)), "it needs 256 bytes"),
    "script": (rezipped(set_to("constants.pkl", b"N.")), "TorchScript"),
    "safetensors": (struct.pack("<Q", 2**40) + b'{"a":', "header claims 1099511627776 bytes"),
    "safetensors_2": (save({"a": torch.ones(3)})[:-4], "it is damaged .SafetensorError"),
    "safetensors_3": (save({"a\x1b[2J": torch.ones(3)}), "not printable"),
    "tensor": (torch_bytes(torch.ones(3)), "it holds a Tensor"),
    "list": (torch_bytes([torch.ones(3)]), "it holds a list"),
    "nothing": (torch_bytes({"epoch": 3}), "no tensors by name"),
    "no name": (torch_bytes({(1, 2): torch.ones(1)}), "no text"),
    "escape": (torch_bytes({"a\x1b[2J": torch.ones(1)}), "not printable"),
    "long name": (torch_bytes({"a" * 1001: torch.ones(1)}), "too long"),
    "twice": (torch_bytes({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}), "two tensors named 'a.b'"),
    "sparse": (torch_bytes({"a": torch.ones(1), "b": torch.eye(3).to_sparse()}), "'b' is a tensor of a kind"),
    "conjugate": (torch_bytes({"a": torch.ones(1, dtype=torch.complex64).conj()}), "conjugate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    path = tmp_path / "file.h5"  # whatever it is called
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} cannot be read: .*{reason}") as error:
        read_foreign(path)
    assert type(error.value) is ValueError
    assert len(str(error.value).splitlines()) == 1


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth is no file"):
        read_foreign(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is a directory"):
        read_foreign(str(tmp_path))


def test_compressed_archives_are_read_unless_they_are_bombs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(rezipped(lambda entries: None, zipfile.ZIP_DEFLATED))
    assert_equal(read_foreign(path).tensors, {"weight": torch.arange(64.0)})
    path.write_bytes(rezipped(set_to("data/0", bytes(10**6)), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="claims 1000000 bytes in"):
        read_foreign(path)


def damage(kind: str) -> bytes:
    state = {"state_dict": {"a": torch.ones(3), "b": torch.ones(2, 2)}, "epoch": 1}
    if kind == "safetensors":
        return save(state["state_dict"])
    if kind == "module":
        return torch_bytes(nn.LSTM(1, 1), **OLD)
    return torch_bytes(state, **(OLD if kind == "old" else {}))


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "module"])
@pytest.mark.parametrize(
    ("step", "examples"), [(29, 40), pytest.param(3, 800, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_damaged_files_are_refused_or_read(tmp_path: Path, kind: str, step: int, examples: int) -> None:
    """A truncated file is refused; one with other bytes is refused, or the same where it has checksums."""
    whole, path = damage(kind), tmp_path / "damaged"
    for end in {*range(0, len(whole), step), len(whole) - 1}:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cannot be read"):
            read_foreign(path)

    def check(tensors: dict[str, Tensor]) -> None:
        assert size_of(tensors) <= len(whole)
        if kind == "zip":
            assert all((tensor == 1).all() for tensor in tensors.values())

    for_damaged(path, whole, examples, check)


def doubled(levels: int, leaf: Any, width: int = 2) -> Any:
    for _ in range(levels):
        leaf = {str(n): leaf for n in range(width)}
    return leaf


def test_what_unfolds_without_end_is_left_alone_or_refused(tmp_path: Path) -> None:
    weights = {"weight": torch.ones(1)}
    for leaf in ([], torch.ones(1)):
        found = read_foreign(saved(tmp_path, {"state_dict": weights, "note": doubled(60, leaf)}))
        assert_equal(found.tensors, weights)
    for levels, width in ((60, 2), (14, 9)):
        with pytest.raises(ValueError, match=r"too deep|absurd"):
            read_foreign(saved(tmp_path, doubled(levels, weights, width)))


def test_memory_stays_within_a_few_times_the_file(tmp_path: Path) -> None:
    """The process may take 3 times the size of a file, and 32 MiB, above what it has already.

    Files of some bytes that claim terabytes end there in the usual error.
    """
    resource = pytest.importorskip("resource")
    state = {f"{n}": torch.full((2**20,), float(n)) for n in range(8)}  # 32 MiB
    for number, options in enumerate(({}, OLD)):
        torch.save(state, tmp_path / f"good_{number}", **options)
    claims = [
        struct.pack("<Q", 2**40) + b'{"a":',
        torch_bytes(state, **OLD)[:500].replace(b"J\x00\x00\x10\x00", b"J\xff\xff\xff\x7f"),  # a numel
        b"PK\x03\x04" + b"\0" * 99 + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 2**32 - 2, 4, 0),
    ]
    assert b"J\xff" in claims[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 128 * 2**20, limits[1]))
    try:
        for path in tmp_path.glob("good_*"):
            assert_equal(read_foreign(path).tensors, state)
        for claim in claims:
            (tmp_path / "bad").write_bytes(claim)
            with pytest.raises(ValueError, match=r"cannot be read: (?!.*MemoryError)"):
                read_foreign(tmp_path / "bad")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
