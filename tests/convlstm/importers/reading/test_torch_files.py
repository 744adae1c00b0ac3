"""Files of torch.save: read to the values that torch reads, and nothing that their pickles name ever runs."""

import contextlib
import copyreg
import io
import os
import pickle
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convlstm.importers.reading.files import read_foreign
from convlstm.importers.reading.torch_files import Name, Steps, Storages, Stub, Unpickler
from tests.convlstm.importers.reading.checkpoints import FORMATS, OLD, around, assert_equal, torch_bytes

EXTENSION = 240  # a number that no one has registered with copyreg
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip
NEW_DTYPES = [torch.uint16, torch.uint32, torch.float8_e4m3fn]  # which have no storages of their own


def read(data: bytes) -> Any:
    return Unpickler(io.BytesIO(data), Storages(0), encoding="latin1").load()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a" + struct.pack("<B", 16) + value.to_bytes(16, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def storage(numel: int = 12, kind: str = "FloatStorage", view: bytes = b"N") -> bytes:
    """A reference to a storage, as torch wrote it until 1.6; without the view, as it writes it since."""
    start = b"(" + text("storage") + f"ctorch\n{kind}\n".encode()
    return start + text("0") + text("cpu") + number(numel) + view + b"tQ"


def tensor(reference: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of a dict of one tensor."""
    arguments = b"(" + reference + number(offset) + numbers(*size) + numbers(*stride) + b"\x89Nt"
    return b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def read_both(path: Path, data: bytes) -> list[dict[str, Tensor] | str]:
    """Read a pickle in a file of each format; return its tensors, or the error."""
    results: list[dict[str, Tensor] | str] = []
    for content, pickled in zip(around(data.replace(b"NtQ", b"tQ")), (0, around(data)[1]), strict=True):
        path.write_bytes(pickled or content)
        try:
            results.append(read_foreign(path).tensors)
        except ValueError as error:
            results.append(str(error))
    return results


@pytest.mark.parametrize("options", FORMATS)
def test_values_are_what_torch_saved(tmp_path: Path, options: dict[str, Any]) -> None:
    base = torch.randn(4, 5)
    dtypes = DTYPES + (NEW_DTYPES if "_use_new_zipfile_serialization" not in options else [])
    state = {
        **{f"types.{dtype}".replace("torch.", ""): (torch.randn(3, 2) * 9).to(dtype) for dtype in dtypes},
        "transposed": base.T,
        "part": base[1:3, 2:],
        "same": base,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(3)),
    }
    state["annotated"] = torch.randn(3)
    vars(state["annotated"])["note"] = "an attribute of a tensor"
    path = tmp_path / "checkpoint.bin"
    path.write_bytes(torch_bytes(OrderedDict(state), **options))
    tensors = read_foreign(path).tensors
    assert_equal(tensors, state)
    assert tensors["same"].data_ptr() == tensors["transposed"].data_ptr()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    integers = [0, 1, 255, 256, 65536, -1, -(2**31), 2**40, -(2**70)]
    value = {
        "numbers": [*integers, 1.5, float("inf"), True, False, None],
        "text": ["", "a", "ä\n'\\", "x" * 300, "\U0001f600"],
        "tuples": (1, (2, (3,)), ()),
        "dict": {1: "a", "b": {"c": []}, None: {}, 2.5: [[]]},
    }
    shared = ["x"]
    assert read(pickle.dumps(value, protocol)) == value
    assert read(pickle.dumps(OrderedDict(value), protocol)) == value
    first, second = read(pickle.dumps([shared, shared], protocol))
    assert first is second
    if protocol > 3:  # before, by a call
        assert read(pickle.dumps([{1}, frozenset("a")], protocol)) == [[1], ["a"]]
    if protocol == 5:
        assert read(pickle.dumps(bytearray(b"ab"), protocol)) == b"ab"
    assert isinstance(read(pickle.dumps(Counter("aab"), protocol)), Stub)
    assert read(pickle.dumps(os.path.join, protocol)) == Name("posixpath.join")
    assert read(b"ccollections\nOrderedDict\n((](X\x01\x00\x00\x00aK\x01eltR.") == {"a": 1}  # Python 2's


class Hostile:
    """An object that has a function called when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Setter:
    """An object that runs code when it is given its state."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: dict[str, Any]) -> None:
        exec(state["code"])


def attacks(marker: Path) -> Iterator[bytes]:
    """Pickles that each make the marker when they are loaded by Python's own pickle."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    attack = Hostile(os.system, command)
    values = [attack, {"state_dict": {"weight": [attack]}}, Hostile(eval, code), Hostile(exec, code)]
    values += [Hostile(pickle.loads, pickle.dumps(attack)), Hostile(Path.touch, marker), Setter(code)]
    for protocol in range(6):
        yield from (pickle.dumps(value, protocol) for value in values)
    line = command.encode()
    yield b"(S'" + line + b"'\nios\nsystem\n."  # INST
    yield b"(cos\nsystem\nS'" + line + b"'\no."  # OBJ
    yield b"cos\nsystem\n(V" + line + b"\ntR."
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(command) + b"\x85R."  # STACK_GLOBAL
    for opcode, form in ((b"\x82", "<B"), (b"\x83", "<H"), (b"\x84", "<i")):  # EXT1, EXT2, EXT4
        yield b"\x80\x02" + opcode + struct.pack(form, EXTENSION) + text(command) + b"\x85R."
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
        for content in (*around(attack), around(b"N.")[1].replace(b"\x80\x02M\xe9\x03.", attack, 1)):
            (tmp_path / "file").write_bytes(content)
            with pytest.raises(ValueError, match="cannot be read"):
                read_foreign(tmp_path / "file")
            assert not marker.exists(), attack


@pytest.mark.usefixtures("_extension")
@pytest.mark.parametrize(("opcode", "form"), [(b"\x82", "<B"), (b"\x83", "<H"), (b"\x84", "<i")])
def test_no_extension_is_looked_up(opcode: bytes, form: str) -> None:
    """Neither by its name nor among the objects that Python's pickle found before."""
    data = b"\x80\x02" + opcode + struct.pack(form, EXTENSION) + b"."
    for _ in range(2):
        with pytest.raises(ValueError, match="uses the extension 240"):
            read(data)
        assert pickle.loads(data) is os.system


def test_nothing_that_a_pickle_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "module_with_effects.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    value = read(b"\x80\x02cmodule_with_effects\nThing\n)R}" + text("a") + b"K\x01sb.")
    assert (value.name, value.state) == ("module_with_effects.Thing", {"a": 1})
    assert not marker.exists()
    assert "module_with_effects" not in sys.modules


