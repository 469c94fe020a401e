"""Reads files of torch.save without torch.load: it returns tensors and plain values, and runs nothing.

torch.load(weights_only=True) takes any number of opcodes, hashes keys of any depth, and calls some fifty functions. Our
files need three calls.
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

from utils.memory_zip import open_checked
from utils.plain_pickle import PlainUnpickler, malformed
from utils.text import visible

LARGEST_PICKLE = 16 << 20  # bytes of the pickle, which has names and plain values; tensors are separate entries
MOST_PARTS = 1 << 20  # opcodes of that pickle; a ResNet50 with AdamW's state takes 30,000

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
#: torch.save's names for storages, with their dtypes.
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class UnsupportedTensor:
    """Stands for a tensor that is not a plain one in memory; `kind` is its layout and device."""

    kind: str


def is_tensor_file(data: bytes) -> bool:
    """Whether bytes begin like a zip of torch.save, with the pickle."""
    return data[:4] == b"PK\x03\x04" and data[30 : 30 + int.from_bytes(data[26:28], "little")].endswith(b"/data.pkl")


def fits_its_storage(tensor: Tensor) -> bool:
    """Whether a tensor has no more numbers than its storage; False for a view that repeats a few numbers."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def read_tensors(data: bytes, unpickler: "type[TensorUnpickler] | None" = None) -> Any:
    """The value in a zip of torch.save's, on the CPU. An `unpickler` of one's own may know more than tensors.

    Raises:
        MalformedError: its pickle is too large or too long, names a foreign global, or does not fit the other entries.
        Exception: zipfile and the unpickler raise any type over a damaged file.
    """
    with open_checked(data) as archive:
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
        return (unpickler or TensorUnpickler)(archive, archive.read(pickles[0]), folder).load()


class TensorUnpickler(PlainUnpickler):
    """Unpickles the values of a file of torch.save, with its tensors."""

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
            malformed(f"it names {whole}, which was not run")
        return found

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is known for known in _FUNCTIONS.values()) or len(arguments) > 8:
            malformed("a call of what is no function")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, OrderedDict) or not isinstance(state, dict) or state.keys() != {"_metadata"}:
            malformed("attributes for an object without any")
        target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # of a model: its modules' versions

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage, as a flat tensor."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[2], str):
            malformed("a malformed reference to stored numbers")
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype) or type(count) is not int:
            malformed("stored numbers without a type or a count")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            numbers = bytearray(entry.file_size)  # a copy: torch may write to it, and needs it aligned
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


class Outline(TensorUnpickler):
    """As `TensorUnpickler`, without the numbers: whether a file can be read shows in a moment."""

    def persistent_load(self, pid: Any) -> Tensor:
        return torch.empty(pid[4], dtype=pid[1], device="meta")


def _tensor(stored: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(stored, Tensor):
        malformed("a tensor without numbers")
    return torch.as_strided(stored, size, stride, offset)  # as_strided refuses views beyond the storage


#: All functions that are ever called. Sparse and meta tensors are not built; the caller reports their place.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: OrderedDict(),  # of nothing: keys of a stranger's pairs would be hashed
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_sparse_tensor": lambda layout, *_: UnsupportedTensor(f"{layout}, cpu"),
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *_: UnsupportedTensor(f"{torch.strided}, meta"),
    "torch.serialization._get_layout": lambda name: visible(str(name), 40),
    "torch.Size": lambda size: size,
}
