"""Pickles: what they hold is read as pickle reads it, and nothing that they name ever runs."""

import argparse
import collections
import contextlib
import copyreg
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm.importers.reading.inert import Name, StorageRef, Stub, TensorRef, build_tensor
from convlstm.importers.reading.pickles import MOST_STEPS, Unpickling

EXTENSION = 240  # a number that no one has registered with copyreg
PLAIN = {
    "numbers": [0, 1, 255, 256, 65536, -1, -(2**31), 2**40, -(2**70), 1.5, float("inf"), True, False, None],
    "text": ["", "a", "ä\n'\\", "x" * 300, "\U0001f600"],
    "dict": {1: "a", "b": {"c": []}, None: {}, 2.5: [[]]},
}


def read(data: bytes) -> Any:
    return Unpickling(data).read()


def storage(key: str = "0", numel: int = 12, kind: str = "FloatStorage") -> bytes:
    """A reference to a storage, as torch writes it."""
    return b"".join(
        (
            b"(",
            text("storage"),
            b"c",
            f"torch\n{kind}\n".encode(),
            text(key),
            text("cpu"),
            number(numel),
            b"tQ",
        )
    )


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a" + struct.pack("<B", 16) + value.to_bytes(16, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(storage: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A call that makes a tensor, as torch writes it."""
    arguments = b"(" + storage + number(offset) + numbers(*size) + numbers(*stride) + b"\x89Nt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN
    assert read(pickle.dumps(collections.OrderedDict(PLAIN), protocol)) == PLAIN
    for array in (b"\x00\xff" * 3, bytearray(b"ab") if protocol == 5 else b"ab"):
        assert read(pickle.dumps(array, protocol)) == array
    for values in ({1}, frozenset({"a"})):
        assert read(pickle.dumps(values, protocol)) == list(values)
    assert read(pickle.dumps((1, (2, (3,)), ()), protocol)) == (1, (2, (3,)), ())


@pytest.mark.parametrize("protocol", range(6))
def test_shared_values_stay_shared(protocol: int) -> None:
    shared = ["x"]
    first, second = read(pickle.dumps([shared, shared], protocol))
    assert first is second


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_stubs(protocol: int) -> None:
    stub = read(pickle.dumps(argparse.Namespace(batch=4, name="a"), protocol))
    assert isinstance(stub, Stub)
    if protocol >= 2:
        assert (stub.name, stub.state) == ("argparse.Namespace", {"batch": 4, "name": "a"})
    counter = read(pickle.dumps(collections.Counter("aab"), protocol))
    assert isinstance(counter, Stub)
    assert counter.args == ({"a": 2, "b": 1},)
    assert read(pickle.dumps(os.path.join, protocol)) == Name("posixpath.join")


class Hostile:
    """An object that has a command run when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def attacks(marker: Path) -> Iterator[bytes]:
    """Pickles that each make the marker when they are loaded by Python's own pickle."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    for protocol in range(6):
        attack = Hostile(os.system, command)
        yield pickle.dumps(attack, protocol)
        yield pickle.dumps({"state_dict": {"weight": [attack]}}, protocol)
        yield pickle.dumps(Hostile(eval, code), protocol)
        yield pickle.dumps(Hostile(exec, code), protocol)
        yield pickle.dumps(Hostile(pickle.loads, pickle.dumps(attack, protocol)), protocol)
        yield pickle.dumps(Hostile(Path.touch, marker), protocol)
    line = command.encode()
    yield b"(S'" + line + b"'\nios\nsystem\n."  # INST
    yield b"(cos\nsystem\nS'" + line + b"'\no."  # OBJ
    yield b"cos\nsystem\n(V" + line + b"\ntR."
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(command) + b"\x85R."  # STACK_GLOBAL
    yield b"\x80\x02\x82" + bytes([EXTENSION]) + text(command) + b"\x85R."  # EXT1
    yield b"\x80\x02\x83" + struct.pack("<H", EXTENSION) + text(command) + b"\x85R."
    yield b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + text(command) + b"\x85R."
    yield b"\x80\x02csubprocess\ncall\n]" + text("touch") + b"a" + text(str(marker)) + b"a\x85R."
    yield b"\x80\x02}" + text("a") + b"cbuiltins\neval\n" + text(code) + b"\x85Rs."
    yield b"\x80\x02}cbuiltins\neval\n" + text(code) + b"\x85RNs."  # as a key


