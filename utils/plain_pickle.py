"""Unpickles a stranger's plain values. Nothing runs, and the work is bounded beforehand."""

import io
import pickle
from typing import Any, ClassVar, NoReturn

from utils.text import visible

LONGEST_KEY = 1000  # characters of a dict's key
LONGEST_NUMBER = 64  # bytes of a whole number


class MalformedError(ValueError):
    """A pickle, or a file around one, is not of the form that we read."""


def malformed(what: str) -> NoReturn:
    raise MalformedError(what)


def _refused(self: Any) -> NoReturn:
    malformed("an opcode that a file of plain values does not need")


class PlainUnpickler(pickle._Unpickler):
    """The standard unpickler in its Python form, for None, numbers, text, bytes, lists, tuples and dicts. A subclass
    may handle more in `find_class`, `load_build` and `persistent_load`.

    The C form sizes its memo by the largest index in the stream, so five bytes can request gigabytes; the Python form
    keeps a dict. The pixels of an array are one string in either, so the speed is the same.

    Time and memory are linear in the number of opcodes, of which it takes at most `most`: no opcode copies existing
    values, and a dict's keys are short and plain. Text of Python 2, which may be bytes, is returned as bytes.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    for _opcode in (
        pickle.EMPTY_SET,
        pickle.ADDITEMS,
        pickle.FROZENSET,
        pickle.INST,
        pickle.OBJ,
        pickle.NEWOBJ,
        pickle.NEWOBJ_EX,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
        pickle.PERSID,
        pickle.BINPERSID,
        pickle.BUILD,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
        pickle.LONG4,
    ):
        dispatch[_opcode[0]] = _refused

    def __init__(self, data: bytes, most: int) -> None:
        self._file = io.BytesIO(data)
        super().__init__(self._file, encoding="bytes")
        self._size, self._most = len(data), most

    def load(self) -> Any:
        """As the standard one, with a count of opcodes and without frames, which only serve to read ahead."""
        read = self.read = self._file.read
        self.readline = self._file.readline
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        dispatch = self.dispatch
        try:
            for _ in range(self._most):
                opcode = read(1)
                if not opcode:
                    raise EOFError("it ends in the middle")
                dispatch[opcode[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        malformed(f"it is made of more than {self._most:,} parts")

    def rest(self) -> bytes:
        """What stands behind the value."""
        return self._file.read()

    def load_frame(self) -> None:
        self.read(8)

    def find_class(self, module: str, name: str) -> Any:
        raise NotImplementedError

    def load_long1(self) -> None:
        size = self.read(1)[0]
        if size > LONGEST_NUMBER:
            malformed("a number of hundreds of digits")
        self.append(pickle.decode_long(self.read(size)))

    def load_bytearray8(self) -> None:
        """The standard one allocates the size in the stream before it reads."""
        size = int.from_bytes(self.read(8), "little")
        if size > self._size:
            malformed("a string longer than the file")
        self.append(bytearray(self.read(size)))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())  # type: ignore[attr-defined]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)))

    def load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append({})
        self._set(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            malformed("an append to something that is not a list")
        target.extend(items)

    @staticmethod
    def _set(target: Any, pairs: list[tuple[Any, Any]]) -> None:
        """Accept plain keys only: hashing a deeply nested tuple overflows the stack, or takes too long."""
        if not isinstance(target, dict) or not all(type(key) in (str, int, bytes) for key, _ in pairs):
            malformed("a dict whose keys are not plain")
        for key, _ in pairs:
            if not isinstance(key, int) and len(key) > LONGEST_KEY:
                malformed(f"a key of {len(key):,} characters, {visible(str(key[:20]), 40)}...")
        target.update(pairs)

    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.LONG1[0]] = load_long1
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
