"""The cache of an ImageFolder's decoded images. Only a file that the user's own programs signed is trusted."""

import contextlib
import hashlib
import hmac
import io
import json
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_loader.npz import load_npz, read_bytes
from data_loader.pictures import SIZE
from logger.log import get_logger
from utils.errors import DataError, FileSystemError
from utils.files import cache_home, read_file, write_atomically

_VERSION = 2  # part of the cache's name: raise it when the decoding in pictures.py changes
_SHAPE = (3, SIZE, SIZE)
_KEY_BYTES = 32


@dataclass
class Decoded:
    """pixels: uint8 (N, 3, 32, 32), 0 in broken rows. `broken`: row -> reason. `dim`: rows of nearly black images."""

    pixels: np.ndarray
    broken: dict[int, str]
    dim: list[int]


def read(source: Path, key: str) -> Decoded | None:
    """The decoded images for `key`, a hash of their sources; None if there is no cache that this user's own programs
    signed. A cache that came with the source proves nothing."""
    try:
        for path in _paths(source, key):
            found = _read(path, _secret())
            if found is not None and found[0]["key"] == key:
                return found[1]
    except OSError:  # there is no signing key yet, or no place for one
        pass
    return None


def write(source: Path, key: str, decoded: Decoded) -> None:
    """Write `decoded` beside the source as `<name>.<hash>.32x32.v2.npz`, or into the user's cache folder if the
    source's own folder is read-only. Caches of earlier contents of the source are removed. A failure is a warning."""
    try:
        secret = _secret(make=True)
        path = _paths(source, key)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"source": str(source.resolve()), "key": key}
        write_atomically(path, _pack(about, decoded, secret))
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


def _paths(source: Path, key: str) -> list[Path]:
    return [place / f"{source.name}.{key[:16]}.{SIZE}x{SIZE}.v{_VERSION}.npz" for place in _places(source)]


def _secret(make: bool = False) -> bytes:
    """The user's own key, which signs their caches. Raises OSError if there is none."""
    path = _home() / "cache.key"
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
    secret = read_file(path, _KEY_BYTES)
    if len(secret) != _KEY_BYTES:
        raise OSError(f"{path} is no key of {_KEY_BYTES} bytes; remove it")
    return secret


def _sign(text: bytes, pixels: np.ndarray, secret: bytes) -> bytes:
    digest = hmac.new(secret, hashlib.sha256(text).digest(), "sha256")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _pack(about: dict[str, str], decoded: Decoded, secret: bytes) -> memoryview:
    broken = {str(row): reason for row, reason in decoded.broken.items()}
    text = json.dumps({**about, "broken": broken, "dim": decoded.dim}).encode()
    buffer = io.BytesIO()
    signature = np.frombuffer(_sign(text, decoded.pixels, secret), np.uint8)
    np.savez(buffer, images=decoded.pixels, about=np.frombuffer(text, np.uint8), signature=signature)
    return buffer.getbuffer()


def _read(path: Path, secret: bytes) -> tuple[dict[str, str], Decoded] | None:
    """A cache's source and key, and its contents; None if it is missing or not signed with `secret`."""
    try:
        if not path.is_file():
            return None
        arrays = load_npz(read_bytes(path), ("images", "about", "signature"), str(path))
        pixels, text, signature = (arrays[name] for name in ("images", "about", "signature"))
        if pixels.dtype != np.uint8 or pixels.shape[1:] != _SHAPE:
            return None
        if not hmac.compare_digest(_sign(text.tobytes(), pixels, secret), signature.tobytes()):
            return None
        about = json.loads(text.tobytes())
        broken = {int(row): reason for row, reason in about.pop("broken").items()}
        return {name: about[name] for name in ("source", "key")}, Decoded(pixels, broken, about["dim"])
    except (OSError, KeyError, DataError):
        return None


def _older(source: Path, newest: Path) -> Iterator[Path]:
    for place in _places(source):
        for path in place.glob(f"*.{SIZE}x{SIZE}.v*.npz"):
            if path.name.startswith(f"{source.name}.") and path != newest:
                yield path


def _remove_older(source: Path, newest: Path, secret: bytes) -> None:
    """Remove the caches of earlier contents of `source`; their signed contents name the source."""
    for path in _older(source, newest):
        found = _read(path, secret)
        if found is not None and found[0]["source"] == str(source.resolve()):
            path.unlink(missing_ok=True)
