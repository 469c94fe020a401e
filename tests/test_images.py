"""Images of other sizes, images that do not fit into memory, and the published datasets but CIFAR10."""

import gzip
import hashlib
import os
import pickle
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import prepare_data
from config_schema import Config
from data_loader import archives, image_folder, mnist, picture_cache
from data_loader.access import Access
from data_loader.build import RunData, build_data
from data_loader.datasets import DATASETS
from data_loader.image_folder import load_image_folder
from data_loader.memory import Room
from data_loader.pictures import crop_to
from tests.conftest import program, write_image_folder
from tests.faults import limit_more_data
from tests.runs import call, coco, launch, one_line, rows, run, same_tree
from trainer.checkpoint import read
from trainer.trainer import Trainer
from utils.errors import DataError, FileSystemError

CPU = torch.device("cpu")
TRAIN, TEST = 40, 20  # images


def pixels_of(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels_of(count: int, classes: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint8) % classes


def settings(kind: str, data_dir: Path, **args: object) -> Config:
    shares = {"validation_split": 0.25, "test_split": 0.25}
    args = {"data_dir": str(data_dir), "batch_size": 7, **shares, **args}
    return Config.model_validate({"name": "x", "data_loader": {"type": kind, "args": args}})


def built(kind: str, data_dir: Path, **args: object) -> RunData:
    return build_data(settings(kind, data_dir, **args), CPU)


# --- published datasets --------------------------------------------------------------------------------------------


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def tar_of(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    shutil.rmtree(folder)


def idx(array: np.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes())


def put_cifar100(place: Path, patch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR100

    base, images, labels = (
        place / CIFAR100.base_folder,
        pixels_of(TRAIN + TEST, 3, 32, 32),
        labels_of(TRAIN + TEST, 100),
    )
    base.mkdir(parents=True)
    for name, part in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, None))):
        entry = {"data": images[part].reshape(-1, 3072), "fine_labels": labels[part].tolist(), "coarse_labels": []}
        (base / name).write_bytes(pickle.dumps(entry, 2))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"kind {n}" for n in range(100)]}, 2))
    patch.setattr(CIFAR100, "train_list", [["train", md5_of(base / "train")]])
    patch.setattr(CIFAR100, "test_list", [["test", md5_of(base / "test")]])
    patch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5_of(base / "meta")})
    tar_of(base, place / CIFAR100.filename)
    patch.setattr(CIFAR100, "tgz_md5", md5_of(place / CIFAR100.filename))
    return images, labels


def put_stl10(place: Path, patch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import STL10

    images, labels = pixels_of(TRAIN + TEST, 3, 96, 96), labels_of(TRAIN + TEST, 10)
    base = place / STL10.base_folder
    base.mkdir(parents=True)
    sums = {}
    for split, part in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, None))):
        (base / f"{split}_X.bin").write_bytes(images[part].transpose(0, 1, 3, 2).tobytes())
        (base / f"{split}_y.bin").write_bytes((labels[part] + 1).tobytes())
        sums[split] = [[f"{split}_{kind}.bin", md5_of(base / f"{split}_{kind}.bin")] for kind in "Xy"]
    patch.setattr(STL10, "train_list", [*sums["train"], STL10.train_list[2]])
    patch.setattr(STL10, "test_list", sums["test"])
    tar_of(base, place / STL10.filename)
    patch.setattr(STL10, "tgz_md5", md5_of(place / STL10.filename))
    return images, labels


def put_svhn(place: Path, patch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images, labels = pixels_of(TRAIN + TEST, 3, 32, 32), labels_of(TRAIN + TEST, 10)
    place.mkdir()
    table = dict(SVHN.split_list)
    for split, part in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, None))):
        url, name, _ = table[split]
        tens = np.where(labels[part] == 0, 10, labels[part])
        savemat(place / name, {"X": images[part].transpose(2, 3, 1, 0), "y": tens[:, None]})
        table[split] = [url, name, md5_of(place / name)]
    patch.setattr(SVHN, "split_list", table)
    return images, labels


