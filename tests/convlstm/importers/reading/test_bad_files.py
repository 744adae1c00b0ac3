"""Foreign checkpoints that are damaged, hostile or of absurd size: refused, or read without harm."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from convlstm.importers.reading import archives
from convlstm.importers.reading.content import read_content
from tests.convlstm.importers.reading.checkpoints import FORMATS, assert_equal, saved

ROOT = Path(__file__).parents[4]


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
