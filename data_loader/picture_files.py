"""Finds the pictures in folders and .zip files by class and split, and counts all other files."""

import errno
import os
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_loader.pictures import LARGEST_IMAGE, SUFFIXES, BrokenImageError, UnreadableFileError, out_of_memory
from utils.errors import DataError
from utils.files import read_file
from utils.text import first_of, visible
from utils.zips import name_of, open_zip, read_entry

#: Folder name in lower case -> split, in the order of the images.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SYSTEM = frozenset({"__macosx", "lost+found", "system volume information", "$recycle.bin", "@eadir", "#recycle"})
_NAME_ONE = "name one with data_loader.args.data_dir"

HIDDEN = "hidden or of the system"
OUTSIDE = "outside train/, val/ and test/"
NO_CLASS = "in no class folder"
NO_FORMAT = "of no format that is read"
NO_FILE = "no regular file"
EMPTY = "class folder with nothing in it"
CIRCLE = "link to a folder that it lies in"
TWICE = "on another way to a folder of the same class"
UNREADABLE = "that cannot be looked into"
_CLASS_DEPTH = 3  # of the path parts above the pictures, the most that name a class, as data/train/<class> do

#: A predicate on a folder, by the parts of its path in the source.
Parts = Callable[[Sequence[str]], bool]


def everything(*_: object) -> bool:
    return True


class LeftOut:
    """The unused entries of a source, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """One line, or no line if nothing was left out."""
        parts = [f"{len(names):,} {reason} (such as {visible(names[0], 60)})" for reason, names in self._names.items()]
        return ("left out: " + ", ".join(parts),) if parts else ()


#: A predicate on a class folder, by its split and its class.
Wanted = Callable[[str, str], bool]


@dataclass(frozen=True)
class Labelled:
    """A picture of the class `label`. `split` is one of SPLITS' values, or empty; `name` is its path in the source."""

    split: str
    label: str
    name: str


def hidden(part: str) -> bool:
    """Whether a file or folder of this name is hidden or belongs to the system."""
    return part.startswith(".") or part.casefold() in _SYSTEM or part.casefold() in ("thumbs.db", "desktop.ini")


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def class_name(folder: str) -> str:
    """A normalised name, the same for names that look alike: é may be one character or two."""
    return unicodedata.normalize("NFC", folder)


