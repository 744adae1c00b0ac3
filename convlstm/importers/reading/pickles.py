"""A pickle read by an interpreter of our own: what the file names is never imported, looked up or called."""

import struct
from collections.abc import Callable
from typing import Any

from convlstm.importers.reading.inert import STORAGE_TYPES, Name, StorageRef, Stub, key_of, make

MOST_STEPS = 1_000_000  # of the interpreter: a state dict of 1,000 tensors and its Adam state take 140,000
LONGEST_INTEGER = 64  # bytes
LONGEST_LINE = 10_000  # bytes
LONGEST_NAME = 1000  # characters

# Opcodes followed by one number of fixed width, which is the value.
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
# Opcodes followed by a length and so many bytes.
_TEXTS = {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q"}
_OLD_STRINGS = {b"T": "<i", b"U": "<B"}
_BYTES = {b"B": "<I", b"C": "<B", b"\x8e": "<Q", b"\x96": "<Q"}
_INTEGERS = {b"\x8a": "<B", b"\x8b": "<i"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_MEMO_PUTS = {b"q": "<B", b"r": "<I"}
_MEMO_GETS = {b"h": "<B", b"j": "<I"}
_EXTENSIONS = {b"\x82": "<B", b"\x83": "<H", b"\x84": "<i"}


class Unpickling:
    """One pickle, read step by step into plain values and the records of inert.py.

    Args:
        data: holds the pickle; what follows it is left alone.
        start: where it begins.

    Attributes:
        storages: the storages that the pickle names, by key.
        position: where the pickle ended, once read.
    """

    def __init__(self, data: bytes, start: int = 0) -> None:
        self.data, self.position = data, start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.steps = 0

    def read(self) -> Any:
        """Return the value that the pickle holds.

        Raises:
            ValueError: the pickle ends early, is damaged, or would take an absurd amount of work.
        """
        while (code := self.take(1)) != b".":
            self.work(1)
            step = _STEPS.get(code)
            if step is None:
                raise ValueError(f"its pickle is damaged: {code!r} is no instruction that a pickle needs")
            step(self)
        return self.pop()

    def work(self, steps: int) -> None:
        """Count what a step costs beyond a constant, such as the elements that it copies."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise ValueError(f"its pickle takes more than {MOST_STEPS} steps to read")

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        end = self.position + length
        if length < 0 or end > len(self.data):
            raise ValueError("its pickle ends early: the file is truncated or damaged")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> Any:
        """Return the next number, of a struct's form."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """Return the text up to the end of the line."""
        end = self.data.find(b"\n", self.position, self.position + LONGEST_LINE)
        if end < 0:
            raise ValueError("its pickle ends early, or has a line without end")
        line = self.take(end - self.position)
        self.position = end + 1
        return line.decode("latin-1")

    def pop(self) -> Any:
        """Take the top of the stack."""
        if not self.stack:
            raise ValueError("its pickle is damaged: a value is missing")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the top of the stack and leave it there."""
        self.push(self.pop())
        return self.stack[-1]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop_marked(self) -> list[Any]:
        """Take everything down to the last mark."""
        if not self.below:
            raise ValueError("its pickle is damaged: a mark is missing")
        values, self.stack = self.stack, self.below.pop()
        return values

    def mark(self) -> None:
        """Begin a stack above this one."""
        self.below.append(self.stack)
        self.stack = []

    def pop_or_unmark(self) -> None:
        """Drop the top, or a mark with nothing above it."""
        if self.stack:
            self.pop()
        else:
            self.pop_marked()

    def dict_of(self, values: list[Any]) -> dict[Any, Any]:
        """Pair keys and values that alternate."""
        if len(values) % 2:
            raise ValueError("its pickle is damaged: a key without a value")
        return {key_of(key): value for key, value in zip(values[::2], values[1::2], strict=True)}

    def set_items(self, values: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        target = self.top()
        if isinstance(target, Stub):
            target.entries = target.entries if target.entries is not None else {}
            target = target.entries
        if not isinstance(target, dict):
            raise ValueError(f"its pickle sets keys of a {type(target).__name__}")
        target.update(self.dict_of(values))

    def append(self, values: list[Any]) -> None:
        """Put values into the list or set on top."""
        target = self.top()
        if isinstance(target, Stub):
            target.items = target.items if target.items is not None else []
            target = target.items
        if not isinstance(target, list):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")
        target.extend(values)

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the topmost values."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def call(self) -> None:
        """Make what the pickle would have called."""
        args, callable_ = self.pop(), self.pop()
        if isinstance(args, tuple):
            self.work(sum(len(arg) for arg in args if isinstance(arg, str | bytes | list | tuple | dict)))
        self.push(make(callable_, args))

    def instantiate(self, callable_: Any, args: list[Any]) -> None:
        """Make an instance, as INST and OBJ do."""
        self.push(callable_)
        self.push(tuple(args))
        self.call()

    def new_with_names(self) -> None:
        """Make a stub of a class, its arguments and named arguments."""
        named, args, callable_ = self.pop(), self.pop(), self.pop()
        self.push(Stub(callable_.text if isinstance(callable_, Name) else "?", (args, named)))

    def build(self) -> None:
        """Give the object on top its state; a dict, list or tensor keeps what it is."""
        state, target = self.pop(), self.top()
        if isinstance(target, Stub):
            target.state = state

    def stack_global(self) -> None:
        """Make a name of its two parts."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle is damaged: a name that is not text")
        if len(module) + len(name) > LONGEST_NAME:  # a long text, remembered, would be copied again and again
            raise ValueError(f"its pickle has a name of {len(module) + len(name)} characters")
        self.push(Name(f"{module}.{name}"))

    def storage(self) -> None:
        """Note a storage, which torch keeps outside of the pickle."""
        match self.pop():
            case ("storage", Name(kind), str(key), _, int(numel), *view) if len(view) < 2:
                self.push(self.named_storage(kind, key, numel, view[0] if view else None))
            case ("module", kind, *_):  # with the source of a class, which torch only compared
                self.push(kind)
            case _:
                raise ValueError("its pickle refers to something outside of it that is no storage of torch")

    def named_storage(self, kind: str, key: str, numel: int, view: Any) -> StorageRef:
        """Return a storage or, as torch wrote until 0.4, a view of one: (its key, start, size)."""
        if kind not in STORAGE_TYPES:
            raise ValueError(f"it holds a {kind!r:.60}, which is not read")
        whole = StorageRef(key, STORAGE_TYPES[kind], numel, 0, numel)
        known = self.storages.setdefault(key, whole)
        if (known.dtype, known.total) != (whole.dtype, numel) or not 0 <= numel < 2**48:
            raise ValueError(f"its storage {key!r:.40} has {numel} elements, and other sizes elsewhere")
        match view:
            case None:
                return known
            case (_, int(start), int(size)) if start >= 0 and size >= 0 and start + size <= numel:
                return StorageRef(key, known.dtype, numel, start, size)
            case _:
                raise ValueError(f"its storage {key!r:.40} has a view that lies beyond it")

    def integer(self, form: str) -> None:
        """Push an integer of any length that is not absurd."""
        length = self.number(form)
        if length > LONGEST_INTEGER:
            raise ValueError(f"its pickle has an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def decimal(self) -> None:
        """Push an integer, or a bool, written as text."""
        text = self.line().removesuffix("L")
        if len(text) > 2 * LONGEST_INTEGER:
            raise ValueError(f"its pickle has an integer of {len(text)} digits")
        self.push({"00": False, "01": True}[text] if text in ("00", "01") else int(text))

    def quoted(self) -> None:
        """Push a text in quotes; escapes stay as they are written."""
        text = self.line()
        if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
            raise ValueError("its pickle is damaged: a text without quotes")
        self.push(text[1:-1])

    def put(self, index: int) -> None:
        """Remember the top."""
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        """Push what was remembered."""
        if index not in self.memo:
            raise ValueError("its pickle is damaged: it refers to a value that it does not have")
        self.push(self.memo[index])


Step = Callable[[Unpickling], Any]


def _each(forms: dict[bytes, str], make_step: Callable[[str], Step]) -> dict[bytes, Step]:
    return {code: make_step(form) for code, form in forms.items()}


_STEPS: dict[bytes, Step] = {
    **_each(_NUMBERS, lambda form: lambda p: p.push(p.number(form))),
    **_each(_TEXTS, lambda form: lambda p: p.push(p.take(p.number(form)).decode("utf-8", "surrogatepass"))),
    **_each(_OLD_STRINGS, lambda form: lambda p: p.push(p.take(p.number(form)).decode("latin-1"))),
    **_each(_BYTES, lambda form: lambda p: p.push(p.take(p.number(form)))),
    **_each(_INTEGERS, lambda form: lambda p: p.integer(form)),
    **_each(_MEMO_PUTS, lambda form: lambda p: p.put(p.number(form))),
    **_each(_MEMO_GETS, lambda form: lambda p: p.get(p.number(form))),
    # copyreg's registered extensions: never looked up.
    **_each(_EXTENSIONS, lambda form: lambda p: p.push(Name(f"copyreg.extension.{p.number(form)}"))),
    **{code: lambda p, value=value: p.push(value) for code, value in _CONSTANTS.items()},
    b"\x80": lambda p: p.take(1),  # protocol
    b"\x95": lambda p: p.take(8),  # frame: how much to read ahead
    b"(": Unpickling.mark,
    b"0": Unpickling.pop_or_unmark,
    b"1": Unpickling.pop_marked,
    b"2": lambda p: p.push(p.top()),
    b"}": lambda p: p.push({}),
    b"]": lambda p: p.push([]),
    b"\x8f": lambda p: p.push([]),  # an empty set
    b"d": lambda p: p.push(p.dict_of(p.pop_marked())),
    b"l": lambda p: p.push(p.pop_marked()),
    b"t": lambda p: p.push(tuple(p.pop_marked())),
    b"\x91": lambda p: p.push(p.pop_marked()),  # a frozenset
    b"\x85": lambda p: p.tuple_of(1),
    b"\x86": lambda p: p.tuple_of(2),
    b"\x87": lambda p: p.tuple_of(3),
    b"s": lambda p: p.set_items([p.pop(), p.pop()][::-1]),
    b"u": lambda p: p.set_items(p.pop_marked()),
    b"a": lambda p: p.append([p.pop()]),
    b"e": lambda p: p.append(p.pop_marked()),
    b"\x90": lambda p: p.append(p.pop_marked()),  # to a set
    b"I": Unpickling.decimal,
    b"L": Unpickling.decimal,
    b"F": lambda p: p.push(float(p.line())),
    b"S": Unpickling.quoted,
    b"V": lambda p: p.push(p.line().encode("latin-1").decode("raw-unicode-escape")),
    b"c": lambda p: p.push(Name(f"{p.line()}.{p.line()}")),
    b"\x93": Unpickling.stack_global,
    b"i": lambda p: p.instantiate(Name(f"{p.line()}.{p.line()}"), p.pop_marked()),
    b"o": lambda p: p.instantiate(*((values := p.pop_marked() or [None])[0], values[1:])),
    b"R": Unpickling.call,
    b"\x81": Unpickling.call,  # a new object of a class
    b"\x92": Unpickling.new_with_names,
    b"b": Unpickling.build,
    b"Q": Unpickling.storage,
    b"p": lambda p: p.put(int(p.line())),
    b"g": lambda p: p.get(int(p.line())),
    b"\x94": lambda p: p.put(len(p.memo)),
}
