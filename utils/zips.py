"""Reads zip files from strangers: every fault is a BadZipFile, and no entry unfolds beyond its declared size."""

import bz2
import copy
import errno
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.files import open_regular

_LZMA_MEMORY = 128 << 20  # limit in bytes of the dictionary that an entry requests


@contextmanager
def zip_faults() -> Iterator[None]:
    """Turn the errors of `zipfile` and its decompressors over a damaged or hostile zip into BadZipFile.

    MemoryError and the machine's own OSErrors pass unchanged: the zip is not to blame.
    """
    try:
        yield
    except (MemoryError, zipfile.BadZipFile):
        raise
    except OSError as error:
        # bz2's "invalid data stream" has no errno; a zip that points outside the file gives EINVAL.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise zipfile.BadZipFile(str(error)) from error
    except Exception as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip. Raises zipfile.BadZipFile if it is no zip, or OSError if it is no regular file or cannot be read."""
    with open_regular(path) as file:
        with zip_faults():
            archive = zipfile.ZipFile(file)
        with archive:
            yield archive


def name_of(entry: zipfile.ZipInfo) -> str:
    """An entry's name with forward slashes. Without the UTF-8 flag it is read as UTF-8 if that works, else as cp437."""
    name = entry.orig_filename
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The contents of an entry. Neither its compressed nor its unfolded size may exceed `limit` bytes.

    zipfile itself unfolds all that it has read, whatever size the entry declares: 4 kB of bzip2 become 4 GB.

    Raises:
        zipfile.BadZipFile: the entry is damaged, encrypted, too large, or compressed in an unknown way.
        OSError, MemoryError: the machine cannot read it.
    """
    with zip_faults():
        size = max(entry.file_size, entry.compress_size)
        if size > limit:
            raise ValueError(f"{size:,} bytes, more than the {limit:,} that are read")
        stored = copy.copy(entry)
        stored.compress_type, stored.file_size = zipfile.ZIP_STORED, entry.compress_size
        stored.CRC = None  # type: ignore[assignment]  # zipfile takes None for "unknown"
        with archive.open(stored) as file:
            data = _unfold(file.read(), entry)
        if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
            raise ValueError("its size or checksum is not the one that the zip says")
        return data


def _unfold(data: bytes, entry: zipfile.ZipInfo) -> bytes:
    most = entry.file_size + 1
    match entry.compress_type:
        case zipfile.ZIP_STORED:
            return data
        case zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-15).decompress(data, most)
        case zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(data, most)
        case zipfile.ZIP_LZMA:
            # Two bytes of version, two of the length of the properties, 5 of properties: an .lzma file without size.
            alone = data[4:9] + b"\xff" * 8 + data[9:]
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY).decompress(alone, most)
    raise NotImplementedError(f"it is compressed in a way (method {entry.compress_type}) that is not known here")
