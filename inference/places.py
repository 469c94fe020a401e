"""Checks the places that predict.py and export.py are to write to."""

from collections.abc import Callable
from pathlib import Path

from utils.errors import FileSystemError
from utils.folder import Folder

_ENDS = 16 << 20  # bytes of a file's beginning and end, in which the texts of an exported file stand


def refuse_others(out: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Raise FileSystemError if `out` is a link, or a file whose beginning and end are not ours; an empty one is."""
    folder, name = Folder(out.parent), out.name
    if out.is_dir() or not folder.size(name):
        return
    if not is_ours((folder.read(name, _ENDS) or b"") + folder.tail(name, _ENDS)):
        raise FileSystemError(f"{out} exists, and this program did not write it; move it away, or name another file")
