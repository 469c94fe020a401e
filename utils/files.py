"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import hashlib
import os
import secrets
from pathlib import Path

from utils.errors import ConfigError, FileSystemError


def user_path(text: str) -> Path:
    """The path that a user wrote, `~` expanded. Raises ConfigError where there is no such path."""
    try:
        if "\0" in text:
            raise RuntimeError("it holds a NUL character")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text!r} is no path: {error}") from None


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` through a synced temporary file in the same folder and os.replace.

    Raises:
        FileSystemError: the file cannot be written (disk full, no permission); names the path and the bytes needed.
            The temporary file is removed, and what was at `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FileSystemError(f"cannot write {path} ({len(data):,} bytes): {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
