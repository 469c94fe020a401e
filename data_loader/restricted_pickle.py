"""Reads a stranger's pickle of numpy arrays, or file of torch.save with some. It returns data and runs nothing."""

import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from utils.errors import DataError
from utils.plain_pickle import PlainUnpickler, malformed
from utils.reading import errors_as
from utils.tensor_file import TensorUnpickler, read_tensors
from utils.text import visible

MOST_PARTS = 10_000_000  # opcodes: a million labels of np.int64 take eight million
_MOST_AXES = 4
_PLAIN = (bool, int, float, np.bool_, np.integer, np.floating)


def load_arrays(data: bytes, source: str) -> Any:
    """Unpickle `data`: plain values, lists, tuples, dicts, and numpy arrays as values of the outermost dict. Keys of
    that dict that Python 2 wrote as bytes become text.

    Raises:
        DataError: it names any other global (which is neither imported nor called), or is malformed.
    """
    with errors_as(DataError, source, "malformed or truncated pickle", "; get or build the file again"):
        return _plain(_ArrayUnpickler(data, source).load())


def load_old(data: bytes, source: str) -> Any:
    """The value in a file of torch.save from before it wrote zips, the fourth of its pickles; with arrays, but no
    tensors. Raises as `load_arrays`."""
    for _ in range(3):
        unpickler = _ArrayUnpickler(data, source)
        unpickler.load()
        data = unpickler.rest()
    return load_arrays(data, source)


def load_saved(data: bytes) -> Any:
    """The value in a zip of torch.save's, with numpy's arrays as `load_arrays` takes them. Raises as `read_tensors`."""
    return _plain(read_tensors(data, _SavedUnpickler))


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, _Array) else value
    if not isinstance(value, dict):
        return value
    plain = {_text(key): item.value if isinstance(item, _Array) else item for key, item in value.items()}
    if len(plain) < len(value):
        malformed("one key twice, as text and as bytes")
    return plain


