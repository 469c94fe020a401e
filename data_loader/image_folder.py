"""Any images: a folder or .zip of train/<class>/* and, if you like, test/<class>/*, brought to 32x32 and cached."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from data_loader.access import Access
from data_loader.dataset import ImageDataset
from data_loader.npz import ZIP_ERRORS, load_npz, read_bytes
from data_loader.pictures import SIZE, SUFFIXES, Files, check_classes, decode, walk
from logger.log import get_logger
from utils.errors import DataError, FileSystemError
from utils.files import cache_home, sha256_of_file, write_atomically
from utils.progress import Bar

_CACHE_VERSION = 1  # part of the cache's name: raise it when the decoding in pictures.py changes


def load_image_folder(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The images of a folder or .zip, decoded once and then read from a cache.

    The cache lies beside the source as `<name>.<hash of its contents>.32x32.npz`, or in the user's cache folder where
    the source's own folder is read-only. The short side is scaled to 32 and the long side cropped at the centre; images
    of 32x32 stay as they are. Without `access` the cache may be written.

    Raises:
        DataError: no such folder or zip, no train/<class>/ images in it, or an image that cannot be decoded.
    """
    source = data_dir
    if not source.exists():
        raise DataError(f"ImageFolder: there is no {source}; name a folder or .zip with data_loader.args.data_dir")
    content = _content_hash(source)
    for cache in _cache_paths(source, content):
        if cache.is_file():
            dataset = _read_cache(cache, source)
            if dataset is not None:
                return dataset
    dataset = _decode_all(source)
    (access or Access()).write(lambda: _write_cache(_cache_paths(source, content)[0], dataset))
    return dataset


def _write_cache(cache: Path, dataset: ImageDataset) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, _cache_bytes(dataset))
    except (OSError, FileSystemError) as error:
        get_logger().warning("the images are not cached and will be decoded again next time: %s", error)


def _decode_all(source: Path) -> ImageDataset:
    with Files(source) as files:
        found = sorted(_labelled(files.names))
        classes = sorted({name for split, name, _ in found if split == "train"})
        check_classes(classes, source)
        unknown = sorted({name for _, name, _ in found} - set(classes))
        if not classes or unknown:
            problem = (
                f"test/ has classes that train/ lacks: {', '.join(unknown)}" if classes else "no train/<class>/ images"
            )
            raise DataError(f"{source}: {problem}; expected train/<class>/* and optionally test/<class>/*")
        found.sort(key=lambda item: item[0] == "test")  # training images first; sorted() above fixed the rest
        pixels = np.empty((len(found), 3, SIZE, SIZE), dtype=np.uint8)
        for row, (_, _, name) in enumerate(Bar(found, desc=f"decoding {source.name}", unit="image")):
            pixels[row] = decode(files.read(name), f"{source}: {name}")
    splits = np.array([split for split, _, _ in found])
    return ImageDataset(
        images=torch.from_numpy(pixels),
        labels=torch.tensor([classes.index(name) for _, name, _ in found]),
        classes=tuple(classes),
        source=f"images in {source}",
        own_test=torch.from_numpy(np.flatnonzero(splits == "test")) if (splits == "test").any() else None,
    )


def _labelled(names: list[str]) -> Iterator[tuple[str, str, str]]:
    """(split, class, name) of each image among `names`; one folder around train/ and test/ is looked through."""
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) == 4 and parts[1] in ("train", "test") and parts[0] != "__MACOSX":
            parts = parts[1:]
        if len(parts) != 3 or parts[0] not in ("train", "test") or any(part.startswith(".") for part in parts):
            continue
        if PurePosixPath(name).suffix.lower() in SUFFIXES:
            yield parts[0], parts[1], name


def _content_hash(source: Path) -> str:
    path = source
    try:
        if source.is_file():
            return sha256_of_file(source)
        digest = hashlib.sha256()
        for name in walk(source):
            path = source / name
            digest.update(f"{name}\0{sha256_of_file(path)}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable, or take it away") from error


def _cache_paths(source: Path, content: str) -> list[Path]:
    """Where a cache may lie, the place to write it first."""
    name = f"{source.name}.{content[:16]}.{SIZE}x{SIZE}.v{_CACHE_VERSION}.npz"
    beside = source.resolve().parent
    user = cache_home()
    homes = [] if user is None else [user / "convnorm-experiments"]
    # The mode as well as access(): root may write anywhere, but a folder marked read-only is meant to stay as it is.
    writable = os.access(beside, os.W_OK) and beside.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    places = [beside, *homes] if writable else [*homes, beside]
    return [place / name for place in places]


def _cache_bytes(dataset: ImageDataset) -> memoryview:
    own_test = np.empty(0, dtype=np.int64) if dataset.own_test is None else dataset.own_test.numpy()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        images=dataset.images.numpy(),
        labels=dataset.labels.numpy(),
        classes=np.array(dataset.classes),
        own_test=own_test,
        sha256=np.array(dataset.sha256()),
    )
    return buffer.getbuffer()


def _read_cache(cache: Path, source: Path) -> ImageDataset | None:
    """The cached dataset, or None where the cache is damaged, and is then made again."""
    try:
        arrays = load_npz(read_bytes(cache), ("images", "labels", "classes", "own_test", "sha256"), str(cache))
        images, labels, own_test = (torch.from_numpy(arrays[key]) for key in ("images", "labels", "own_test"))
        classes = tuple(map(str, arrays["classes"]))
        dataset = ImageDataset(images, labels, classes, f"images in {source}", own_test if len(own_test) else None)
        sha256 = str(arrays["sha256"])
    except (*ZIP_ERRORS, AssertionError):  # a DataError is a ValueError
        return None
    return dataset if dataset.sha256() == sha256 else None