def put_mnist(place: Path, patch: pytest.MonkeyPatch, name: str = "MNIST") -> tuple[np.ndarray, np.ndarray]:
    import torchvision.datasets

    kind, images, labels = (
        getattr(torchvision.datasets, name),
        pixels_of(TRAIN + TEST, 28, 28),
        labels_of(TRAIN + TEST, 10),
    )
    (place / name / "raw").mkdir(parents=True)
    arrays = (images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:])
    resources = []
    for (file, _), array in zip(kind.resources, arrays, strict=True):
        (place / name / "raw" / file).write_bytes(idx(array))
        resources.append((file, md5_of(place / name / "raw" / file)))
    patch.setattr(kind, "resources", resources)
    return np.repeat(images[:, None], 3, 1), labels


def put_fashion_mnist(place: Path, patch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    return put_mnist(place, patch, "FashionMNIST")


Put = Callable[[Path, pytest.MonkeyPatch], tuple[np.ndarray, np.ndarray]]
PUBLISHED: dict[str, Put] = {
    "CIFAR100": put_cifar100,
    "SVHN": put_svhn,
    "MNIST": put_mnist,
    "FashionMNIST": put_fashion_mnist,
    "STL10": put_stl10,
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_datasets_are_checked_unpacked_and_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is not downloaded, what is damaged is not read, and a checkpoint's data are not even unpacked."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    place = tmp_path / "data"
    images, labels = PUBLISHED[kind](place, monkeypatch)
    if list(place.glob("*.tar.gz")):
        with pytest.raises(DataError, match="nothing is downloaded for a checkpoint"):
            DATASETS[kind](place, Access.of_checkpoint(named=False))
    dataset = DATASETS[kind](place, Access())
    assert torch.equal(dataset.images, torch.from_numpy(images))
    assert dataset.images.is_contiguous()
    assert torch.equal(dataset.labels, torch.from_numpy(labels.astype(np.int64)))
    assert dataset.own_test.tolist() == list(range(TRAIN, TRAIN + TEST))
    assert len(dataset.classes) == (100 if kind == "CIFAR100" else 10)
    for file in filter(Path.is_file, list(place.rglob("*"))):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(DataError, match=rf"{kind} is not in .*damaged: .*put .*\(MD5 .*\) from https://.* at "):
        DATASETS[kind](place, Access())


def test_a_file_is_whole_at_any_moment_while_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may be reading what an earlier one unpacked."""
    put_stl10(tmp_path, monkeypatch)
    assert len(DATASETS["STL10"](tmp_path, Access())) == TRAIN + TEST
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.bin")}
    copy, seen = shutil.copyfileobj, []

    def look(*arguments: Any) -> None:
        copy(*arguments)
        seen.append({path: path.read_bytes() for path in tmp_path.rglob("*.bin")})

    monkeypatch.setattr(shutil, "copyfileobj", look)
    (archive,) = tmp_path.glob("*.tar.gz")
    archives._unpack(archive, {path.relative_to(tmp_path).as_posix() for path in before}, tmp_path)
    assert seen == [before] * len(before)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {archive, *before}


def test_two_datasets_of_the_same_file_names_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_FASHION_MNIST", "https://x/")
    put_mnist(tmp_path, monkeypatch)
    for file in (tmp_path / "MNIST" / "raw").iterdir():
        file.rename(tmp_path / file.name)  # where it is found as well
    assert len(DATASETS["MNIST"](tmp_path, Access())) == TRAIN + TEST
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="FashionMNIST is not in"):
        DATASETS["FashionMNIST"](tmp_path, Access())
    assert len(DATASETS["MNIST"](tmp_path, Access())) == TRAIN + TEST


def put_tiny_imagenet(place: Path, words: dict[str, str], each: int = 6) -> Path:
    place.mkdir()
    (place / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in words))
    (place / "words.txt").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in words.items()) + "n9\tnothing\n")
    annotations, value = [], 0

    def save(path: Path) -> None:
        nonlocal value
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if value % 2 else "RGB", (64, 64), value if value % 2 else (value, 0, 0)).save(path, "PNG")
        value += 1

    for wnid in words:
        (place / "train" / wnid).mkdir(parents=True)
        (place / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        for row in range(each):
            save(place / "train" / wnid / "images" / f"{wnid}_{row}.JPEG")
        for _ in range(2):
            annotations.append(f"val_{len(annotations)}.JPEG\t{wnid}\t0\t0\t62\t62\n")
            save(place / "val" / "images" / f"val_{len(annotations) - 1}.JPEG")
    (place / "val" / "val_annotations.txt").write_text("".join(annotations))
    save(place / "test" / "images" / "test_0.JPEG")
    return place


def test_tiny_imagenet_is_read_from_its_own_folders(tmp_path: Path) -> None:
    words = {"n3": "crane, bird", "n1": "fish, goldfish", "n2": "crane"}
    folder = put_tiny_imagenet(tmp_path / "tiny-imagenet-200", words)
    dataset = DATASETS["TinyImageNet"](folder, Access(), image_size=64)
    assert dataset.classes == ("crane (n3)", "fish", "crane (n2)")
    assert dataset.labels.tolist() == [*[0] * 6, *[1] * 6, *[2] * 6, 0, 0, 1, 1, 2, 2]
    assert dataset.own_test.tolist() == list(range(18, 24))
    assert dataset.images[:, 0, 0, 0].tolist() == [*range(6), *range(8, 14), *range(16, 22), 6, 7, 14, 15, 22, 23]
    assert dataset.images.shape == (24, 3, 64, 64)
    assert dataset.notes == (
        "left out: 1 without a label (such as test/images/test_0.JPEG), "
        "3 of no format that is read (such as train/n1/n1_boxes.txt)",
    )
    path = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path, folder.name)
    assert DATASETS["TinyImageNet"](Path(path), Access(), image_size=64).sha256() == dataset.sha256()
    (folder / "train" / "n1" / "images" / "n1_3.JPEG").write_bytes(b"no picture")
    with pytest.raises(DataError, match="skip_broken=true"):
        DATASETS["TinyImageNet"](folder, Access())
    assert len(built("TinyImageNet", folder, skip_broken=True, allow_duplicates=True).dataset) == 23
    (folder / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(DataError, match=r"val_annotations.txt does not name val_0.JPEG"):
        DATASETS["TinyImageNet"](folder, Access())
    shutil.rmtree(folder / "train" / "n2")
    (folder / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"there is no wnids.txt; expected"):
        DATASETS["TinyImageNet"](folder, Access())


@pytest.mark.parametrize("inside", ["images", ""])
def test_tiny_imagenet_with_val_sorted_by_class(tmp_path: Path, inside: str) -> None:
    """As the usual preparation scripts leave it."""
    folder = put_tiny_imagenet(tmp_path / "tiny-imagenet-200", {"n1": "fish", "n2": "crane"})
    expected = DATASETS["TinyImageNet"](folder, Access(), image_size=64)
    val = folder / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (val / wnid / inside).mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(val / wnid / inside / name)
    (val / "val_annotations.txt").unlink()
    shutil.copy(folder / "train" / "n1" / "images" / "n1_0.JPEG", val)
    dataset = DATASETS["TinyImageNet"](folder, Access(), image_size=64)
    assert dataset.sha256() == expected.sha256()
    assert dataset.notes == (
        "left out: 1 without a label (such as test/images/test_0.JPEG), "
        "2 of no format that is read (such as train/n1/n1_boxes.txt), "
        "1 in a folder that is not read (such as val/n1_0.JPEG)",
    )
    shutil.rmtree(val)
    with pytest.raises(DataError, match=r"no labelled images in val/, .*; expected wnids.txt, .*val/<wnid>/images/\*"):
        DATASETS["TinyImageNet"](folder, Access())


def test_one_class_alone_cannot_be_learnt(tmp_path: Path) -> None:
    """The usual reason: a folder too many above the class folders."""
    folder = write_image_folder(tmp_path / "photos")
    (folder / "train").rename(folder / "images")
    (folder / "train").mkdir()
    (folder / "images").rename(folder / "train" / "images")
    shutil.rmtree(folder / "test")
    ended = call("train.py", *coco(folder, tmp_path / "run", "data_loader.type=ImageFolder", noise=0), "--check")
    assert ended.code == 3
    assert ended.err == (
        f"error: images in {folder}: they are all of class 'images', and one class cannot be learnt; is "
        "data_loader.args.data_dir the folder around train/<class>/*?\n"
    )
    np.savez(tmp_path / "x.npz", images=pixels_of(20, 32, 32, 3), labels=np.full(20, 3))
    with pytest.raises(DataError, match="all of class 'bus', and one class cannot be learnt; add images of others"):
        built("TinyCOCO", tmp_path / "x.npz")


# --- the size of images --------------------------------------------------------------------------------------------


def test_pictures_of_two_sizes_have_a_cache_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_folder(tmp_path / "images")
    small, large = load_image_folder(folder), load_image_folder(folder, image_size=64)
    assert large.images.shape == (len(small), 3, 64, 64)
    first = Image.open(folder / "train" / "ant" / "000.png").convert("RGB")
    assert np.array_equal(large.images[0].numpy(), np.asarray(crop_to(64, 64)(first)).transpose(2, 0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode", lambda *_: pytest.fail("decoded again"))
        assert load_image_folder(folder).sha256() == small.sha256()
        assert load_image_folder(folder, image_size=64).sha256() == large.sha256()
    shutil.copy(folder / "train" / "ant" / "000.png", folder / "train" / "ant" / "999.png")
    load_image_folder(folder, image_size=64)
    (cache,) = tmp_path.glob("images.*.npz")
    assert ".64x64." in cache.name, "those of earlier contents are gone, whatever their size"


def test_every_dataset_comes_in_the_size_that_is_asked_for(coco_dir: Path, tmp_path: Path) -> None:
    """A file is scaled as a picture is; prepare_data.py makes files of other sizes."""
    small = built("TinyCOCO", coco_dir).dataset
    large = built("TinyCOCO", coco_dir, image_size=48).dataset
    picture = Image.fromarray(small.images[5].permute(1, 2, 0).numpy())
    assert np.array_equal(large.images[5].numpy(), np.asarray(crop_to(48, 48)(picture)).transpose(2, 0, 1))
    assert built("Digits", tmp_path, image_size=8).dataset.images.shape == (1797, 3, 8, 8)
    out = tmp_path / "tinycoco.npz"
    make = ["demo", "-o", str(out), "--per-class", "4", "--format", "uint8"]
    assert prepare_data.main([*make, "--image-size", "48"]) == 0
    assert np.load(out)["images"].shape == (40, 48, 48, 3)
    assert prepare_data.main([*make, "--image-size", "48"]) == 0, "nothing to do"
    assert built("TinyCOCO", out, image_size=48).dataset.images.shape == (40, 3, 48, 48)
    ended = call("prepare_data.py", *make)
    assert (ended.code, "image_size 48, not 32" in ended.err) == (5, True)
    assert call("prepare_data.py", *make, "--image-size", "300").code == 2


def test_a_crop_s_border_is_an_eighth_of_the_image(tmp_path: Path) -> None:
    def padding(**args: object) -> int:
        return settings("Digits", tmp_path, **args).data_loader.args.augment.crop_padding

    assert [padding(), padding(image_size=32), padding(image_size=64), padding(image_size=224)] == [4, 4, 8, 28]
    assert padding(image_size=64, augment={"crop_padding": 4, "horizontal_flip": False}) == 4
    assert padding(image_size=64, augment={"horizontal_flip": False}) == 8
    for wrong in ({"image_size": 7}, {"image_size": 257}, {"augment": {"crop_padding": 17}}):
        with pytest.raises(ValueError, match=r"image_size|crop_padding"):
            padding(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 224])
def test_a_run_of_another_size_from_training_to_prediction(size: int, tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", each=8)
    options = ("data_loader.type=ImageFolder", f"data_loader.args.image_size={size}", "trainer.epochs=1")
    more = ("data_loader.args.in_memory=false", "data_loader.args.validation_split=0.4", "arch.args.width=2")
    assert run(*coco(folder, tmp_path / "run", *options, *more, arm="bncn", noise=0)) == 0
    checkpoint = tmp_path / "run" / "checkpoint-epoch1.pth"
    assert read(checkpoint)["preprocessing"]["image_size"] == [size, size]
    assert run("-r", checkpoint, "--run-dir", tmp_path / "run", "trainer.epochs=2") == 0
    assert call("test.py", "-r", checkpoint).code == 0
    assert call("predict.py", "-r", checkpoint, folder / "test", "-o", tmp_path / "p.csv").code == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    ended = call("export.py", "-r", checkpoint, "--safetensors", tmp_path / "m.safetensors")
    assert ended.code == 0, ended.err
    resized = call("train.py", "-r", checkpoint, f"data_loader.args.image_size={size // 2}", "trainer.epochs=3")
    assert (resized.code, "other data" in resized.err) == (4, True)


# --- larger than memory --------------------------------------------------------------------------------------------


def test_batches_from_a_mapped_file_are_those_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded into a file at first, mapped from the cache later; broken pictures left out, too."""
    folder = write_image_folder(tmp_path / "images")
    (folder / "train" / "bee" / "005.png").write_bytes(b"no picture")

    def batches(data: RunData) -> list[torch.Tensor]:
        loaders = ((data.train, 2), (data.val, 0), (data.test, 0))
        return [part for loader, epoch in loaders for batch in loader.batches(epoch) for part in batch]

    one = {"skip_broken": True, "image_size": 40}
    mapped = built("ImageFolder", folder, in_memory=False, **one)
    again = built("ImageFolder", folder, in_memory=False, **one)
    monkeypatch.setattr(image_folder, "decode", lambda *_: pytest.fail("decoded again"))
    within = built("ImageFolder", folder, in_memory=True, **one)
    assert (mapped.dataset.in_memory, again.dataset.in_memory, within.dataset.in_memory) == (False, False, True)
    assert mapped.sha256 == again.sha256 == within.sha256
    for data in (mapped, again):
        assert torch.equal(torch.stack(data.stats), torch.stack(within.stats))
        for here, there in zip(batches(data), batches(within), strict=True):
            assert torch.equal(here, there)
    file = built("Digits", folder, in_memory=False), built("Digits", folder)
    assert all(torch.equal(here, there) for here, there in zip(*map(batches, file), strict=True))


def test_22_a_cache_that_is_cut_short(tmp_path: Path) -> None:
    """What is mapped is read in a process of its own, which SIGBUS would end."""
    folder = write_image_folder(tmp_path / "images")
    options = ("data_loader.type=ImageFolder", "data_loader.args.in_memory=false", "trainer.epochs=1")
    arguments = coco(folder, tmp_path / "run", *options, "data_loader.args.validation_split=0.2", noise=0)
    whole = built("ImageFolder", folder, in_memory=False).sha256
    (cache,) = tmp_path.glob("images.*.npz")
    os.truncate(cache, cache.stat().st_size // 2)
    assert built("ImageFolder", folder, in_memory=False).sha256 == whole, "made again"
    ended = launch(tmp_path, *arguments, prepare=[partial(_cut_after_a_step, cache)])
    one_line(ended, 3, f"{cache}, was cut short while it was read; go on with -r auto")


def _cut_after_a_step(cache: Path) -> None:
    train_step = Trainer.train_step

    def cutting(*arguments: Any, **options: Any) -> None:
        train_step(*arguments, **options)
        os.truncate(cache, 0)

    Trainer.train_step = cutting


def test_a_run_of_mapped_images_goes_on_in_memory_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within an epoch, with noise of the image, weights of the classes, a cycle, and figures that are no means."""
    folder = write_image_folder(tmp_path / "images", each=8)
    options = ["data_loader.type=ImageFolder", "data_loader.args.validation_split=0.4", "arch.args.width=2"]
    options += ["label_noise.type=instance", "label_noise.rate=0.3", "loss.args.class_weights=balanced"]
    options += ["lr_scheduler.type=OneCycleLR", "lr_scheduler.args.max_lr=0.05", "data_loader.args.batch_size=5"]
    options += [
        'metrics=["accuracy","balanced_accuracy","ece"]',
        "trainer.epochs=2",
        "data_loader.args.in_memory=false",
    ]
    given = [each for each in coco(folder, tmp_path / "straight", *options) if "milestones" not in each]
    assert run(*given) == 0
    step, part = Trainer.train_step, tmp_path / "part"

    def stopping(self: Trainer, *args: object) -> None:
        step(self, *args)
        if self.global_step == 3:  # of six or more
            self.stop.signal = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        assert run(*(str(part) if each == str(tmp_path / "straight") else each for each in given)) == 143
    assert run("-r", "auto", "--run-dir", part, "data_loader.args.in_memory=true") == 0
    assert rows(part) == rows(tmp_path / "straight")
    for name in ("model", "optimizer"):
        here, there = (read(place / "checkpoint-epoch2.pth")[name] for place in (part, tmp_path / "straight"))
        assert same_tree(here, there) == []
    assert "changed since" not in (part / "train.log").read_text(), "no result depends on it"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory so")
def test_a_folder_larger_than_the_process_s_memory_is_trained_on(tmp_path: Path) -> None:
    """700 pictures of 256x256: 138 MB as decoded, 321 in memory, and 200 more than the process has at its start."""
    folder = tmp_path / "images"
    for number in range(700):
        path = folder / "train" / f"{number % 5}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number % 256, 50 * (number % 5), 0)).save(path)
    size = ("data_loader.type=ImageFolder", "data_loader.args.image_size=256", "data_loader.args.batch_size=4")
    small = ("data_loader.args.subset=100", "data_loader.args.test_subset=20", "arch.args.width=1", "trainer.epochs=1")
    for in_memory, code in (("null", 0), ("true", 3)):
        options = (*size, *small, f"data_loader.args.in_memory={in_memory}")
        argv = coco(folder, tmp_path / in_memory, *options, arm="bn", noise=0)
        ended = program("train.py", *map(str, argv), prepare=[limit_more_data(200_000_000)])
        assert (ended.returncode, "not enough memory" in ended.stderr) == (code, code == 3), ended.stderr


def test_memory_decides_where_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_loader.memory.available_memory", lambda: 14 * 1000 * 32 * 32)
    assert Room(None).holds(1000, 32, 32)
    assert not Room(None).holds(1001, 32, 32)
    assert not Room(None, processes=2).holds(1000, 32, 32)
    assert Room(True).holds(10**9, 256, 256)
    assert not Room(False).holds(1, 8, 8)


def test_a_disk_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise OSError("there is no home folder")

    with monkeypatch.context() as patch:
        patch.setattr(picture_cache, "_places", nowhere)
        assert not picture_cache.blank(tmp_path / "x", (1, 3, 32, 32), in_memory=False, may_write=True).any()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(FileSystemError, match=r"cannot write 3,072 bytes of decoded images in .*No space left"):
        picture_cache.blank(tmp_path / "x", (1, 3, 32, 32), in_memory=False, may_write=True)
