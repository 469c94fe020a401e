"""Small real data in the formats of the datasets, and small forms of the shipped configs."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
COCO_CLASSES = 10
EXDARK_CLASSES = 12

torch.set_num_threads(1)  # the tensors are tiny, and threads that wait for work slow each other down


def pytest_configure() -> None:
    """Put the tests' folders into memory where there is room: a run waits for the disk after each file it writes."""
    memory = "/dev/shm"
    try:
        place = os.statvfs(memory)
    except (AttributeError, OSError):  # another system than Linux
        return
    if place.f_bavail * place.f_frsize > 4 << 30 and not place.f_flag & os.ST_NOEXEC:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)


def make_pixels(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, 32, 32, 3) noise around a colour and a bar that tell the class, and int64 labels, balanced."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    base = rng.integers(40, 215, size=(classes, 1, 1, 3))
    images = (base[labels] + rng.integers(-30, 30, size=(count, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, 2 * label : 2 * label + 3, :, :] = 255
    return images, labels


def write_pickle(path: Path, value: object, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.fixture(autouse=True)
def _pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture that ends a small run takes longer than an epoch of it: only tests of pictures draw them."""
    from tests import runs

    monkeypatch.setattr(runs, "draws_pictures", request.node.get_closest_marker("pictures") is not None)
    if not runs.draws_pictures:
        for where in ("logger.confusion", "reporting.figures.style"):
            monkeypatch.setattr(f"{where}.draw", runs.no_picture)


@pytest.fixture(scope="session")
def coco_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    images, labels = make_pixels(100, COCO_CLASSES)
    write_pickle(folder / "tinycoco.pkl", {"images": images.astype(np.float32) / 255.0, "labels": labels})
    return folder


@pytest.fixture(scope="session")
def finished(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs; read only."""
    from tests.runs import coco, run

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(*coco(coco_dir, folder)) == 0
    return folder


@pytest.fixture(scope="session")
def exdark_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exdark")
    images, labels = make_pixels(300, EXDARK_CLASSES)
    write_pickle(folder / "tinyexdark.pkl", {"images": images.transpose(0, 3, 1, 2), "labels": labels})
    return folder


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-in files in CIFAR10's own format; `train.py` takes them only where its MD5 sums are told of them."""
    base = tmp_path_factory.mktemp("cifar10") / "cifar-10-batches-py"
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        images, labels = make_pixels(100, 10, seed)
        entry = {"data": images.transpose(0, 3, 1, 2).reshape(100, -1), "labels": labels.tolist()}
        write_pickle(base / name, entry, protocol=2)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    write_pickle(base / "batches.meta", {"label_names": classes}, protocol=2)
    return base.parent


@pytest.fixture
def trusted_cifar10(cifar10_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`cifar10_dir` with torchvision's MD5 sums set to those files' own: the check itself stays on."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    def sums(entries: list) -> list:
        return [[name, calculate_md5(cifar10_dir / CIFAR10.base_folder / name)] for name, _ in entries]

    monkeypatch.setattr(CIFAR10, "train_list", sums(CIFAR10.train_list))
    monkeypatch.setattr(CIFAR10, "test_list", sums(CIFAR10.test_list))
    meta = cifar10_dir / CIFAR10.base_folder / "batches.meta"
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": calculate_md5(meta)})
    return cifar10_dir


def write_image_folder(folder: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), each: int = 12) -> Path:
    """PNGs of several modes and sizes, and a JPEG, under train/ and test/."""
    modes = ("RGB", "L", "RGBA", "P")
    for split, count in (("train", each), ("test", 4)):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            pixels, _ = make_pixels(count * len(classes), len(classes), seed=2 * label + (split == "test"))
            for row in range(count):
                image = Image.fromarray(pixels[row * len(classes) + label])
                image = image.resize((32 + 7 * (row % 3), 32 + 5 * (row % 2))).convert(modes[row % len(modes)])
                image.save(folder / split / name / f"{row:03}.png")
    Image.fromarray(pixels[0]).save(folder / "train" / classes[0] / "photo.JPG", format="JPEG")
    return folder


def program(name: str, *args: str, prepare: Sequence[Callable[[], object]] = ()) -> subprocess.CompletedProcess[str]:
    """Run train.py or another program in a process of its own, which has what it imports already, after `prepare`."""
    from tests.runs import Started

    with tempfile.TemporaryDirectory() as place:
        ended = Started(args, Path(place), prepare, name).end(900)
    return subprocess.CompletedProcess([name, *args], ended.code, ended.out, ended.err)


def fresh_program(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """`program` from the first import on, as a user runs it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, name, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)


def check_that_it_trains(model: nn.Module, outputs: int) -> None:
    """Logits of a batch of 32x32 images, a finite gradient for every parameter, and logits in evaluation."""
    x = torch.randn(3, 3, 32, 32)
    logits = model(x)
    assert logits.shape == (3, outputs)
    logits.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.eval()(x).shape == (3, outputs)


def same_tree(a: object, b: object, path: str = "") -> list[str]:
    """Where two nested structures of tensors and plain values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys"]
        return [where for key in a for where in same_tree(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: length"]
        return [where for i, (x, y) in enumerate(zip(a, b, strict=True)) for where in same_tree(x, y, f"{path}/{i}")]
    return [] if a == b or (a != a and b != b) else [path]
