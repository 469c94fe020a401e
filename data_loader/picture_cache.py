"""The cache of an ImageFolder's decoded images. Only a file that the user's own programs signed is trusted."""

import glob
import hashlib
import hmac
import json
import math
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_loader.npz import map_entry, read_entry
from logger.log import get_logger
from utils.errors import DataError, FileSystemError
from utils.files import cache_home, read_file, replacing
from utils.memory_zip import GuardedFile, open_checked
from utils.reading import errors_as

_VERSION = 2  # part of the cache's name: raise it when the decoding in pictures.py changes
_KEY_BYTES = 32
_LARGEST_ABOUT = 256 << 20  # bytes of all but the pixels


@dataclass
class Decoded:
    """pixels: uint8 (N, 3, side, side), 0 in broken rows; in memory, or a map of a file. `broken`: row -> reason.
    `dim`: rows of nearly black images."""

    pixels: np.ndarray
    broken: dict[int, str]
    dim: list[int]


def blank(source: Path, shape: tuple[int, ...], in_memory: bool, may_write: bool) -> np.ndarray:
    """Zeros uint8, in memory, or in a file without a name, which goes when it is no longer used. It lies where the
    cache will, or in the system's temporary folder until writing there is allowed.

    Raises:
        FileSystemError: there is no room for the file.
    """
    if in_memory:
        return np.zeros(shape, np.uint8)
    place = _made_place(source) if may_write else None
    size = math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # writing to what the disk cannot hold would end the process by a signal
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        where = place or tempfile.gettempdir()
        raise FileSystemError(
            f"cannot write {size:,} bytes of decoded images in {where} ({error.strerror}); make room there, or set "
            "data_loader.args.in_memory=true"
        ) from error


def read(source: Path, key: str, side: int, in_memory: bool = True) -> Decoded | None:
    """The decoded images for `key`, a hash of their sources; None if there is no cache that this user's own programs
    signed. A cache that came with the source proves nothing."""
    try:
        for path in _paths(source, key, side):
            found = _read(path, _secret(), in_memory)
            if found is not None and found[0]["key"] == key and found[1].pixels.shape[1:] == (3, side, side):
                return found[1]
    except OSError:  # there is no signing key yet, or no place for one
        pass
    return None


def write(source: Path, key: str, decoded: Decoded) -> None:
    """Write `decoded` beside the source as `<name>.<hash>.<side>x<side>.v2.npz`, or into the user's cache folder if the
    source's own folder is read-only. Caches of earlier contents of the source are removed. A failure is a warning."""
    try:
        secret = _secret(make=True)
        path = _paths(source, key, decoded.pixels.shape[2])[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, {"source": str(source.resolve()), "key": key}, decoded, secret)
        _remove_older(source, path, secret)
    except (OSError, FileSystemError) as error:
        get_logger().warning("the images are not cached and will be decoded again next time: %s", error)


def _home() -> Path:
    """Our folder in the user's cache folder. Raises OSError if there is none."""
    home = cache_home()
    if home is None:
        raise OSError("there is no home folder; name a folder with XDG_CACHE_HOME")
    return home / "convnorm-experiments"


def _places(source: Path) -> list[Path]:
    """The folders for a cache; the first is the one to write to."""
    beside = source.resolve().parent
    # access() alone is not enough: root may write anywhere, but a folder that is marked read-only must not change.
    writable = os.access(beside, os.W_OK) and beside.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return [beside, _home()] if writable else [_home(), beside]


def _made_place(source: Path) -> Path | None:
    """The folder that a cache is written to, or None if there is none."""
    try:
        place = _places(source)[0]
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return place


def _paths(source: Path, key: str, side: int) -> list[Path]:
    return [place / f"{source.name}.{key[:16]}.{side}x{side}.v{_VERSION}.npz" for place in _places(source)]


def _secret(make: bool = False) -> bytes:
    """The user's own key, which signs their caches. Raises OSError if there is none."""
    path = _home() / "cache.key"
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, 0o600) as file:  # of two processes' keys the later stays; the other's cache is made again
            file.write(secrets.token_bytes(_KEY_BYTES))
    secret = read_file(path, _KEY_BYTES)
    if len(secret) != _KEY_BYTES:
        raise OSError(f"{path} is no key of {_KEY_BYTES} bytes; remove it")
    return secret


def _sign(text: bytes, pixels: np.ndarray, secret: bytes) -> bytes:
    digest = hmac.new(secret, hashlib.sha256(text).digest(), "sha256")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _write(path: Path, about: dict[str, str], decoded: Decoded, secret: bytes) -> None:
    """The images may be larger than the memory, so they go straight into the temporary file."""
    broken = {str(row): reason for row, reason in decoded.broken.items()}
    text = json.dumps({**about, "broken": broken, "dim": decoded.dim}).encode()
    signature = np.frombuffer(_sign(text, decoded.pixels, secret), np.uint8)
    with replacing(path) as file:
        np.savez(file, images=decoded.pixels, about=np.frombuffer(text, np.uint8), signature=signature)


def _read(path: Path, secret: bytes, in_memory: bool = False) -> tuple[dict[str, str], Decoded] | None:
    """A cache's source and key, and its contents; None if it is missing or not signed with `secret`."""
    try:
        if not path.is_file():
            return None
        with errors_as(DataError, str(path), "malformed"), GuardedFile(path) as file, open_checked(file) as archive:
            entries = [archive.getinfo(f"{name}.npy") for name in ("about", "signature")]
            if sum(entry.file_size for entry in entries) > _LARGEST_ABOUT:
                return None
            text, signature = (read_entry(archive, entry) for entry in entries)
            pixels: np.ndarray = map_entry(archive, archive.getinfo("images.npy"), path)
            pixels = np.array(pixels) if in_memory else pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            return None
        if not hmac.compare_digest(_sign(text.tobytes(), pixels, secret), signature.tobytes()):
            return None
        about = json.loads(text.tobytes())
        broken = {int(row): reason for row, reason in about.pop("broken").items()}
        return {name: about[name] for name in ("source", "key")}, Decoded(pixels, broken, about["dim"])
    except (OSError, KeyError, DataError):
        return None


def _older(source: Path, newest: Path) -> Iterator[Path]:
    """The other caches of `source`, except those of the same contents in another size."""
    same, size = newest.name.rsplit(".", 3)[0] + ".", newest.name.rsplit(".", 3)[1]
    for place in _places(source):
        for path in place.glob(f"{glob.escape(source.name)}.*x*.v*.npz"):
            if path != newest and (f".{size}." in path.name or not path.name.startswith(same)):
                yield path


def _remove_older(source: Path, newest: Path, secret: bytes) -> None:
    """Remove the caches of earlier contents of `source`; their signed contents name the source."""
    for path in _older(source, newest):
        found = _read(path, secret)
        if found is not None and found[0]["source"] == str(source.resolve()):
            path.unlink(missing_ok=True)
