"""Datasets as they are published: downloaded over HTTPS, checked by size and MD5, and only then unpacked and read."""

import hashlib
import posixpath
import shutil
import tarfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from data_loader.access import Access
from data_loader.dataset import ImageDataset
from utils.errors import DataError, UserError
from utils.files import replacing
from utils.limits import out_of_memory
from utils.progress import Bar
from utils.reading import reason_of

_LARGEST = 256 << 20  # limit in bytes for an archive; CIFAR10's has 171 million
_SECONDS = 60.0  # timeout
T = TypeVar("T")


class Archive(NamedTuple):
    """A file that is downloaded."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return posixpath.basename(self.url)


class Part(NamedTuple):
    """Training or test images: uint8 (N, H, W) or (N, 3, H, W), and their labels (N,), from 0."""

    images: np.ndarray
    labels: np.ndarray


#: Training and test part, and the names of the classes.
Contents = tuple[Part, Part, Sequence[str]]


@dataclass(frozen=True)
class Published:
    """What a dataset consists of.

    `files` are read: names within `folder`, itself within the dataset's place, and MD5 sums. `archives` are downloaded:
    tars of these files if `packed`, and otherwise the files themselves. `read` takes the folder of the files, once all
    are known to be whole. `largest` limits the bytes of an archive; None is _LARGEST.
    """

    name: str
    archives: Sequence[Archive]
    folder: str
    files: Sequence[tuple[str, str]]
    read: Callable[[Path], Contents]
    packed: bool = True
    largest: int | None = None

    def place_of(self, archive: Archive, data_dir: Path) -> Path:
        return data_dir / archive.name if self.packed else data_dir / self.folder / archive.name


def https(url: str) -> str:
    """The same address over HTTPS."""
    return url.replace("http://", "https://", 1)


def trusting(kind: type[T]) -> type[T]:
    """torchvision's class of a dataset, without its check of the files, which it makes for each part anew."""
    return type(kind.__name__, (kind,), {"_check_integrity": lambda self: True})


def load_published(published: Published, data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The training and test images under `data_dir`. Missing ones are downloaded and unpacked there, unless `access`
    forbids it. Images of one channel get three that are alike.

    Raises:
        DataError: there is no intact copy and none can be downloaded; says which file to put where.
    """
    name, fetch = published.name, (access or Access()).fetch
    try:
        folder = _whole_folder(published, data_dir)
        if folder is None and fetch:
            _fetch(published, data_dir)
            folder = _whole_folder(published, data_dir)
        if folder is None:
            raise RuntimeError("what was downloaded lacks files")
        train, test, classes = published.read(folder)
    except Exception as error:
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        why = f"could not be downloaded ({reason_of(error)})" if fetch else "nothing is downloaded for a checkpoint"
        how = "" if fetch else "=DIR, where it is then also downloaded to"
        raise DataError(
            f"{name} is not in {data_dir}{_damaged(published, data_dir)} and {why}; "
            f"put {_missing(published, data_dir)}, or name its folder with data_loader.args.data_dir{how}"
        ) from error
    images = torch.from_numpy(np.concatenate([train.images, test.images])).contiguous()
    labels = torch.from_numpy(np.concatenate([train.labels, test.labels]).astype(np.int64))
    return ImageDataset(
        images=images if images.dim() == 4 else images.unsqueeze(1).repeat(1, 3, 1, 1),
        labels=labels,
        classes=tuple(classes),
        source=f"{name} in {data_dir}",
        own_test=torch.arange(len(train.labels), len(labels)),
    )


def _intact(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    return bool(check_integrity(path, md5))


def _whole_folder(published: Published, data_dir: Path) -> Path | None:
    """The folder in which all files are whole. Files that no tar holds may lie in the dataset's place itself."""
    for folder in (data_dir / published.folder, *([] if published.packed else [data_dir])):
        if all(_intact(folder / name, md5) for name, md5 in published.files):
            return folder
    return None


def _damaged(published: Published, data_dir: Path) -> str:
    """Part of a message that names the damaged files, or ""."""
    folder = data_dir / published.folder
    wrong = [name for name, md5 in published.files if (folder / name).is_file() and not _intact(folder / name, md5)]
    return f" whole (damaged: {', '.join(wrong)} in {folder})" if wrong else ""


def _missing(published: Published, data_dir: Path) -> str:
    """Part of a message that says which archives to put where."""
    places = [(archive, published.place_of(archive, data_dir)) for archive in published.archives]
    missing = [(archive, place) for archive, place in places if not _intact(place, archive.md5)] or places
    return ", ".join(f"{archive.name} (MD5 {archive.md5}) from {archive.url} at {place}" for archive, place in missing)


def _fetch(published: Published, data_dir: Path) -> None:
    """Download the archives that are not whole, and unpack the files that are read."""
    for archive in published.archives:
        path = published.place_of(archive, data_dir)
        if not _intact(path, archive.md5):
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(archive.url, archive.md5, path, published.largest or _LARGEST)
        if published.packed:
            _unpack(path, {f"{published.folder}/{name}" for name, _ in published.files}, data_dir)


def _unpack(path: Path, names: set[str], data_dir: Path) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            name = posixpath.normpath(member.name)
            if name in names and (source := archive.extractfile(member)) is not None:
                (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
                with source, replacing(data_dir / name) as target:
                    shutil.copyfileobj(source, target, 1 << 20)


def _download(url: str, md5: str, path: Path, largest: int) -> None:
    """Write the contents of `url` to `path`, over HTTPS only: torchvision's own download falls back to HTTP.

    Raises:
        OSError, RuntimeError: the download fails, or has another size or MD5 than expected. `path` is as it was.
    """
    _check_https(url)
    request = urllib.request.Request(url, headers={"User-Agent": "convnorm-experiments"})
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with (
        urllib.request.build_opener(_HttpsOnly).open(request, timeout=_SECONDS) as response,
        Bar(desc=f"downloading {path.name}", total=response.length, unit="B", unit_scale=True) as bar,
        replacing(path) as file,
    ):
        while piece := response.read(1 << 20):
            size += len(piece)
            if size > largest:
                raise RuntimeError(f"{url} sends more than {largest:,} bytes")
            digest.update(piece)
            file.write(piece)
            bar.update(len(piece))
        if digest.hexdigest() != md5:
            raise RuntimeError(f"{url} sent {size:,} bytes with the MD5 {digest.hexdigest()}")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_https(url: str) -> None:
    if not url.startswith("https://"):
        raise RuntimeError(f"{url} is not HTTPS")