@pytest.mark.parametrize("call", [b"R", b"\x81", b"}\x92"])  # REDUCE, NEWOBJ, NEWOBJ_EX
def test_only_names_make_something_and_only_stubs_take_a_state(call: bytes) -> None:
    """What else stands on the stack, such as a list that a file makes up, is neither called nor changed."""
    assert read(b"](K\x01t" + call + b".").name == "?"
    assert read(b"cos\nsystem\n(K\x01t" + call + b"}b.").state == {}
    assert read(b"]}" + text("append") + b"Nsb.") == []


def test_a_file_with_a_hostile_value_is_read_without_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    checkpoint = {"state_dict": {"w": torch.arange(6.0)}, "evil": Hostile(os.system, f"touch {marker}")}
    for options in FORMATS:
        (tmp_path / "file").write_bytes(torch_bytes(checkpoint, **options))
        assert_equal(read_foreign(tmp_path / "file").tensors, checkpoint["state_dict"])
        assert not marker.exists()
        torch.load(tmp_path / "file", weights_only=False)
        marker.unlink()


PAIRS = b"](" + b"NN\x86" * 500  # a list, of which many instructions would make a dict each


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"L" + b"9" * 5000 + b"L\n.", "4300 digits"),
        (b"Pname\n.", "persistent"),
        (b"NQ.", "outside"),
        (b"K\x01K\x02\x86NNs.", "sets keys of a tuple"),
        (b"NNa.", "appends to a NoneType"),
        (b"NNR.", "without arguments"),
        (b"N0" * 5001 + b".", "more than"),
        (PAIRS + b"e\x85q\x00ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00R0" * 999, "steps"),
        (text("x" * 10**6) + b"q\x00h\x00h\x00\x93.", "name of 2000000 characters"),
    ],
)
def test_absurd_and_broken_pickles_are_refused(
    data: bytes, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Steps, "left", 10_000)
    with pytest.raises(Exception, match=match):
        read(data)


def test_texts_bytes_and_frames_that_claim_terabytes_take_no_memory() -> None:
    for opcode in (b"\x8d", b"\x8e", b"\x95", b"\x96"):
        for size in (2**45, 2**63 - 1):
            with pytest.raises((EOFError, KeyError)):  # and no MemoryError
                read(opcode + struct.pack("<Q", size) + b"x")