@pytest.fixture
def _extension() -> Iterator[None]:
    copyreg.add_extension("posix", "system", EXTENSION)
    yield
    copyreg.remove_extension("posix", "system", EXTENSION)


@pytest.mark.usefixtures("_extension")
def test_nothing_that_a_pickle_names_is_called(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for attack in attacks(marker):
        with contextlib.suppress(Exception):  # as some attacks end, once they have done it
            pickle.loads(attack)
        assert marker.exists(), f"{attack!r} is harmless anyway"
        marker.unlink()
        read(attack)
        assert not marker.exists(), attack


def test_nothing_that_a_pickle_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "module_with_effects.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    value = read(b"\x80\x02cmodule_with_effects\nThing\n)R}" + text("a") + b"K\x01sb.")
    assert (value.name, value.state) == ("module_with_effects.Thing", {"a": 1})
    assert not marker.exists()
    assert "module_with_effects" not in sys.modules


def pickled_module() -> bytes:
    """The pickle of a small module, as torch.save makes it."""
    buffer = io.BytesIO()
    torch.save({"model": torch.nn.LSTM(2, 3), "epoch": 3, "rate": 0.1, "k": {1, 2}}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


def test_every_truncated_pickle_is_refused() -> None:
    for data in (pickled_module(), *(pickle.dumps(PLAIN, protocol) for protocol in range(6))):
        for end in range(len(data)):
            with pytest.raises(ValueError, match="pickle"):
                read(data[:end])


@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6), st.integers(0, 255))
@settings(deadline=None, max_examples=400, derandomize=True)
def test_a_damaged_pickle_is_refused_or_read(place: int, value: int, place_2: int, value_2: int) -> None:
    data = bytearray(MODULE)
    data[place % len(data)] = value
    data[place_2 % len(data)] = value_2
    reader = Unpickling(bytes(data))
    with contextlib.suppress(ValueError):
        reader.read()
    assert reader.steps < len(data) * 10


MODULE = pickled_module()


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=400, derandomize=True)
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        read(data + b".")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x8b\xff\xff\xff\x7f" + b"x" * 100, "integer of 2147483647 bytes"),
        (b"\x8b\xff\xff\xff\xff" + b"x" * 100, "ends early"),
        (b"\x8a\xff" + b"x" * 300, "integer of 255 bytes"),
        (b"L" + b"9" * 5000 + b"L\n.", "integer of 5000 digits"),
        (b"\x96" + struct.pack("<Q", 2**62) + b"x", "ends early"),
        (b"\x8d" + struct.pack("<Q", 2**64 - 1) + b"x", "ends early"),
        (b"T\xff\xff\xff\xff.", "ends early"),
        (b"\x97.", "no instruction"),
        (b"\x98.", "no instruction"),
        (b"Pname\n.", "outside|no instruction"),
        (b"N0" + b"(" * 10 + b".", "value is missing"),
        (b"h\x07.", "does not have"),
        (b"(NNNd.", "without a value"),
        (b"K\x01K\x02s.", "missing|keys of"),
        (b"NNa.", "appends to"),
        (b"NNR.", "NoneType for arguments"),
        (b"N0" * 500_001 + b".", f"more than {MOST_STEPS} steps"),
    ],
)
def test_absurd_and_broken_pickles_are_refused(data: bytes, match: str) -> None:
    reader = Unpickling(data)
    with pytest.raises(ValueError, match=match):
        reader.read()
    assert reader.steps <= MOST_STEPS + 1


