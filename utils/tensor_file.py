"""What torch.save writes, read without torch.load: tensors and plain values come out, and nothing runs.

torch.load(weights_only=True) takes any number of opcodes, hashes whatever is a key, however deep, and calls some fifty
functions. A file of ours needs three calls.
"""

import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from utils.memory_zip import open_zip
from utils.plain_pickle import MalformedError, PlainUnpickler, malformed
from utils.text import visible

LARGEST_PICKLE = 16 << 20  # bytes of names and numbers around the tensors, which lie beside it
MOST_PARTS = 1 << 20  # opcodes of that pickle; a thousand epochs of a ResNet50 with diagnostics take 900,000

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
#: The name that torch.save gives the numbers of a tensor of each type.
_STORAGES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64},
    **{"ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8},
}


class ForeignNameError(MalformedError):
    """It names a global that such a file does not need; `name` was neither imported nor run."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name}, which was not run")
        self.name = name


@dataclass(frozen=True)
class OddTensor:
    """Stands for a tensor that does not lie in memory number by number; `kind` says how it does."""

    kind: str


def is_tensor_file(data: bytes) -> bool:
    """Whether bytes begin as torch.save begins a zip, with the pickle."""
    return data[:4] == b"PK\x03\x04" and data[30 : 30 + int.from_bytes(data[26:28], "little")].endswith(b"/data.pkl")


def fits_its_storage(tensor: Tensor) -> bool:
    """False of a view that repeats a few numbers any number of times."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def read_tensors(data: bytes) -> Any:
    """The value in a zip of torch.save's, on the CPU.

    Raises:
        MalformedError: the pickle in it is too large or too long, names what it need not, or does not fit the rest.
        Exception: whatever zipfile and the unpickler raise over a damaged one.
    """
    with open_zip(data) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            malformed("it is compressed, as torch.save never writes it")
        if sum(entry.file_size for entry in entries) > len(data):
            malformed("its parts overlap")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
            malformed("it does not hold one pickle of sensible size")
        folder = pickles[0].filename.removesuffix("data.pkl")
        if folder + "byteorder" in archive.namelist():
            order = archive.read(folder + "byteorder").decode("ascii", "replace")
            if order != sys.byteorder:
                malformed(f"its numbers are {order[:20]} endian, and this machine is not")
        return _TensorUnpickler(archive, archive.read(pickles[0]), folder).load()


class _TensorUnpickler(PlainUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(PlainUnpickler.dispatch)

    def __init__(self, archive: zipfile.ZipFile, data: bytes, folder: str) -> None:
        super().__init__(data, MOST_PARTS)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        found = _FUNCTIONS.get(whole) or _DTYPES.get(whole)
        if found is None:
            raise ForeignNameError(whole)
        return found

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is known for known in _FUNCTIONS.values()) or len(arguments) > 8:
            malformed("a call of what is no function")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, OrderedDict) or not isinstance(state, dict) or state.keys() != {"_metadata"}:
            malformed("attributes for what has none")
        target._metadata = state["_metadata"]  # type: ignore[attr-defined] # of a model: its modules' versions

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a tensor, flat."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[2], str):
            malformed("a reference to no stored numbers")
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype) or type(count) is not int:
            malformed("stored numbers of no type or number")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            numbers = bytearray(entry.file_size)  # of its own: torch may write to it, and wants it aligned
            with self._archive.open(entry) as file:
                if file.readinto(numbers) != len(numbers):  # type: ignore[attr-defined]
                    malformed("fewer numbers than it says")
            self._storages[key] = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
        stored = self._storages[key]
        if stored.dtype != dtype or len(stored) != count:
            malformed(f"{count:,} {dtype} of which {len(stored):,} {stored.dtype} are stored")
        return stored

    dispatch[pickle.BINPERSID[0]] = pickle._Unpickler.load_binpersid  # type: ignore[attr-defined]
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def _tensor(stored: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(stored, Tensor):
        malformed("a tensor of no numbers")
    return torch.as_strided(stored, size, stride, offset)  # which refuses what does not lie within


def _ordered() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _size(size: Any) -> Any:
    return size


def _layout(name: Any) -> str:
    return visible(str(name), 40)


def _sparse(layout: Any, *_: Any) -> OddTensor:
    return OddTensor(f"{layout}, cpu")


def _without_numbers(*_: Any) -> OddTensor:
    return OddTensor(f"{torch.strided}, meta")


#: All that is ever called. Tensors of the odd kinds are not made, so that they can be told from others by their place.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_numbers,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
}