def _text(key: Any) -> Any:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def as_array(value: Any, size: int) -> Any:
    """Turn lists and tuples of plain numbers, or of arrays of one shape, into an array; return anything else unchanged.

    A pickle of `size` bytes may refer to one list many times, so the array may have at most `size` numbers.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    while level and isinstance(level[0], list | tuple):
        length = len(level[0])
        if not all(isinstance(part, list | tuple) and len(part) == length for part in level):
            return value
        if len(shape) == _MOST_AXES or len(level) * length > min(size, MOST_PARTS):
            return value
        shape.append(length)
        level = [item for part in level for item in part]
    if not shape or not level:
        return value
    if all(isinstance(item, _Array) for item in level):
        arrays = [item.value for item in level]
        first = arrays[0]
        alike = all(array.shape == first.shape and array.dtype == first.dtype for array in arrays)
        fits = len(arrays) * first.nbytes <= size
        return np.stack(arrays).reshape(*shape, *first.shape) if alike and fits else value
    if not all(isinstance(item, _PLAIN) for item in level):
        return value
    array = np.asarray(level)
    return value if array.dtype.hasobject else array.reshape(shape)


# Replacements for the functions that numpy's pickles call. numpy's own trust the stream: they allocate sizes that a few
# bytes declare, and read past the end of a state that is too short. These check first.


class _DataType:
    """Replaces numpy.dtype, for numbers and objects only. `set_state` sets the byte order."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        spec = _text(spec)
        if not isinstance(spec, str) or len(spec) > 16:
            malformed("a data type that is not a name")
        self.dtype = np.dtype(spec)
        if self.dtype.fields or self.dtype.subdtype:
            malformed(f"images and labels must be arrays of numbers, found {self.dtype}")

    def set_state(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) >= 2 else None
        if order not in ("<", ">", "|", "="):
            malformed("a data type's state")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Replaces numpy.ndarray, which is made empty and then gets its state."""

    def __init__(self) -> None:
        self.value: Any = np.empty(0, dtype=np.uint8)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            malformed("an array's state")
        _, shape, data_type, fortran, data = state
        if isinstance(data_type, _DataType) and data_type.dtype.hasobject:
            self.value = _of_objects(data, shape)
        else:
            self.value = _frombuffer(data, data_type, shape, "F" if fortran else "C")


class _ArrayType:
    """Replaces the class numpy.ndarray, which a pickle only passes to `_reconstruct`."""


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
    if subtype is not _ArrayType or shape != (0,):
        malformed("an array that does not begin empty")
    return _Array()


def _of_objects(items: Any, shape: Any) -> np.ndarray | dict[Any, Any]:
    """An array from the objects of an object array, in C order. They must be plain numbers, or arrays of one shape. An
    array that only holds a dict is that dict."""
    _check_shape(shape)
    if not isinstance(items, list) or math.prod(shape) != len(items):
        malformed(f"an array of shape {shape} with other objects than that")
    if shape == () and isinstance(items[0], dict):
        return items[0]
    size = sum(item.value.nbytes if isinstance(item, _Array) else 1 for item in items)
    array = as_array(items, size)
    if not isinstance(array, np.ndarray):
        malformed("images and labels must be arrays of numbers, found object: things that are not plain numbers")
    return array.reshape(*shape, *array.shape[1:])


def _frombuffer(data: Any, data_type: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(data, bytes | bytearray) or not isinstance(data_type, _DataType):
        malformed("an array's state")
    if data_type.dtype.hasobject:
        malformed("objects made of bytes")
    _check_shape(shape)
    if math.prod(shape) * data_type.dtype.itemsize != len(data):
        malformed(f"an array of shape {shape} with {len(data)} bytes")
    # A view, so that many arrays from the same bytes take no more memory than the stream.
    return np.frombuffer(data, dtype=data_type.dtype).reshape(shape, order="F" if order in ("F", b"F") else "C")


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
        malformed("an array's shape")


def _scalar(data_type: Any, data: Any) -> Any:
    return _frombuffer(data, data_type, (1,), "C")[0]


class _Encode:
    """Replaces _codecs.encode, which makes bytes in protocol 2, with a limit on the bytes in all."""

    def __init__(self, size: int) -> None:
        self._left = 2 * size

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            malformed("bytes that are not encoded as latin1")
        self._left -= len(text)
        if self._left < 0:
            malformed("the same bytes again and again")
        return text.encode("latin1")


#: The exact globals in pickles of arrays from numpy 1 and 2, with their replacements.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DataType,
}


class _ArrayUnpickler(PlainUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(PlainUnpickler.dispatch)

    def __init__(self, data: bytes, source: str) -> None:
        super().__init__(data, MOST_PARTS)
        self._source = source
        self._encode = _Encode(len(data))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        whole = visible(f"{module}.{name}", 200)
        if module.split(".")[0] == "torch":
            raise DataError(
                f"{self._source}: it holds tensors of torch ({whole}), which a pickle cannot give out without "
                "running code; save them with torch.save({'images': images, 'labels': labels}, FILE), which is read, "
                "or pickle images.numpy() and labels.numpy()"
            )
        raise DataError(
            f"{self._source}: the pickle names {whole}, which a file of images does not need; it was not run. "
            "Do not use this file"
        )

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Array | _DataType):
            malformed("a state for an object without one")
        target.set_state(state)

    dispatch[pickle.BUILD[0]] = load_build


class _SavedUnpickler(TensorUnpickler):
    """A file of torch.save may hold numpy's arrays, within its pickle."""

    dispatch: ClassVar[dict[int, Any]] = dict(TensorUnpickler.dispatch)

    def __init__(self, archive: zipfile.ZipFile, data: bytes, folder: str) -> None:
        super().__init__(archive, data, folder)
        self._encode = _Encode(len(data))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        return _ALLOWED.get((module, name)) or super().find_class(module, name)

    def load_reduce(self) -> None:
        if any(self.stack[-2] is known for known in (self._encode, *_ALLOWED.values())):
            arguments = self.stack.pop()
            self.stack[-1] = self.stack[-1](*arguments)
        else:
            super().load_reduce()

    def load_build(self) -> None:
        if isinstance(self.stack[-2], _Array | _DataType):
            state = self.stack.pop()
            self.stack[-1].set_state(state)
        else:
            super().load_build()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
