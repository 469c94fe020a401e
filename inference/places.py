"""Checks the places that predict.py and export.py are to write to."""

from collections.abc import Callable
from pathlib import Path

from utils.errors import FileSystemError
from utils.folder import Folder


def refuse_others(out: Path, is_ours: Callable[[bytes], bool], limit: int) -> None:
    """Raise FileSystemError if `out` is a link, or a file whose first `limit` bytes are not ours; an empty file is."""
    folder = Folder(out.parent)
    if not out.is_dir() and folder.size(out.name) and not is_ours(folder.read(out.name, limit) or b""):
        raise FileSystemError(f"{out} exists, and this program did not write it; move it away, or name another file")