@dataclass
class Tree:
    """The result of a walk, in order: relative names with forward slashes, and the entries that were left out."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def walk(folder: Path, wanted: Parts = everything, needed: Parts = everything) -> Tree:
    """All files below `folder`, in the subfolders that are `wanted`; hidden folders are never opened.

    Links to folders are followed, except in circles, and within a class once to each folder: links to links would make
    twice the work with each level. So several classes or splits may share a folder. Broken links are listed like files.

    Raises:
        UnreadableFileError: a `needed` folder cannot be opened.
    """
    tree = Tree()

    def refuse(error: OSError) -> None:
        inside = Path(error.filename).relative_to(folder)
        if needed(inside.parts):
            reason = f"cannot look into {error.filename} ({error.strerror}); make it readable"
            raise UnreadableFileError(reason, error.strerror) from error
        tree.left_out.add(UNREADABLE, f"{inside.as_posix()}/")

    chains: dict[Path, tuple[Path, ...]] = {folder: (folder.resolve(),)}  # folder -> its real path and those above it
    visited: set[tuple[tuple[str, ...], Path]] = set()  # class and real path
    for place, below, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        chain = chains.pop(here)
        names, below[:] = sorted(below), ()  # sorted: of two ways to a folder the same one is taken everywhere
        for name in names:
            inside = (here / name).relative_to(folder)
            real = (here / name).resolve()
            visit = inside.parts[:_CLASS_DEPTH], real
            if hidden(name) or not wanted(inside.parts) or real in chain or visit in visited:
                again = CIRCLE if real in chain else TWICE if visit in visited else OUTSIDE
                tree.left_out.add(HIDDEN if hidden(name) else again, f"{inside.as_posix()}/")
            else:
                below.append(name)
                visited.add(visit)
                chains[here / name] = (*chain, real)
                tree.folders.append(inside.as_posix())
        for name in files:
            inside = (here / name).relative_to(folder)
            if hidden(name) or not _is_file(here / name, refuse):
                tree.left_out.add(HIDDEN if hidden(name) else NO_FILE, inside.as_posix())
            else:
                tree.files.append(inside.as_posix())
    tree.files.sort()
    return tree


def _is_file(path: Path, refuse: Callable[[OSError], None]) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError as error:  # the folder lists its files but does not allow access to them
        refuse(error)
        return False
    except OSError:  # a broken link: reading it will raise the error
        pass
    return True


class Files:
    """The files below a folder or inside a zip, by their relative POSIX names; hidden ones are left out.

    `base` is the number of folders around train/, val/ and test/. It is None if there are no such folders with
    subfolders, or if `splits` is false. If there are, no other folders are opened. A `needed` folder that cannot be
    opened is an error.

    Raises:
        DataError: it is no source, or several folders have such splits. `choose` says how to name one of them.
    """

    def __init__(self, source: Path, splits: bool = True, needed: Parts = everything, choose: str = _NAME_ONE) -> None:
        self._source = source
        self._choose = choose
        self._zip: zipfile.ZipFile | None = None
        self._closing = ExitStack()
        self.base: int | None = None
        if source.is_dir():
            if splits:
                self.base = self._base(_upper_folders(source))
            tree = walk(source, self._wanted, needed if self.base is None else self._within)
        else:
            tree = self._list_zip()
            if splits:
                self.base = self._base(PurePosixPath(name).parts for name in tree.folders)
        self.notes: list[str] = []  # other lines for the user
        self.names, self.folders, self.left_out = tree.files, tree.folders, tree.left_out

    def _base(self, folders: Iterable[Sequence[str]]) -> int | None:
        """The number of folders around the splits' folders that have subfolders; None if there are none."""
        around = {tuple(parts[:-2]) for parts in folders if len(parts) in (2, 3) and parts[-2].casefold() in SPLITS}
        if len(around) > 1 and () not in around:
            choose = self._choose if self._zip is None else "make a zip of one"
            raise DataError(
                f"{self._source}: several datasets: {first_of(sorted(name for (name,) in around))}; {choose}"
            )
        return min(map(len, around), default=None)

    def _wanted(self, parts: Sequence[str]) -> bool:
        return self.base is None or len(parts) <= self.base or self._within(parts)

    def _within(self, parts: Sequence[str]) -> bool:
        """Whether a folder is a split's folder, or lies in one."""
        assert self.base is not None
        return len(parts) > self.base and parts[self.base].casefold() in SPLITS

    def _list_zip(self) -> Tree:
        try:
            self._zip = self._closing.enter_context(open_zip(self._source))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self._source} is neither a folder nor a readable .zip ({error})") from error
        # A zip may hold one name twice; the last one is read.
        self._entries = {name_of(info): info for info in self._zip.infolist()}
        tree = Tree()
        folders: dict[str, None] = {}
        for name in self._entries:
            path = PurePosixPath(name)
            if any(map(hidden, path.parts)):
                tree.left_out.add(HIDDEN, name)
                continue
            above = path.parts if name.endswith("/") else path.parts[:-1]
            folders.update(dict.fromkeys("/".join(above[:count]) for count in range(1, min(len(above), 8) + 1)))
            if not name.endswith("/"):
                tree.files.append(name)
        tree.folders = list(folders)
        return tree

    def read(self, name: str) -> bytes:
        """The bytes of one of `names`.

        Raises:
            UnreadableFileError: the machine cannot read them.
            BrokenImageError: they are damaged, or too many for an image.
        """
        with _faults(str(self._source), name):
            if self._zip:
                return read_entry(self._zip, self._entries[name], LARGEST_IMAGE)
            return read_file(self._source / name, LARGEST_IMAGE)

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def read_picture(path: Path) -> bytes:
    """The bytes of one file. Raises as `Files.read` does."""
    with _faults(str(path.parent), path.name):
        return read_file(path, LARGEST_IMAGE)


@contextmanager
def _faults(source: str, name: str) -> Iterator[None]:
    """Turn the errors of reading the file `name` in `source` into those of `Files.read`."""
    where = f"{source}: {name}"
    try:
        yield
    except MemoryError as error:
        raise out_of_memory(where) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise BrokenImageError(where, str(error.strerror)) from error
        message = f"{source}: cannot read {name} ({error.strerror}); make it readable, or take it away"
        raise UnreadableFileError(message, error.strerror) from error
    except zipfile.BadZipFile as error:
        raise BrokenImageError(where, str(error)) from error


def _upper_folders(source: Path) -> list[tuple[str, ...]]:
    """The path parts of the folders in the first three levels that can be opened and matter to `Files._base`."""
    found: list[tuple[str, ...]] = []

    def look(parts: tuple[str, ...]) -> None:
        try:
            with os.scandir(source.joinpath(*parts)) as entries:
                below = [(*parts, entry.name) for entry in entries if not hidden(entry.name) and entry.is_dir()]
        except OSError:
            return
        found.extend(below)
        for inside in below:
            if len(inside) == 1 or (len(inside) == 2 and inside[1].casefold() in SPLITS):
                look(inside)

    look(())
    return found


