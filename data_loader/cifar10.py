"""CIFAR10: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, read by torchvision with its MD5 checks."""

import hashlib
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_loader.access import Access
from data_loader.dataset import ImageDataset
from utils.errors import DataError, UserError
from utils.files import write_atomically
from utils.limits import out_of_memory
from utils.progress import Bar
from utils.reading import reason_of

_LARGEST = 256 << 20  # limit in bytes for the archive, which has 171 million
_SECONDS = 60.0  # timeout


def load_cifar10(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 50,000 training and 10,000 test images under `data_dir`. Missing ones are downloaded and unpacked there,
    unless `access` forbids it.

    Raises:
        DataError: there is no intact copy and none can be downloaded; says which file to put where.
    """
    from torchvision.datasets import CIFAR10

    fetch = (access or Access()).fetch
    try:
        parts = _read(data_dir, fetch)
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise DataError(f"CIFAR10 in {data_dir}: there is not enough memory for it") from error
        why = f"could not be downloaded ({reason_of(error)})" if fetch else "nothing is downloaded for a checkpoint"
        folder = "with data_loader.args.data_dir=DIR, where it is then also downloaded to"
        raise DataError(
            f"CIFAR10 is not in {data_dir}{_damaged(data_dir)} and {why}; put {CIFAR10.filename} "
            f"(MD5 {CIFAR10.tgz_md5}) from {CIFAR10.url} at {data_dir / CIFAR10.filename}, or name its folder "
            + ("with data_loader.args.data_dir" if fetch else folder)
        ) from error
    pixels = np.concatenate([part.data for part in parts])  # (60000, 32, 32, 3) uint8
    labels = torch.tensor([label for part in parts for label in part.targets])
    return ImageDataset(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels=labels,
        classes=tuple(parts[0].classes),
        source=f"CIFAR10 in {data_dir}",
        own_test=torch.arange(len(parts[0].targets), len(labels)),
    )


def _read(data_dir: Path, fetch: bool) -> list[Any]:
    """The training and the test part. torchvision checks each file's MD5 before it unpickles the file."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    try:
        return [CIFAR10(str(data_dir), train=train) for train in (True, False)]
    except RuntimeError:  # missing or damaged
        if not fetch:
            raise
        archive = data_dir / CIFAR10.filename
        if not check_integrity(archive, CIFAR10.tgz_md5):
            data_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(archive, _download(CIFAR10.url, CIFAR10.tgz_md5))
        return [CIFAR10(str(data_dir), train=train, download=True) for train in (True, False)]  # it unpacks the archive


def _damaged(data_dir: Path) -> str:
    """Part of a message that names the damaged files, or ""."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    sums = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    folder = data_dir / CIFAR10.base_folder
    wrong = [name for name, md5 in sums if (folder / name).is_file() and not check_integrity(folder / name, md5)]
    return f" whole (damaged: {', '.join(wrong)} in {folder})" if wrong else ""


def _download(url: str, md5: str) -> bytes:
    """The contents of `url`, over HTTPS only: torchvision's own download falls back to HTTP.

    Raises:
        OSError, RuntimeError: the download fails, or has another size or MD5 than expected.
    """
    _check_https(url)
    data = bytearray()
    request = urllib.request.Request(url, headers={"User-Agent": "convnorm-experiments"})
    with (
        urllib.request.build_opener(_HttpsOnly).open(request, timeout=_SECONDS) as response,
        Bar(desc="downloading CIFAR10", total=response.length, unit="B", unit_scale=True) as bar,
    ):
        while piece := response.read(1 << 20):
            data += piece
            bar.update(len(piece))
            if len(data) > _LARGEST:
                raise RuntimeError(f"{url} sends more than {_LARGEST:,} bytes")
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise RuntimeError(f"{url} sent {len(data):,} bytes with the MD5 {found}")
    return bytes(data)


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_https(url: str) -> None:
    if not url.startswith("https://"):
        raise RuntimeError(f"{url} is not HTTPS")
