"""Reads a stranger's .npz and .npy."""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from utils.errors import DataError
from utils.files import read_file
from utils.memory_zip import open_checked
from utils.plain_pickle import malformed
from utils.reading import errors_as
from utils.text import quoted, visible

#: Limit in bytes for a dataset file and for its unfolded arrays; CIFAR10 in float64 takes 1.4 GiB.
LARGEST = 4 << 30


_LONGEST_HEADER = 1024  # limit in bytes for an array's header, a Python literal; numpy writes 118


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises DataError if it cannot be read or is larger than LARGEST."""
    try:
        return read_file(path, LARGEST)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def load_npz(data: bytes, names: Sequence[str], source: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `names` of an .npz, and those of `optional` that it has. Nothing is unpickled.

    Raises:
        DataError: it is malformed, lacks one of `names`, holds objects, or would unfold to more than LARGEST bytes.
    """
    with errors_as(DataError, source, "malformed .npz", "; get or build it again"), _opened(data) as archive:
        entries = {_name(entry): entry for entry in archive.infolist()}
        if any(name not in entries for name in names):
            raise DataError(f"{source}: expected the arrays {' and '.join(map(repr, names))}, found {quoted(entries)}")
        wanted = {name: entries[name] for name in (*names, *optional) if name in entries}
        size = sum(entry.file_size for entry in wanted.values())
        if size > LARGEST:
            raise DataError(f"{source}: it unfolds to {size:,} bytes, more than the {LARGEST:,} that are read")
        return {name: read_entry(archive, entry) for name, entry in wanted.items()}


def npz_names(data: bytes, source: str) -> list[str]:
    """The names of an .npz's arrays. Raises DataError if it is malformed."""
    with errors_as(DataError, source, "malformed .npz", "; get or build it again"), _opened(data) as archive:
        return [_name(entry) for entry in archive.infolist()]


def load_npy(data: bytes, source: str) -> np.ndarray:
    """The array of an .npy. Nothing is unpickled. Raises DataError if it is malformed or holds objects."""
    with errors_as(DataError, source, "malformed .npy", "; get or build it again"):
        return _read_array(partial(io.BytesIO, data), "it", len(data))


def pickle_in_npy(data: bytes) -> bytes | None:
    """The pickle in an .npy of a dict, as numpy.save writes it; None if it is any other file."""
    start = 10 + int.from_bytes(data[8:10], "little")
    is_npy, one_object = data.startswith(b"\x93NUMPY\x01"), b"'descr': '|O', 'fortran_order': False, 'shape': ()"
    return data[start:] if is_npy and one_object in data[:start] else None


def _opened(data: bytes) -> zipfile.ZipFile:
    if not data.startswith(b"PK"):
        malformed("it is no zip")
    return open_checked(data)


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """The array in an entry. Raises any Exception if it is malformed."""
    return _read_array(*_entry(archive, entry))


def map_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> np.memmap:
    """The array in an entry of the archive at `path`, which is not compressed, as a map of the file, which cannot be
    written to: a private map would count as the process's own memory. Raises any Exception if it is malformed."""
    shape, fortran, dtype, length = _check_header(*_entry(archive, entry))
    if entry.compress_type != zipfile.ZIP_STORED:
        malformed("its array is compressed")
    with open(path, "rb") as file:
        file.seek(entry.header_offset + 26)  # of the entry's own header, which ends in two texts
        texts = struct.unpack("<HH", file.read(4))
        start = file.tell() + sum(texts) + length
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


#: What opens a file of one array, its name, and its size in bytes.
_File = tuple[Callable[[], IO[bytes]], str, int]


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _File:
    return partial(archive.open, entry), visible(entry.filename, 60), entry.file_size


def _read_array(opened: Callable[[], IO[bytes]], name: str, size: int) -> np.ndarray:
    _check_header(opened, name, size)
    with opened() as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    assert isinstance(array, np.ndarray)
    return array


def _check_header(opened: Callable[[], IO[bytes]], name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, type and the length of the header of an array, after a check against the size of its file:
    numpy reads a header of any length, and allocates the size in it."""
    with opened() as file:
        start = file.read(12)
        if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
            malformed(f"{name} is no array")
        end = 10 if start[6] == 1 else 12  # the end of the field with the header's length
        length = end + int.from_bytes(start[8:end], "little")
        if length > _LONGEST_HEADER:
            malformed(f"{name} has a header of {length:,} bytes")
        header = io.BytesIO(start + file.read(length - len(start)))
        version = np.lib.format.read_magic(header)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(header)
        if dtype.hasobject:
            malformed(f"{name} holds objects")
        if math.prod(shape) * dtype.itemsize + length != size:
            malformed(f"{name} is said to be {shape} of {dtype}, and has {size - length:,} bytes")
    return shape, fortran, dtype, length