def by_split(files: Files, source: Path, wanted: Wanted = everything) -> list[Labelled]:
    """The pictures of <split>/<class>/, at any depth below. `files.base` must not be None.

    It adds all other files to `files.left_out`.

    Raises:
        DataError: a `wanted` class folder has no picture, or its name is not UTF-8.
    """
    assert files.base is not None
    return _collect(files, source, files.base, files.base + 2, wanted)


def by_class(files: Files, source: Path, wanted: Wanted = everything, advice: str = "") -> list[Labelled]:
    """As `by_split`, for <class>/ without splits; there may be one folder around all of it, or two.

    Two are taken for such only if the inner one has several folders with pictures, and no picture beside them. `advice`
    ends the message about class folders without a picture.
    """
    pictures = [PurePosixPath(name).parts for name in files.names if is_picture(name)]

    def folders(at: int) -> set[str]:
        return {parts[at] for parts in pictures if len(parts) > at + 1}

    lengths = {len(parts) for parts in pictures}
    depth = 1
    if len(folders(0)) == 1 and folders(1):
        depth = 2
        if len(folders(1)) == 1 and len(folders(2)) > 1 and 3 not in lengths and 4 in lengths:
            depth = 3
    return _collect(files, source, None, depth, wanted, advice)


def _collect(
    files: Files, source: Path, at: int | None, depth: int, wanted: Wanted, advice: str = ""
) -> list[Labelled]:
    """`at`: the index of the path part that names the split, or None. `depth`: the number of a class folder's parts."""
    found: list[Labelled] = []
    full: dict[tuple[str, ...], None] = {}  # class folders with a picture
    others: dict[tuple[str, ...], Counter[str]] = {}  # suffixes of the other files in each

    def split_of(parts: Sequence[str]) -> str | None:
        return "" if at is None else SPLITS.get(parts[at].casefold()) if len(parts) > at + 1 else None

    for name in files.names:
        parts = PurePosixPath(name).parts
        folder, split = parts[:depth], split_of(parts)
        if split is None:
            files.left_out.add(OUTSIDE, name)
        elif len(parts) <= depth:
            files.left_out.add(NO_CLASS, name)
        elif not is_picture(name):
            files.left_out.add(NO_FORMAT, name)
            others.setdefault(folder, Counter())[PurePosixPath(name).suffix or "no suffix"] += 1
        else:
            full[folder] = None
            found.append(Labelled(split, class_name(folder[-1]), name))
    for name in files.folders:
        parts = PurePosixPath(name).parts
        if len(parts) == depth and split_of(parts) is not None and parts not in full and parts not in others:
            files.left_out.add(EMPTY, f"{name}/")
    lost = [parts for parts in others if parts not in full and wanted(str(split_of(parts)), class_name(parts[-1]))]
    if lost:
        what = [f"{'/'.join(parts)} ({_counted(others[parts])})" for parts in lost]
        raise DataError(
            f"{source}: class folders without a picture that can be read: {first_of(what)}; give them such "
            "pictures, or take them away" + advice
        )
    _check_names(found, full, files, source)
    return found


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{count:,} {text}" for text, count in suffixes.most_common(3))


def _check_names(found: Iterable[Labelled], folders: Iterable[Sequence[str]], files: Files, source: Path) -> None:
    """Raise DataError if a class folder's name is not UTF-8, and note names of one split that look alike."""
    for label in dict.fromkeys(picture.label for picture in found):
        try:
            label.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{source}: the name of the class folder {label!r} is not UTF-8; rename it") from error
    alike = Counter("/".join((*parts[:-1], class_name(parts[-1]))) for parts in folders)
    twice = [name for name, count in alike.items() if count > 1]
    if twice:
        files.notes.append(f"folders whose names look alike are taken for one class: {first_of(twice)}")


def broken_message(images: Sequence[tuple[str, str]]) -> str:
    """A message with names and reasons of broken images."""
    if len(images) == 1:
        return f"{visible(images[0][0], 200)} is not an image that can be read ({images[0][1]})"
    return f"{len(images):,} images cannot be read: " + first_of([f"{name} ({reason})" for name, reason in images])


def dim_message(names: Sequence[str]) -> str:
    """A message about images whose values use at most the lowest sixteenth of their depth."""
    return (
        f"{len(names):,} images of more than 8 bits come out nearly black (such as {visible(names[0], 60)}): they use "
        "the lowest sixteenth of their depth, as 12-bit data in 16 bits do; scale them up if that is not meant"
    )
