"""The dataset file: the same bytes from the same images, whenever they are written."""

import mmap
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.errors import ConfigError, FileSystemError
from utils.files import write_atomically
from utils.folder import Folder

PACKED_NAME = "packed"
SCRATCH = ("images.npy", "labels.npy", PACKED_NAME)  # what is written on the way to the file
SUFFIXES = (".npz", ".pkl", ".pickle")
TYPES: dict[str, np.dtype] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4"), "float64": np.dtype("<f8")}


def check_suffix(out: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"-o {out}: the name of a dataset file ends in {', '.join(SUFFIXES)}")


def convert(pixels: np.ndarray, form: str, layout: str) -> np.ndarray:
    """The pixels as the file has them, of uint8 (n, 3, 32, 32): floats are x / 255, in [0, 1]."""
    if layout == "NHWC":
        pixels = pixels.transpose(0, 2, 3, 1)
    kind = TYPES[form]
    return np.ascontiguousarray(pixels if form == "uint8" else pixels.astype(kind) / kind.type(255))


def write_arrays(
    folder: Folder, chunks: Iterable[np.ndarray], shape: tuple[int, ...], form: str, labels: np.ndarray
) -> None:
    """Write images.npy and labels.npy into `folder`. `chunks` are some images each, as `convert` makes them; no more
    than one is in memory at once, since all of them may take gigabytes.
    """
    with _writing(folder, "images.npy") as file:
        header = {"descr": np.lib.format.dtype_to_descr(TYPES[form]), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)
    with _writing(folder, "labels.npy") as file:
        np.lib.format.write_array(file, labels)


def pack_pickle(folder: Folder) -> Path:
    """The arrays that `write_arrays` left in `folder`, as a pickle of a dict."""
    # Protocol 5 writes an array straight from where it lies, here the mapped file, instead of copying it first. The
    # map is one that may be written to, although nothing does, for else the arrays could not be by those who load it.
    value = {
        name: np.load(folder.path / f"{name}.npy", mmap_mode="c").view(np.ndarray) for name in ("images", "labels")
    }
    with _writing(folder, PACKED_NAME) as file:
        pickle.dump(value, file, protocol=5)
    return folder.path / PACKED_NAME


def pack_npz(folder: Folder) -> Path:
    """The arrays that `write_arrays` left in `folder`, as an .npz without the time of day that np.savez puts in."""
    with _writing(folder, PACKED_NAME) as file, zipfile.ZipFile(file, "w") as archive:
        for name in ("images.npy", "labels.npy"):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # as on Unix, wherever this runs
            entry.external_attr = 0o644 << 16
            with open(folder.path / name, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return folder.path / PACKED_NAME


def publish(packed: Path, out: Path) -> None:
    """Put the contents of `packed` in the place of `out`."""
    with open(packed, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            write_atomically(out, view)
        finally:
            view.release()


@contextmanager
def _writing(folder: Folder, name: str) -> Iterator[BinaryIO]:
    """A file to write anew. Raises FileSystemError."""
    try:
        if folder.size(name) is not None:
            folder.remove(name)
        with folder.create(name, buffering=-1) as file:
            yield file
    except OSError as error:
        raise FileSystemError(f"cannot write {folder.path / name}: {error.strerror or error}") from error
