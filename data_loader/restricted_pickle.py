"""Reading a pickle of numpy arrays from a stranger: data comes out, and nothing runs."""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import numpy as np

from utils.errors import DataError


def load_arrays(data: bytes, source: str) -> Any:
    """Unpickle `data`: plain values, lists, tuples, dicts, and numpy arrays as the values of the outermost dict.

    Raises:
        DataError: it names any other global (which is neither imported nor called), or is malformed.
    """
    try:
        value = _RestrictedUnpickler(io.BytesIO(data), len(data)).load()
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    except Exception as error:  # a hostile stream can make the interpreter of opcodes fail in any way
        reason = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{source}: malformed or truncated pickle ({reason}); get or build the file again") from error
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
    return value


# What numpy's pickles build arrays from. numpy's own functions trust the stream: they allocate what a few bytes claim,
# and read past the end of a state that is too short. These check first.


class _DataType:
    """numpy.dtype, of numbers only, whose byte order may be set once more."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(spec, str) or len(spec) > 16:
            _malformed("a data type that is no name")
        self.dtype = np.dtype(spec)
        if self.dtype.hasobject or self.dtype.fields or self.dtype.subdtype:
            raise DataError(f"images and labels must be arrays of numbers, found {self.dtype}")

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            _malformed("a data type's state")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """numpy.ndarray, which is made empty and then given its state."""

    def __init__(self) -> None:
        self.value = np.empty(0, dtype=np.uint8)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            _malformed("an array's state")
        _, shape, data_type, fortran, data = state
        self.value = _frombuffer(data, data_type, shape, "F" if fortran else "C")


class _ArrayType:
    """Stands for the class numpy.ndarray, which a pickle only ever passes on to `_reconstruct`."""


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
    if subtype is not _ArrayType or shape != (0,):
        _malformed("an array that does not begin empty")
    return _Array()


def _frombuffer(data: Any, data_type: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(data, bytes | bytearray) or not isinstance(data_type, _DataType) or not isinstance(shape, tuple):
        _malformed("an array's state")
    if not all(type(size) is int and size >= 0 for size in shape):
        _malformed("an array's shape")
    if math.prod(shape) * data_type.dtype.itemsize != len(data):
        _malformed(f"an array of shape {shape} with {len(data)} bytes")
    # A view: however many arrays a stream makes of its bytes, they take no more memory than it does.
    return np.frombuffer(data, dtype=data_type.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(data_type: Any, data: Any) -> Any:
    return _frombuffer(data, data_type, (1,), "C")[0]


class _Encode:
    """_codecs.encode, which protocol 2 makes bytes with, for no more bytes in all than the stream can mean."""

    def __init__(self, size: int) -> None:
        self._left = 2 * size

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            _malformed("bytes that are not encoded as latin1")
        self._left -= len(text)
        if self._left < 0:
            _malformed("the same bytes again and again")
        return text.encode("latin1")


#: The exact globals that a pickle of arrays names, across numpy 1 and 2, and what each stands for here.
_ALLOWED: dict[tuple[str, str], Callable] = {
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in ("numpy.core", "numpy._core")},
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DataType,
}


def _malformed(what: str) -> NoReturn:
    raise DataError(f"malformed pickle: {what}")


def _refused(self: Any) -> NoReturn:
    _malformed("an opcode that a file of arrays does not need")


class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """The standard unpickler in its Python form.

    The C form sizes its memo by the largest index that the stream names, so that five bytes can ask for gigabytes;
    the Python form keeps a dict. An array's pixels are one string to either, so the speed is the same.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    for _opcode in (
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.INST, pickle.OBJ, pickle.NEWOBJ),
        *(pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID),
        *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        dispatch[_opcode[0]] = _refused

    def __init__(self, file: io.BytesIO, size: int) -> None:
        super().__init__(file)
        self._size = size
        self._encode = _Encode(size)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return _ALLOWED[module, name]
        except KeyError as error:
            raise DataError(
                f"the pickle names {module}.{name}, which a file of images does not need; it was not run. "
                "Do not use this file"
            ) from error

    def load_build(self) -> None:
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(target, _Array | _DataType):
            _malformed("a state for what has none")
        target.set_state(state)

    def load_bytearray8(self) -> None:
        """The standard one allocates what the stream claims before it reads it."""
        size = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        if size > self._size:
            _malformed("a string longer than the file")
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self._set(self.stack[-1], [(key, value)])  # type: ignore[attr-defined]

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)))  # type: ignore[attr-defined]

    def load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append({})  # type: ignore[attr-defined]
        self._set(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)))  # type: ignore[attr-defined]

    @staticmethod
    def _set(target: Any, pairs: list[tuple[Any, Any]]) -> None:
        """Plain keys only: hashing a deeply nested tuple overflows the stack, or takes forever."""
        if not isinstance(target, dict) or not all(type(key) in (str, int, bytes) for key, _ in pairs):
            _malformed("a dict whose keys are not plain")
        target.update(pairs)

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
