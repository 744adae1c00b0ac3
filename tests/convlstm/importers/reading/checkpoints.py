"""Checkpoints as torch saves them, or around any pickle, and what is read of them beside what was saved."""

import io
import pickle
import zipfile
from typing import Any

import torch
from torch import Tensor

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