def test_memos_that_unfold_without_end_take_no_time() -> None:
    assert read(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 5
    value = read(b"]q\x00h\x00a.")
    assert value[0] is value
    doubled = b"N" + b"2\x86" * 60  # a pair of twice the pair of twice ..., 2^60 when unfolded
    assert all(isinstance(key, Stub) for key in read(b"}" + doubled + b"K\x01s."))
    assert len(read(doubled + b"q\x01\x8f(h\x01h\x01\x90.")) == 2  # in a set
    keys = b"".join(number(n * (2**61 - 1)) + b"N" for n in range(5, 9))  # which have one hash
    assert all(isinstance(key, Stub) for key in read(b"}(" + keys + b"u."))
    value, depth = read(b"]" * 50_000 + b"a" * 49_999 + b"."), 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == 49_999


WITHIN = [(0, (3, 4), (4, 1)), (2, (2, 5), (5, 1)), (0, (4, 3), (1, 4)), (11, (), ()), (0, (0, 7), (7, 1))]
BEYOND = [
    *((0, (13,), (1,)), (1, (12,), (1,)), (12, (), ()), (0, (3, 4), (5, 1))),
    *((0, (100, 4), (0, 1)), (2**47, (1,), (1,)), (0, (2,), (2**47,)), (0, (2**47, 4), (4, 1))),
]
"""Offset, size and stride of tensors in a storage of 12 elements."""
ABSURD = [
    *((-1, (3,), (1,)), (0, (-1,), (1,)), (4, (3,), (-1,))),
    *((0, (2**62, 0), (4, 1)), (2**62, (1,), (1,)), (0, (2,), (2**62,)), (2, (0,), (2**63,))),
    *((0, (3, 4), (1,)), (0, (1,) * 65, (1,) * 65)),
]


@pytest.mark.parametrize(("offset", "size", "stride"), WITHIN)
def test_tensors_within_their_storage(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    for tensors in read_both(tmp_path / "file", tensor(storage(), offset, size, stride)):
        assert isinstance(tensors, dict)
        assert (tensors["a"].shape, tensors["a"].stride()) == (size, stride)


@pytest.mark.parametrize(("offset", "size", "stride"), BEYOND + ABSURD)
def test_tensors_beyond_their_storage_are_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    absurd = (offset, size, stride) in ABSURD
    match = "not a few whole numbers" if absurd else "which lies beyond its storage of 12 elements"
    for error in read_both(tmp_path / "file", tensor(storage(), offset, size, stride)):
        assert isinstance(error, str)
        assert match in error


def test_a_size_that_unfolds_without_end_is_refused_at_once(tmp_path: Path) -> None:
    size = b"(N" + b"2\x86" * 60 + b"t"  # one tuple, of 2^60 values when it is written out
    arguments = b"(" + storage() + number(0) + size + numbers(1) + b"\x89Nt"
    data = b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."
    for error in read_both(tmp_path / "file", data):
        assert isinstance(error, str)
        assert "not a few whole numbers" in error


def test_a_version_that_unfolds_without_end_is_refused_at_once(tmp_path: Path) -> None:
    """In the old format, the pickle after the magic number is one that torch shows in its error."""
    path = tmp_path / "file.pt"
    version, bomb = pickle.dumps(1001, 2), b"\x80\x02N" + b"2\x86" * 60 + b"."
    path.write_bytes(torch_bytes({"a": torch.ones(1)}, **OLD).replace(version, bomb, 1))
    with pytest.raises(ValueError, match=r"Invalid protocol version: \{\}"):
        read_foreign(path)


def test_torch_under_other_settings_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(torch_bytes({"a": torch.ones(3)}))
    with torch.device("meta"):
        assert_equal(read_foreign(path).tensors, {"a": torch.ones(3, device="cpu")})
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match=r"TORCH_FORCE_WEIGHTS_ONLY_LOAD is set, .*; unset it"):
        read_foreign(path)


@pytest.mark.parametrize(
    "reference",
    [
        *(storage(numel=-1), storage(numel=13), storage(numel=2**60)),
        *(storage(kind="QInt32Storage"), storage(kind="Tensor")),
        *(b"NQ", b"(" + text("storage") + b"tQ", b"N", b"cos\nsystem\n"),
    ],
)
def test_what_is_no_storage_of_the_file_is_refused(tmp_path: Path, reference: bytes) -> None:
    for error in read_both(tmp_path / "file", tensor(reference, 0, (1,), (1,))):
        assert isinstance(error, str)


def test_views_of_storages(tmp_path: Path) -> None:
    """As torch wrote them until 0.4: key, start and size of a part."""
    view = storage(view=b"(" + text("1") + number(2) + number(5) + b"t")
    content = around(tensor(view, 1, (4,), (1,)), torch.arange(12.0).numpy().tobytes())[1]
    (tmp_path / "file").write_bytes(content)
    assert_equal(read_foreign(tmp_path / "file").tensors, {"a": torch.arange(3.0, 7.0)})
    assert "beyond its storage of 5 elements" in read_both(tmp_path / "file", tensor(view, 2, (4,), (1,)))[1]
    view = storage(view=b"(" + text("1") + number(2) + number(11) + b"t")
    assert "has a view that lies beyond it" in read_both(tmp_path / "file", tensor(view, 1, (4,), (1,)))[1]


def test_storages_that_are_named_but_not_stored_are_refused(tmp_path: Path) -> None:
    """torch would leave their memory as it happens to be."""
    content = around(tensor(storage(), 0, (12,), (1,)))[1]
    (tmp_path / "file").write_bytes(content.replace(pickle.dumps(["0"], 2), pickle.dumps([], 2)))
    with pytest.raises(ValueError, match="list of storages does not fit"):
        read_foreign(tmp_path / "file")
