"""Reading a pickle of numpy arrays from a stranger: data comes out, and nothing runs."""

import codecs
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from utils.errors import DataError


def load_arrays(data: bytes, source: str) -> Any:
    """Unpickle `data`, which may hold plain values, containers of them and numpy arrays.

    Raises:
        DataError: it names any other global (which is neither imported nor called), or is malformed.
    """
    try:
        return _RestrictedUnpickler(io.BytesIO(data), len(data)).load()
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    except Exception as error:  # a hostile stream can make the interpreter of opcodes fail in any way
        reason = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{source}: malformed or truncated pickle ({reason}); get or build the file again") from None


class _ArrayType:
    """Stands for numpy.ndarray, which a pickle only ever passes on to `_reconstruct`."""


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
    """numpy's own makes an array of any size from a few bytes; what numpy writes is always this empty one."""
    if subtype is not _ArrayType or tuple(shape) != (0,):
        raise DataError("malformed pickle: an array that does not begin empty")
    return np.empty(0, dtype=np.uint8)


def _frombuffer(buffer: Any, dtype: np.dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    if dtype.hasobject:
        raise DataError("malformed pickle: a scalar of objects")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if codecs.lookup(encoding).name != "iso8859-1":
        raise DataError(f"malformed pickle: bytes encoded as {encoding!r}")
    return text.encode("latin1")


#: The exact globals that a pickle of arrays names, across numpy 1 and 2, and what each stands for here.
_ALLOWED: dict[tuple[str, str], Callable] = {
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in ("numpy.core", "numpy._core")},
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """The standard unpickler in its Python form.

    The C form sizes its memo by the largest index that the stream names, so that five bytes can ask for gigabytes;
    the Python form keeps a dict. An array's pixels are one string to either, so the speed is the same.
    """

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: io.BytesIO, size: int) -> None:
        super().__init__(file)
        self._size = size

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"the pickle names {module}.{name}, which a file of images does not need; it was not run. "
                "Do not use this file"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("malformed pickle: a persistent id")

    def get_extension(self, code: int) -> Any:
        raise DataError("malformed pickle: an extension code")

    def load_bytearray8(self) -> None:
        """The standard one allocates what the stream claims before it reads it."""
        size = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        if size > self._size:
            raise DataError("malformed pickle: a string longer than the file")
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8  # type: ignore[assignment]
