"""Zip files from strangers: whatever is wrong with one is a BadZipFile, and no entry unfolds beyond its size."""

import bz2
import copy
import errno
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LZMA_MEMORY = 128 << 20  # bytes of a dictionary, which the entry asks for


@contextmanager
def zip_faults() -> Iterator[None]:
    """Make a BadZipFile of what `zipfile` and its decompressors raise for a damaged or hostile zip.

    MemoryError and what the machine refuses (an OSError) go by: they say nothing of the zip.
    """
    try:
        yield
    except (MemoryError, zipfile.BadZipFile):
        raise
    except OSError as error:
        # bz2's "invalid data stream" has no number; a zip that points to places that there are not is EINVAL.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise zipfile.BadZipFile(str(error)) from error
    except Exception as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises zipfile.BadZipFile if it is no zip, or OSError if it cannot be read."""
    with zip_faults():
        return zipfile.ZipFile(path)


def name_of(entry: zipfile.ZipInfo) -> str:
    """An entry's name with forward slashes. Without the flag for UTF-8 it is UTF-8 if it can be, else code page 437."""
    name = entry.orig_filename
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The contents of an entry, of which neither form may have more than `limit` bytes.

    zipfile itself unfolds all that it has read, whatever size the entry claims: 4 kB of bzip2 become 4 GB.

    Raises:
        zipfile.BadZipFile: it is damaged, encrypted, too large, or compressed in an unknown way.
        OSError, MemoryError: the machine does not give it out.
    """
    with zip_faults():
        size = max(entry.file_size, entry.compress_size)
        if size > limit:
            raise ValueError(f"{size:,} bytes, more than the {limit:,} that are read")
        stored = copy.copy(entry)
        stored.compress_type, stored.file_size = zipfile.ZIP_STORED, entry.compress_size
        stored.CRC = None  # type: ignore[assignment]  # which zipfile takes for "not known"
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
            # Two bytes of version, two of the length of the properties, which are 5: an .lzma file without its size.
            alone = data[4:9] + b"\xff" * 8 + data[9:]
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY).decompress(alone, most)
    raise NotImplementedError(f"it is compressed in a way (method {entry.compress_type}) that is not known here")
