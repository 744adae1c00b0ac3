"""Checkpoints as torch saves them, or around any pickle, and what is read of them beside what was saved."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convlstm.importers.reading.files import read_foreign
from convlstm.importers.reading.torch_files import MAGIC

OLD = {"_use_new_zipfile_serialization": False}
FORMATS: list[dict[str, Any]] = [{}, OLD, {"pickle_protocol": 4}, {"pickle_protocol": 5, **OLD}]
"""How torch.save writes a file."""


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def around(data: bytes, storage: bytes = bytes(48)) -> tuple[bytes, bytes]:
    """A zip archive and a file of the old format with this pickle, and one storage of 4-byte elements."""
    new = zipped({"archive/data.pkl": data, "archive/version": b"3\n", "archive/data/0": storage})
    ends = [int.from_bytes(MAGIC, "little"), 1001, {"little_endian": True}, ["0"]]
    magic, protocol, system, keys = (pickle.dumps(end, 2) for end in ends)
    count = (len(storage) // 4).to_bytes(8, "little")
    return new, b"".join((magic, protocol, system, data, keys, count, storage))


def assert_equal(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        actual = tensors[name]
        assert (actual.dtype, actual.stride()) == (tensor.dtype, tensor.stride())
        assert not actual.requires_grad
        as_bytes = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (actual, tensor))
        torch.testing.assert_close(*as_bytes, rtol=0, atol=0)


def for_damaged(path: Path, whole: bytes, examples: int, check: Callable[[dict[str, Tensor]], None]) -> None:
    """Write a file in which bytes are others, often; check the tensors in it where it is not refused."""

    @given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=3))
    @settings(deadline=None, max_examples=examples, derandomize=True)
    def read(changes: list[tuple[int, int]]) -> None:
        damaged = bytearray(whole)
        for place, value in changes:
            damaged[place % len(damaged)] = value
        path.write_bytes(damaged)
        try:
            tensors = read_foreign(path).tensors
        except ValueError:
            return
        check(tensors)

    read()


def size_of(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
