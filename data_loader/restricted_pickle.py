"""Reading a pickle of numpy arrays from a stranger: data comes out, and nothing runs."""

import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from utils.errors import DataError
from utils.plain_pickle import PlainUnpickler, malformed
from utils.reading import told_as
from utils.text import visible

MOST_PARTS = 10_000_000  # opcodes: a million labels of np.int64 take eight million
_MOST_AXES = 4
_PLAIN = (bool, int, float, np.bool_, np.integer, np.floating)


def load_arrays(data: bytes, source: str) -> Any:
    """Unpickle `data`: plain values, lists, tuples, dicts, and numpy arrays as the values of the outermost dict, whose
    keys come as text where Python 2 wrote bytes.

    Raises:
        DataError: it names any other global (which is neither imported nor called), or is malformed.
    """
    with told_as(DataError, source, "malformed or truncated pickle", "; get or build the file again"):
        value = _ArrayUnpickler(data, source).load()
        if not isinstance(value, dict):
            return value.value if isinstance(value, _Array) else value
        plain = {_text(key): item.value if isinstance(item, _Array) else item for key, item in value.items()}
        if len(plain) < len(value):
            malformed("one key twice, as text and as bytes")
        return plain


def _text(key: Any) -> Any:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def as_array(value: Any, size: int) -> Any:
    """An array of lists and tuples of plain numbers, or of arrays of one shape, from a pickle of `size` bytes; anything
    else as it is.

    A pickle may name one list again and again; there may be no more numbers than it has bytes.
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


# What numpy's pickles build arrays from. numpy's own functions trust the stream: they allocate what a few bytes claim,
# and read past the end of a state that is too short. These check first.


class _DataType:
    """numpy.dtype, of numbers or objects only, whose byte order may be set once more."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        spec = _text(spec)
        if not isinstance(spec, str) or len(spec) > 16:
            malformed("a data type that is no name")
        self.dtype = np.dtype(spec)
        if self.dtype.fields or self.dtype.subdtype:
            malformed(f"images and labels must be arrays of numbers, found {self.dtype}")

    def set_state(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) >= 2 else None
        if order not in ("<", ">", "|", "="):
            malformed("a data type's state")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """numpy.ndarray, which is made empty and then given its state."""

    def __init__(self) -> None:
        self.value = np.empty(0, dtype=np.uint8)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            malformed("an array's state")
        _, shape, data_type, fortran, data = state
        if isinstance(data_type, _DataType) and data_type.dtype.hasobject:
            self.value = _of_objects(data, shape)
        else:
            self.value = _frombuffer(data, data_type, shape, "F" if fortran else "C")


class _ArrayType:
    """Stands for the class numpy.ndarray, which a pickle only ever passes on to `_reconstruct`."""


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
    if subtype is not _ArrayType or shape != (0,):
        malformed("an array that does not begin empty")
    return _Array()


def _of_objects(items: Any, shape: Any) -> np.ndarray:
    """The objects of an array (in C order, whatever the array's was) if they are plain numbers or arrays alike."""
    _check_shape(shape)
    if not isinstance(items, list) or math.prod(shape) != len(items):
        malformed(f"an array of shape {shape} with other objects than that")
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
    # A view: however many arrays a stream makes of its bytes, they take no more memory than it does.
    return np.frombuffer(data, dtype=data_type.dtype).reshape(shape, order="F" if order in ("F", b"F") else "C")


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
        malformed("an array's shape")


def _scalar(data_type: Any, data: Any) -> Any:
    return _frombuffer(data, data_type, (1,), "C")[0]


class _Encode:
    """_codecs.encode, which protocol 2 makes bytes with, for no more bytes in all than the stream can mean."""

    def __init__(self, size: int) -> None:
        self._left = 2 * size

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            malformed("bytes that are not encoded as latin1")
        self._left -= len(text)
        if self._left < 0:
            malformed("the same bytes again and again")
        return text.encode("latin1")


#: The exact globals that a pickle of arrays names, across numpy 1 and 2, and what each stands for here.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in ("numpy.core", "numpy._core")},
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
            malformed("a state for what has none")
        target.set_state(state)

    dispatch[pickle.BUILD[0]] = load_build
