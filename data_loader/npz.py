"""Reading an .npz from a stranger."""

import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from utils.errors import DataError

#: Bytes of a dataset file, and of the arrays that come out of it; CIFAR10 in float64 takes 1.4 GiB.
LARGEST = 4 << 30

#: What reading a damaged or hostile zip can raise.
ZIP_ERRORS = (
    *(ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError),
    *(MemoryError, OverflowError, SyntaxError, zipfile.BadZipFile, zlib.error),
)


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises DataError if it cannot be read or is larger than any dataset file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            if size > LARGEST:
                raise DataError(f"{path}: {size:,} bytes, but a dataset file has at most {LARGEST:,}")
            file.seek(0)
            return file.read()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def load_npz(data: bytes, names: Iterable[str], source: str) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that are in an .npz; the others are not looked at, and nothing is unpickled.

    Raises:
        DataError: it is malformed, holds objects, or would unfold to more than LARGEST bytes.
    """
    try:
        if not data.startswith(b"PK"):
            raise ValueError("it is no zip")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.zip.infolist()}
            wanted = [name for name in names if name in archive.files]
            size = sum(sizes.get(f"{name}.npy", sizes.get(name, 0)) for name in wanted)
            if size > LARGEST:
                raise DataError(f"{source}: it unfolds to {size:,} bytes, more than the {LARGEST:,} that are read")
            arrays = {name: archive[name] for name in wanted}
    except DataError:
        raise
    except Exception as error:  # numpy reads an array's header as Python text, which can be wrong in many ways
        reason = " ".join(str(error).split()[:20]) or type(error).__name__
        raise DataError(f"{source}: malformed .npz ({reason}); get or build it again") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # an entry that is no .npy comes as bytes
            raise DataError(f"{source}: malformed .npz ({name} is no array); get or build it again")
    return arrays
