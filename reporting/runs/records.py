"""Packs the files that a report reads, without checkpoints, into one small zip, and unpacks it."""

import errno
import io
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from utils.errors import DataError, FileSystemError
from utils.files import folders_below, read_file, write_atomically
from utils.folder import Folder
from utils.run_files import CONFIG_NAME, DATA_NAME, DIAGNOSTICS_NAME, DIVERGED_NAME, GRID_NAME, METRICS_NAME
from utils.text import encodable
from utils.zips import name_of, open_zip, read_entry

NAMES = (GRID_NAME, CONFIG_NAME, METRICS_NAME, DIAGNOSTICS_NAME, DIVERGED_NAME, DATA_NAME)
_OF_RUNS = (METRICS_NAME, DIVERGED_NAME)  # a folder with one of them is a run's
LARGEST = 1 << 30  # bytes that an archive may unfold to
MOST = 60_000  # files in it, which are those of 10,000 runs
LARGEST_FILE = 1 << 26  # bytes
_DATE = (1980, 1, 1, 0, 0, 0)  # the same records are the same bytes, whenever they are written


def write_records(folders: Mapping[str, Path], path: Path) -> int:
    """Write the records of all runs in and below `folders` to the zip `path`, each folder below its name, which may be
    empty; returns the number of runs.

    Raises:
        DataError: a file cannot be read.
        FileSystemError: the zip cannot be written, `path` is another kind of file, or a file of a run is a link: a
            received one may lead to anything, and records are passed on.
    """
    if os.path.lexists(path) and not _are_records(path):
        raise FileSystemError(f"{path}: what is there is no zip of records, and it would be replaced; see --records")
    runs = 0
    seen: set[Path] = set()  # one of the folders may lie in another
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, folder in folders.items():
            found = (place / name for place, names in folders_below(folder) for name in names if name in NAMES)
            files = sorted(file for file in found if file.is_file())
            files = [file for file in files if file.resolve() not in seen]
            seen |= {file.resolve() for file in files}
            of_runs = {file.parent for file in files if file.name in _OF_RUNS}
            runs += len(of_runs)
            for file in files:
                if file.parent in of_runs or file.name == GRID_NAME:
                    Folder(file.parent).size(file.name)  # which refuses links
                    place = (PurePosixPath(name) / file.relative_to(folder).as_posix()).as_posix()
                    entry = zipfile.ZipInfo(encodable(place), _DATE)
                    try:
                        archive.writestr(entry, read_file(file, LARGEST_FILE), zipfile.ZIP_DEFLATED, 9)
                    except OSError as error:
                        raise DataError(f"cannot put {file} into the records: {error.strerror}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return runs


def _are_records(path: Path) -> bool:
    """Whether `path` is a zip as `write_records` makes it: by the dates, since other zips may have these names, and by
    what makes a folder a run."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        names = {PurePosixPath(entry.filename).name for entry in entries}
        dated = all(entry.date_time == _DATE for entry in entries)
        return dated and names <= {*NAMES} and not names.isdisjoint((*_OF_RUNS, GRID_NAME))
    except Exception:  # whatever zipfile makes of what is no zip
        return False


@contextmanager
def unfolded(source: Path) -> Iterator[Path]:
    """The folder `source` itself, or a temporary folder with the contents of a zip of records.

    Raises:
        DataError: it is a file but not such a zip, or would unpack to more than LARGEST bytes or MOST files.
        FileSystemError: there is no room to unpack it.
    """
    if not source.is_file():
        yield source
        return
    with tempfile.TemporaryDirectory() as place:
        _unfold(source, Path(place))
        yield Path(place)


def _unfold(source: Path, folder: Path) -> None:
    try:
        with open_zip(source) as archive:
            entries = [entry for entry in archive.infolist() if PurePosixPath(name_of(entry)).name in NAMES]
            if sum(entry.file_size for entry in entries) > LARGEST or len(entries) > MOST:
                raise DataError(f"{source}: it unfolds to more than {LARGEST:,} bytes or {MOST:,} files")
            for entry in entries:
                _write(folder, name_of(entry), read_entry(archive, entry, LARGEST))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileSystemError(f"cannot unfold {source} in {folder}: {error.strerror}") from error
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{source} is neither a folder of runs nor a zip of their records ({error})") from error


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write an entry within `folder`, whatever its name. Raises BadZipFile if another entry is in its way."""
    path = folder.joinpath(
        *(part.replace(":", "_") for part in PurePosixPath(name).parts if part not in ("/", "//", ".."))
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except (OSError, ValueError) as error:
        theirs = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
        if isinstance(error, OSError) and error.errno not in theirs:
            raise
        raise zipfile.BadZipFile(f"the entry {name!r} cannot be written: {error}") from error