def test_copies_count_as_work() -> None:
    """A list of 5,000, remembered, from which a million instructions would make 250,000 lists."""
    listed = b"](" + b"N" * 5000 + b"e\x85q\x00" + b"cbuiltins\nlist\nq\x01"
    reader = Unpickling(listed + b"h\x01h\x00R0" * 100_000 + b".")
    with pytest.raises(ValueError, match="steps"):
        reader.read()


def test_long_names_are_not_copied_again_and_again() -> None:
    with pytest.raises(ValueError, match="name of 2000000 characters"):
        read(text("x" * 10**6) + b"q\x00" + b"h\x00h\x00\x93" * 100_000 + b".")


def test_a_memo_of_any_number_takes_no_memory() -> None:
    assert read(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 5


@pytest.mark.parametrize("opening", [b"]" * 50_000 + b"a" * 49_999, b"(" * 1000 + b"N" + b"t" * 1000])
def test_deep_nesting_is_read(opening: bytes) -> None:
    value, depth = read(opening + b"."), 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == (49_999 if opening[:1] == b"]" else 1000)


def doubled(levels: int, pair: bytes = b"\x86") -> bytes:
    """A pair of twice the pair of twice ..., which is 2 to the levels when unfolded."""
    return b"N" + b"2" + pair + (b"2" + pair) * (levels - 1)


def test_doubled_tuples_are_no_work_even_as_keys() -> None:
    reader = Unpickling(b"}" + doubled(60) + b"K\x01s.")
    (key,) = reader.read()
    assert isinstance(key, Stub)
    assert reader.steps < 200


def test_a_list_may_hold_itself() -> None:
    value = read(b"]q\x00h\x00a.")
    assert value[0] is value


def test_integers_that_collide_are_no_keys() -> None:
    keys = b"".join(number(n * (2**61 - 1)) + b"N" for n in range(5, 9))
    assert all(isinstance(key, Stub) for key in read(b"}(" + keys + b"u."))


class Zeros:
    """Storages of zeros, of the size that is asked for."""

    def read(self, storage: StorageRef) -> torch.Tensor:
        return torch.zeros(storage.total * storage.dtype.itemsize, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (3, 4), (4, 1)),
        (2, (2, 5), (5, 1)),
        (0, (4, 3), (1, 4)),
        (11, (), ()),
        (0, (0, 7), (7, 1)),
        (0, (12,), (1,)),
    ],
)
def test_tensors_within_their_storage(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    record = read(tensor(storage(), offset, size, stride))
    assert isinstance(record, TensorRef)
    assert build_tensor(record, Zeros()).shape == size


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (12, (), ()),
        (0, (3, 4), (5, 1)),
        (0, (100, 4), (0, 1)),  # expanded
        (-1, (3,), (1,)),
        (0, (-1,), (1,)),
        (4, (3,), (-1,)),
        (0, (2**62, 4), (4, 1)),
        (0, (2**62, 0), (4, 1)),
        (2**62, (1,), (1,)),
        (0, (2,), (2**62,)),
        (0, (3, 4), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (2, (0,), (2**63,)),
    ],
)
def test_tensors_beyond_their_storage_are_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="tensor"):
        read(tensor(storage(), offset, size, stride))


@pytest.mark.parametrize(
    "reference",
    [
        storage(numel=-1),
        storage(numel=2**60),
        storage(kind="QInt8Storage"),
        storage(kind="Tensor"),
        b"NQ",
        b"(" + text("storage") + b"tQ",
        b"N",
        b"cos\nsystem\n",
    ],
)
def test_what_is_no_storage_is_refused(reference: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(tensor(reference, 0, (1,), (1,)))


def test_a_storage_has_one_size() -> None:
    both = b"(" + storage(numel=12) + storage(numel=13) + b"t."
    with pytest.raises(ValueError, match="other sizes elsewhere"):
        read(both)


def test_views_of_storages() -> None:
    view = storage()[:-2] + b"(" + text("1") + number(2) + number(5) + b"ttQ"
    record = read(tensor(view, 1, (4,), (1,)))
    assert record.offset == 3
    with pytest.raises(ValueError, match="beyond"):
        read(tensor(view, 2, (4,), (1,)))
