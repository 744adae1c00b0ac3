"""Checkpoints as torch saves them, and what is read of them beside what was saved."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convlstm.importers.reading.content import Content

# How torch.save writes a file.
FORMATS = [
    {},
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5, "_use_new_zipfile_serialization": False},
]


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
