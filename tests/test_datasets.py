import io
import os
import pickle
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

import config_schema
from data_loader import image_folder, picture_cache
from data_loader.cifar10 import load_cifar10
from data_loader.class_names import TINY_COCO
from data_loader.dataset import ImageDataset
from data_loader.datasets import DATASETS
from data_loader.digits import load_digits
from data_loader.image_folder import load_image_folder
from data_loader.restricted_pickle import load_arrays
from data_loader.tiny_coco import load_tiny_coco
from data_loader.tiny_exdark import load_tiny_exdark
from logger.log import get_logger
from tests.conftest import make_pixels, write_image_folder, write_pickle
from utils.errors import DataError
from utils.files import replacing


def test_config_names_are_the_registry() -> None:
    assert list(get_args(config_schema.DatasetName)) == list(DATASETS)


def test_digits_are_scikit_learn_s() -> None:
    dataset = load_digits(Path())
    assert dataset.images.shape == (1797, 3, 32, 32)
    assert dataset.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert dataset.images.max() == 255
    assert dataset.own_test is None


def test_cifar10_is_read_in_its_own_order(trusted_cifar10: Path) -> None:
    dataset = load_cifar10(trusted_cifar10)
    train, labels = make_pixels(100, 10, seed=0)
    test, _ = make_pixels(100, 10, seed=5)
    assert dataset.own_test.tolist() == list(range(500, 600))
    assert torch.equal(dataset.images[:100], torch.from_numpy(train.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(dataset.images[500:], torch.from_numpy(test.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(dataset.labels[:100], torch.from_numpy(labels))
    assert dataset.classes[:2] == ("airplane", "automobile")


def test_cifar10_without_files_or_network_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(DataError, match=r"put cifar-10-python.tar.gz .*at .*cifar-10-python.tar.gz"):
        load_cifar10(tmp_path / "cifar10")


def test_cifar10_with_a_flipped_bit_is_not_used(trusted_cifar10: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    copy = tmp_path / "cifar10"
    shutil.copytree(trusted_cifar10, copy)
    batch = copy / "cifar-10-batches-py" / "data_batch_3"
    data = bytearray(batch.read_bytes())
    data[5000] ^= 1
    batch.write_bytes(data)
    with pytest.raises(DataError, match="put cifar-10-python"):
        load_cifar10(copy)


# --- TinyCOCO and TinyExDark ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "npz"])
@pytest.mark.parametrize("kind", ["unit", "double", "byte-range", "uint8"])
def test_coco_pixels_come_out_as_they_went_in(tmp_path: Path, kind: str, suffix: str) -> None:
    images, labels = make_pixels(40, 10)
    stored = {
        "unit": images.astype(np.float32) / 255.0,
        "double": images / 255.0,
        "byte-range": images.astype(np.float32),
        "uint8": images,
    }[kind]
    path = tmp_path / f"tinycoco.{suffix}"
    if suffix == "npz":
        np.savez(path, images=stored, labels=labels)
    else:
        write_pickle(path, {"images": stored, "labels": labels})
    for source in (path, tmp_path):
        dataset = load_tiny_coco(source)
        assert torch.equal(dataset.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        assert torch.equal(dataset.labels, torch.from_numpy(labels))
    assert dataset.classes == ("cat", "dog", "car", "bus", "train", "boat", "ball", "pizza", "chair", "table")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    images, labels = make_pixels(20, 10)
    write_pickle(tmp_path / "tinycoco.pkl", {"images": images, "labels": labels}, protocol)
    assert len(load_tiny_coco(tmp_path)) == 20


def test_floats_may_overshoot_a_little(tmp_path: Path) -> None:
    stored = changed(changed(UNIT, (0, 0, 0, 0), 1.0000001), (0, 0, 0, 1), -1e-7).astype(np.float32)
    write_pickle(tmp_path / "tinycoco.pkl", {"images": stored, "labels": LABELS})
    assert load_tiny_coco(tmp_path).images[0, :2, 0, 0].tolist() == [255, 0]


def test_a_file_of_another_name_is_taken_if_it_is_the_only_one(tmp_path: Path) -> None:
    write_pickle(tmp_path / "coco10.pickle", {"images": IMAGES, "labels": LABELS})
    (tmp_path / "readme.txt").write_text("about")
    assert len(load_tiny_coco(tmp_path)) == 20
    write_pickle(tmp_path / "another.pkl", {})
    with pytest.raises(DataError, match="was not found"):
        load_tiny_coco(tmp_path)


def test_a_file_needs_no_suffix(tmp_path: Path) -> None:
    write_pickle(tmp_path / "tinycoco", {"images": IMAGES, "labels": LABELS})
    assert len(load_tiny_coco(tmp_path / "tinycoco")) == 20


def test_big_endian_and_fortran_arrays_come_out_the_same(tmp_path: Path) -> None:
    stored = np.asfortranarray(IMAGES.astype(">f8"))
    write_pickle(tmp_path / "tinycoco.pkl", {"images": stored, "labels": LABELS.astype(">i8")}, protocol=2)
    dataset = load_tiny_coco(tmp_path)
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(dataset.labels, torch.from_numpy(LABELS))


def test_a_compressed_npz_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "tinycoco.npz", images=IMAGES, labels=LABELS)
    data = bytearray((tmp_path / "tinycoco.npz").read_bytes())
    for place in range(60, len(data), len(data) // 40):
        damaged = data.copy()
        damaged[place] ^= 0xFF
        (tmp_path / "tinycoco.npz").write_bytes(damaged)
        try:
            load_tiny_coco(tmp_path)  # bytes that no checksum covers may be anything
        except DataError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017


def test_exdark_with_ten_of_its_classes(tmp_path: Path) -> None:
    images, labels = make_pixels(40, 10)
    write_pickle(tmp_path / "tinyexdark.pkl", {"images": images.transpose(0, 3, 1, 2), "labels": labels.astype(float)})
    dataset = load_tiny_exdark(tmp_path)
    assert len(dataset.classes) == 12
    assert torch.equal(dataset.labels, torch.from_numpy(labels))


IMAGES, LABELS = make_pixels(20, 10)
UNIT = IMAGES / 255.0


def changed(array: np.ndarray, index: object, value: float) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([1, 2], "expected a dict with 'images' and 'labels', found list"),
        ({"images": IMAGES}, "found keys ['images']"),
        (
            {"images": IMAGES.astype(str).astype(object), "labels": LABELS},
            "images and labels must be arrays of numbers, found object",
        ),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, "must be (N, 32, 32, 3), found (20, 3, 32, 32)"),
        ({"images": IMAGES[:, :16], "labels": LABELS}, "must be (N, 32, 32, 3), found (20, 16, 32, 3)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "it holds no images"),
        ({"images": changed(UNIT, (7, 0, 0, 0), np.nan), "labels": LABELS}, "image 7 has NaN or infinite pixels"),
        ({"images": changed(UNIT, (7, 0, 0, 0), np.inf), "labels": LABELS}, "image 7 has NaN or infinite pixels"),
        ({"images": changed(UNIT, (3, 0, 0, 0), -0.5), "labels": LABELS}, "found -0.5 to 1, first in image 3"),
        ({"images": changed(UNIT, (3, 0, 0, 0), 1.5), "labels": LABELS}, "image 3 and perhaps others reach beyond"),
        ({"images": changed(UNIT, (3, 0, 0, 0), 200.0), "labels": LABELS}, "image 3 and perhaps others reach beyond"),
        ({"images": changed(UNIT, (3, 0, 0, 0), 256.0), "labels": LABELS}, "found 0.0392157 to 256, first in image 3"),
        ({"images": IMAGES, "labels": [[0], [1, 2]]}, "labels must be an array of numbers, found list"),
        ({"images": IMAGES.astype(np.int32) * 2, "labels": LABELS}, "[0, 255], found"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, "labels must be (20,), one for each image, found (19,)"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, "labels must be (20,), one for each image, found (20, 1)"),
        ({"images": IMAGES, "labels": changed(LABELS, 4, -1)}, "label -1 at index 4 is outside 0 to 9"),
        ({"images": IMAGES, "labels": changed(LABELS, 4, -100)}, "label -100 at index 4"),
        ({"images": IMAGES, "labels": changed(LABELS, 4, 10)}, "label 10 at index 4"),
        ({"images": IMAGES, "labels": changed(LABELS.astype(float), 4, 1.5)}, "label 1.5 at index 4 is not a whole"),
        ({"images": IMAGES, "labels": changed(LABELS.astype(float), 4, np.nan)}, "label nan at index 4 is not a whole"),
        ({"images": IMAGES, "labels": [str(label) for label in LABELS]}, "labels must be an array of numbers"),
    ],
)
def test_files_of_the_wrong_form_are_refused(tmp_path: Path, value: object, part: str) -> None:
    path = write_pickle(tmp_path / "tinycoco.pkl", value)
    with pytest.raises(DataError) as caught:
        load_tiny_coco(tmp_path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_names_where_it_was_looked_for_and_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*tinycoco.pkl or .*tinycoco.npz; put the file there.*\(N, 32"):
        load_tiny_coco(tmp_path)
    with pytest.raises(DataError, match=r"there is no .*nowhere.npz"):
        load_tiny_exdark(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"tinycoco.{suffix}"
    if suffix == "npz":
        np.savez(path, images=IMAGES, labels=LABELS)
    else:
        write_pickle(path, {"images": IMAGES, "labels": LABELS})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match="again"):
        load_tiny_coco(path)


def test_an_npz_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "tinycoco.npz", images=np.array([Payload(tmp_path / "ran")], dtype=object), labels=LABELS)
    with pytest.raises(DataError, match=r"malformed \.npz"):
        load_tiny_coco(tmp_path)
    assert not (tmp_path / "ran").exists()


OWN = [f"kind {label}" for label in range(12)]


def write_named(path: Path, classes: object) -> Path:
    values = {"images": IMAGES, "labels": LABELS, "classes": classes}
    if path.suffix == ".npz":
        np.savez(path, **{key: np.asarray(value) for key, value in values.items()})
    elif path.suffix == ".pt":
        torch.save({**values, "images": torch.from_numpy(IMAGES), "labels": torch.from_numpy(LABELS)}, path)
    else:
        write_pickle(path, values)
    return path


@pytest.mark.parametrize("suffix", ["pkl", "npz", "pt"])
@pytest.mark.parametrize("count", [10, 12])
def test_a_file_names_its_classes_and_stays_the_same_data(tmp_path: Path, suffix: str, count: int) -> None:
    dataset = load_tiny_coco(write_named(tmp_path / f"x.{suffix}", OWN[:count]))
    assert dataset.classes == tuple(OWN[:count])
    assert {type(name) for name in dataset.classes} == {str}
    unnamed = load_tiny_coco(write_pickle(tmp_path / "y.pkl", {"images": IMAGES, "labels": LABELS}))
    assert unnamed.classes == TINY_COCO
    assert unnamed.sha256() == dataset.sha256()
    plain = ImageDataset(unnamed.images, unnamed.labels, TINY_COCO, "x")
    assert plain.sha256() == dataset.sha256(), "the digest of checkpoints from before files named their classes"


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
@pytest.mark.parametrize(
    ("classes", "part"),
    [
        (OWN[:9], "classes: it names 9 classes, and label 9 at index 9 is none of them"),
        ([*OWN, "kind 3"], "classes: two classes are named 'kind 3'"),
        ([*OWN, ""], "classes: '' is no name of a class"),
        ([*OWN, "a\x1b[31m"], r"x1b\[31m' is no name of a class: printable text of 1 to 1,000 characters"),
        ([*OWN, "x" * 1001], "is no name of a class"),
        ([str(number) for number in range(10_001)], "10,001 names of classes, and at most 10,000 are read"),
        (list(range(10)), "classes must be a list of names"),
        ([OWN], "classes must be a list of names"),
        ("cat", "classes must be a list of names"),
    ],
)
def test_classes_that_no_file_may_have(tmp_path: Path, suffix: str, classes: object, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        load_tiny_coco(write_named(tmp_path / f"x.{suffix}", classes))
    assert "\x1b" not in str(caught.value)


def test_classes_of_no_characters_are_malformed(tmp_path: Path) -> None:
    beyond_unicode = np.full((12, 1), 0x7FFFFFFF, np.int32).view("<U1")[:, 0]
    with pytest.raises(DataError, match=r"x\.npz: malformed classes \("):
        load_tiny_coco(write_named(tmp_path / "x.npz", beyond_unicode))


# --- the restricted unpickler --------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_payload_is_named_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"images": IMAGES, "labels": LABELS, "x": Payload(tmp_path / "ran")}, protocol)
    with pytest.raises(DataError, match=r"names (posix|nt)\.system, which .* it was not run"):
        load_arrays(data, "file")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "numpy.load", "numpy.core.numeric.Path", "numpy.dtype.x"]
)
def test_only_the_exact_names_are_allowed(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if name == "numpy.dtype.x":
        module, attribute = "numpy", "dtype.x"
    stacked = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, attribute)) + b"\x93."
    text = f"c{module}\n{attribute}\n.".encode()
    for data in (stacked, text):
        with pytest.raises(DataError, match=f"names {module}.{attribute}"):
            load_arrays(data, "file")


def test_nothing_is_imported_for_a_name_that_is_not_allowed() -> None:
    assert "antigravity" not in sys.modules
    with pytest.raises(DataError, match="antigravity"):
        load_arrays(b"cantigravity\nopen\n.", "file")
    assert "antigravity" not in sys.modules


def empty_array_header(shape: bytes) -> bytes:
    """Opcodes that call numpy's _reconstruct for an array of `shape`."""
    return b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n(" + shape + b"tC\x01b\x87R."


def object_array() -> bytes:
    """An array of five objects whose list of objects is empty: numpy's own __setstate__ reads past its end."""
    kind = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8I00\nI01\ntR"
    return (
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00tC\x01b\x87R"
        b"(K\x01(K\x05t" + kind + b"I00\n]tb."
    )


@pytest.mark.parametrize(
    "data",
    [
        empty_array_header(b"\x8a\x06\x00\x00\x00\x00\x00\x10"),  # 2^44 bytes from a few opcodes
        b"\x80\x04cnumpy\nndarray\n(\x8a\x06\x00\x00\x00\x00\x00\x10tR.",
        b"\x80\x04Nr\xff\xff\xff\xff.",  # LONG_BINPUT: a memo of 2^32 entries
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",  # BYTEARRAY8 of 2^60 bytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",  # BINBYTES8 likewise
        b"\x80\x04" + b"(" * 200_000,
        b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"K\x01s.",  # a deep tuple as a key: hashing it recurses
        b"\x80\x04}" + b")" + b"\x942h\x00\x86" * 60 + b"K\x01s.",  # one that doubles sixty times
        b"\x80\x04(" + b")" + b"\x85" * 200_000 + b"\x91.",  # the same in a frozenset
        b"\x80\x04c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",  # a state for a function
        object_array(),
        b"\x80\x04c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
        b"\x80\x04\x82\x01.",  # EXT1
        b"Ppid\n.",
        b"",
        b"not a pickle",
    ],
)
def test_bombs_and_rubbish_are_malformed_in_little_memory(data: bytes) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        value = load_arrays(data, "file")
    except DataError as error:
        assert "malformed" in str(error) or "arrays of numbers" in str(error)  # noqa: PT017
    else:
        assert isinstance(value, list | type(None)), "harmless plain values may load"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


# --- folders of images ---------------------------------------------------------------------------------------------


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


def test_a_folder_and_its_zip_give_the_same_images(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    dataset = load_image_folder(folder)
    assert dataset.classes == ("ant", "bee", "cat")
    assert len(dataset) == 37 + 12
    assert dataset.own_test.tolist() == list(range(37, 49))
    assert dataset.images.shape[1:] == (3, 32, 32)
    for inside in ("", "wrapped/"):
        other = load_image_folder(zipped(folder, tmp_path / f"x{len(inside)}.zip", inside))
        assert torch.equal(other.images, dataset.images)
        assert torch.equal(other.labels, dataset.labels)


def test_images_of_32x32_are_untouched(tmp_path: Path) -> None:
    pixels, _ = make_pixels(3, 3)
    for name, image in zip("abc", pixels, strict=True):
        (tmp_path / "i" / "train" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "i" / "train" / name / "1.png")
    dataset = load_image_folder(tmp_path / "i")
    assert torch.equal(dataset.images, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    assert dataset.own_test is None


def test_wide_images_are_cropped_at_the_centre_and_deep_ones_scaled(tmp_path: Path) -> None:
    folder = tmp_path / "i" / "train" / "a"
    folder.mkdir(parents=True)
    wide = np.zeros((64, 128, 3), dtype=np.uint8)
    wide[:, 32:96] = 200
    Image.fromarray(wide).save(folder / "1.png")
    Image.fromarray(np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)).save(folder / "2.png")
    dataset = load_image_folder(tmp_path / "i")
    assert (dataset.images[0, :, :, 2:30] == 200).all()
    assert dataset.images[1].float().mean() == pytest.approx(127.5, abs=1)
    Image.fromarray(np.full((32, 32), 30000, dtype=np.uint16)).save(folder / "3.png")
    Image.fromarray(np.full((32, 32), 2**30, dtype=np.int32)).save(folder / "4.tif")
    Image.fromarray(np.full((32, 32), 0.5, dtype=np.float32)).save(folder / "5.tif")
    dataset = load_image_folder(tmp_path / "i")
    assert [int(image.float().mean()) for image in dataset.images[2:]] == [117, 128, 128]


def test_the_cache_is_used_and_follows_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_folder(tmp_path / "images")
    first = load_image_folder(folder)
    caches = list(tmp_path.glob("images.*.npz"))
    assert len(caches) == 1

    def forbidden(data: bytes, where: str) -> np.ndarray:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode", forbidden)
        again = load_image_folder(folder)
    assert torch.equal(again.images, first.images)
    assert again.sha256() == first.sha256()

    damaged = bytearray(caches[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    caches[0].write_bytes(damaged)
    assert torch.equal(load_image_folder(folder).images, first.images)

    (folder / "train" / "ant" / "000.png").unlink()
    assert len(load_image_folder(folder)) == len(first) - 1


def test_a_read_only_place_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "shared"
    folder = write_image_folder(place / "images")
    before = sorted(place.rglob("*"))
    place.chmod(0o555)
    try:
        first = load_image_folder(folder)
        assert sorted(place.rglob("*")) == before
        assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
        assert load_image_folder(folder).sha256() == first.sha256()
    finally:
        place.chmod(0o755)


def test_what_a_killed_process_left_of_a_cache_goes_in_time(tmp_path: Path) -> None:
    for age, digit in ((7200, "1"), (60, "2")):
        left = tmp_path / f".x.npz.{digit * 8}.tmp"
        left.touch()
        os.utime(left, (time.time() - age,) * 2)
    (tmp_path / ".y.npz.11111111.tmp").touch()
    with replacing(tmp_path / "x.npz") as file:
        file.write(b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.npz.22222222.tmp", ".y.npz.11111111.tmp", "x.npz"]
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x.npz") as file:
        file.write(bytes(1 // 0))
    assert (tmp_path / "x.npz").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 3


def test_no_key_of_caches_is_ever_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key, there = tmp_path / "convnorm-experiments" / "cache.key", []

    def drawn(count: int) -> bytes:
        there.append(key.exists())
        return bytes(count)

    monkeypatch.setattr("secrets.token_bytes", drawn)
    assert picture_cache._secret(make=True) == bytes(32)
    assert not any(there)
    assert key.stat().st_mode & 0o777 == 0o600
    assert list(key.parent.iterdir()) == [key]


def test_a_place_where_no_cache_can_be_written_is_no_fault(tmp_path: Path, monkeypatch, caplog) -> None:
    folder = write_image_folder(tmp_path / "place" / "images")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(get_logger(), "propagate", True)
    (tmp_path / "place").chmod(0o555)
    try:
        assert len(load_image_folder(folder)) == 49
    finally:
        (tmp_path / "place").chmod(0o755)
    assert "are not cached" in caplog.text


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    shutil.copytree(folder / "train" / "ant", folder / "train" / ".ipynb_checkpoints")
    shutil.copytree(folder / "train", folder / "__MACOSX" / "train")
    assert load_image_folder(folder).classes == ("ant", "bee", "cat")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        load_image_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no train/<class>/ images"):
        load_image_folder(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(DataError, match=r"neither a folder nor a readable \.zip"):
        load_image_folder(tmp_path / "text.zip")
    folder = write_image_folder(tmp_path / "images")
    (folder / "test" / "dog").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "test" / "dog" / "1.png")
    with pytest.raises(DataError, match="test/ has classes that train/ lacks: dog"):
        load_image_folder(folder)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, format="JPEG")
    for data in (b"text", buffer.getvalue()[:200]):
        (folder / "train" / "ant" / "bad.jpg").write_bytes(data)
        with pytest.raises(DataError, match=r"train/ant/bad.jpg is not an image that can be read"):
            load_image_folder(folder)


# --- the common type -----------------------------------------------------------------------------------------------


def test_the_digest_covers_pixels_labels_classes_and_test_set() -> None:
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    other = images.clone()
    other[0, 0, 0, 0] = 1
    digests = {
        ImageDataset(images, labels, ("a", "b"), "x").sha256(),
        ImageDataset(other, labels, ("a", "b"), "x").sha256(),
        ImageDataset(images, labels.flip(0), ("a", "b"), "x").sha256(),
        ImageDataset(images, labels, ("a", "c"), "x").sha256(),
        ImageDataset(images, labels, ("a", "b"), "x", torch.tensor([3])).sha256(),
    }
    assert len(digests) == 5
    assert ImageDataset(images, labels, ("a", "b"), "elsewhere").sha256() in digests
