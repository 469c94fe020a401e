"""Bad datasets. The numbers are those of docs/faults.md."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_loader.dataset import ImageDataset
from tests.conftest import make_pixels, write_image_folder
from tests.faults import Call, limit_more_memory, no_network
from tests.runs import call, coco, evaluate, launch, one_line, rows
from trainer.checkpoint import read
from utils.errors import DataError

IMAGES, LABELS = make_pixels(100, 10)
UNIT = IMAGES.astype(np.float32) / 255.0
GIB = 1 << 30


def refused(
    place: Path, data: bytes | None, *parts: str, name: str = "tinycoco.pkl", bomb: bool = False, whole: bool = False
) -> None:
    """train.py on a dataset file with these bytes ends with 3, one line that names the file, and no run folder.

    A `bomb` is given to a process of limited memory; of what is `whole`, no subset is taken.
    """
    folder = place / "data"
    folder.mkdir()
    if data is not None:
        (folder / name).write_bytes(data)
    before = sorted(place.rglob("*"))
    all_of_it = ("data_loader.args.subset=null", "data_loader.args.validation_split=0.1") if whole else ()
    arguments = coco(folder, place / "run", *all_of_it)
    ended = launch(place, *arguments, prepare=[limit_more_memory(GIB)]) if bomb else call("train.py", *arguments)
    one_line(ended, 3, "error: ", str(folder), *parts)
    assert [path for path in sorted(place.rglob("*")) if "process" not in str(path)] == before


def pickled(images: object = IMAGES, labels: object = LABELS, **more: object) -> bytes:
    return pickle.dumps({"images": images, "labels": labels, **more}, 4)


def changed(array: np.ndarray, index: object, value: float) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


# --- hostile files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, getattr], ids=["os.system", "eval", "getattr"])
def test_20_a_payload(tmp_path: Path, function: Callable, protocol: int) -> None:
    ran = tmp_path / "ran"
    arguments = {
        os.system: (f"touch {ran}",),
        eval: (f"open({str(ran)!r}, 'w')",),
        getattr: (Call(os.mkdir, str(ran)), "x"),
    }[function]
    data = pickle.dumps({"images": IMAGES, "labels": LABELS, "x": Call(function, *arguments)}, protocol)
    refused(tmp_path, data, "the pickle names ", f".{function.__name__}, which", "it was not run. Do not use this file")
    assert not ran.exists()


BOMBS = {
    "an array of 2^44 bytes": (
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"(\x8a\x06\x00\x00\x00\x00\x00\x10tC\x01b\x87R."
    ),
    "a memo of 2^32 entries": b"\x80\x04Nr\xff\xff\xff\xff.",
    "a string of 2^60 bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "a bytearray of 2^60 bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "a frame of 2^60 bytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "marks, 200,000 deep": b"\x80\x04" + b"(" * 200_000,
    "lists, 200,000 deep": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a tuple doubled sixty times as a key": b"\x80\x04}" + b")" + b"\x942h\x00\x86" * 60 + b"K\x01s.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_21_a_pickle_bomb(tmp_path: Path, kind: str) -> None:
    plain = kind in ("lists, 200,000 deep", "a memo of 2^32 entries")  # harmless here, and no dataset
    refused(tmp_path, BOMBS[kind], "expected a dict with 'images'" if plain else "malformed", bomb=True)


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def npz(images: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", npy((100,), bytes(100)))
    return buffer.getvalue()


def test_21_an_npz_bomb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(tmp_path / "a", npz(npy((1 << 40, 32, 32, 3), b"")), "malformed .npz", name="tinycoco.npz", bomb=True)
    (tmp_path / "b").mkdir()
    data = bytearray(npz(npy((100, 32, 32, 3), bytes(100 * 3072))))
    place = data.index(b"PK\x01\x02") + 24  # the directory's word on the first entry's size
    data[place : place + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    refused(tmp_path / "b", bytes(data), "it unfolds to 4,294,967,", name="tinycoco.npz", bomb=True)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_21_an_npz_that_zipfile_would_unfold_without_bound(tmp_path: Path, method: int) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        archive.writestr("images.npy", npy((1 << 28,), bytes(1 << 28)))
        archive.writestr("labels.npy", npy((0,), b""))
    refused(tmp_path, data.getvalue(), f"compressed in a way (method {method})", name="tinycoco.npz")


def test_21_an_image_bomb(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", each=4)
    Image.new("1", (16_000, 16_000)).save(folder / "train" / "bee" / "large.png")
    arguments = coco(folder, tmp_path / "run", "data_loader.type=ImageFolder")
    ended = launch(tmp_path, *arguments, prepare=[limit_more_memory(GIB)])
    one_line(ended, 3, "train/bee/large.png is not an image that can be read", "could be decompression bomb")


# --- damaged and malformed ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "part"), [(None, "put the file there"), (0.0, "the file is empty; get or build it again"), (0.5, "again")]
)
@pytest.mark.parametrize("name", ["tinycoco.pkl", "tinycoco.npz"])
def test_22_a_truncated_empty_or_missing_file(tmp_path: Path, name: str, share: float | None, part: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, images=IMAGES, labels=LABELS)
    whole = pickled() if name.endswith("pkl") else buffer.getvalue()
    refused(tmp_path, None if share is None else whole[: int(share * len(whole))], part, name=name)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (pickled(IMAGES.astype(str).astype(object)), "must be arrays of numbers, found object"),
        (pickled(IMAGES.astype("S4")), "images must be an array of numbers, found |S4"),
        (pickled(IMAGES.astype(np.complex64)), "images must be an array of numbers, found complex64"),
        (pickled(IMAGES.transpose(0, 3, 1, 2)), "images must be (N, 32, 32, 3), found (100, 3, 32, 32)"),
        (pickled(IMAGES[:, :, :, :1]), "images must be (N, 32, 32, 3), found (100, 32, 32, 1)"),
        (pickled(IMAGES[0]), "images must be (N, 32, 32, 3), found (32, 32, 3)"),
        (pickled(changed(UNIT, (3, 0, 0, 0), -0.5)), "must lie in [0, 1] or [0, 255], found -0.5 to 1"),
        (pickled(IMAGES.astype(np.int32) * 2), "must lie in [0, 1] or [0, 255], found"),
        (pickled(changed(UNIT, (3, 0, 0, 0), 40.0)), "nearly all pixels lie in [0, 1], but image 3"),
        (pickle.dumps([1, 2]), "expected a dict with 'images' and 'labels', found list"),
    ],
    ids=["object", "bytes", "complex", "channels first", "grey", "one", "negative", "above", "mixed", "list"],
)
def test_23_another_form(tmp_path: Path, data: bytes, part: str) -> None:
    refused(tmp_path, data, part)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_24_pixels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    refused(tmp_path, pickled(changed(UNIT, (7, 3, 3, 1), value)), "image 7 has NaN or infinite pixels")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (-1, "label -1 at index 4 is outside 0 to 9"),
        (-100, "label -100 at index 4 is outside 0 to 9"),
        (10, "label 10 at index 4 is outside 0 to 9"),
        (1.5, "label 1.5 at index 4 is not a whole number"),
        (np.nan, "label nan at index 4 is not a whole number"),
    ],
)
def test_25_labels_of_no_class(tmp_path: Path, value: float, part: str) -> None:
    whole = isinstance(value, int)
    refused(tmp_path, pickled(labels=changed(LABELS if whole else LABELS.astype(float), 4, value)), part)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (pickled(IMAGES[:0], LABELS[:0]), "it holds no images"),
        (pickled(labels=LABELS[:-1]), "labels must be (100,), one for each image, found (99,)"),
        (pickled(labels=LABELS[:, None]), "labels must be (100,), one for each image, found (100, 1)"),
        (pickled(IMAGES[:4], LABELS[:4]), "cannot take 0 of 4 images for test"),
        (pickled(labels=np.where(np.arange(100) < 2, 1, 0)), "has none of class 'dog', of which there are 2 in all"),
    ],
    ids=["no images", "too few labels", "a column of labels", "an empty split", "a class missing from a split"],
)
def test_26_too_little(tmp_path: Path, data: bytes, part: str) -> None:
    refused(tmp_path, data, part, whole=True)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("a", "b" * 1001), "is no name of a class: text of 1 to 1,000 characters"),
        (("a", ""), "'' is no name of a class"),
        (("a", "a"), "two classes are named 'a'"),
        (tuple(map(str, range(10_001))), "10,001 names of classes, and at most 10,000"),
        (tuple(f"{number:0150}" for number in range(8000)), "names of classes of 1,200,000 characters, and at most"),
    ],
    ids=["long", "empty", "twice", "many", "long together"],
)
def test_26_classes_that_no_checkpoint_may_have(names: tuple[str, ...], part: str) -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match=f"^from Python: .*{part}"):
        ImageDataset(images, torch.arange(2), names, "from Python")


def test_26_images_that_no_checkpoint_may_have() -> None:
    images = torch.zeros(2, 3, 1, 1, dtype=torch.uint8).expand(2, 3, 2048, 2049)
    with pytest.raises(
        DataError, match=r"from Python: images of 2048x2049 are larger than 4,194,304 pixels; scale them"
    ):
        ImageDataset(images, torch.arange(2), ("a", "b"), "from Python")


def test_27_splits_that_share_an_image(tmp_path: Path, finished: Path) -> None:
    splits = read(finished / "checkpoint-epoch3.pth")["splits"]
    a, b, c = (int(splits[name][0]) for name in ("train", "val", "test"))
    images = IMAGES.copy()
    images[b] = images[c] = images[a]
    data = pickled(images)
    parts = [f"train, validation and test share images: {a} (train) and {b} (val), {a} (train) and {c} (test);"]
    refused(tmp_path, data, *parts, "remove the copies, or set data_loader.args.allow_duplicates=true")
    allowed = coco(tmp_path / "data", tmp_path / "run", "data_loader.args.allow_duplicates=true", "trainer.epochs=1")
    assert launch(tmp_path, *allowed).code == 0


def test_27_copies_within_a_split_are_no_leak(tmp_path: Path, finished: Path) -> None:
    train = read(finished / "checkpoint-epoch3.pth")["splits"]["train"]
    images = IMAGES.copy()
    images[int(train[1])] = images[int(train[0])]
    (tmp_path / "tinycoco.pkl").write_bytes(pickled(images))
    assert launch(tmp_path, *coco(tmp_path, tmp_path / "run", "trainer.epochs=1")).code == 0


@pytest.mark.parametrize("arm", ["bn", "bncn"])
def test_28_a_last_batch_of_one_image(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    """40 images in batches of 39 leave one, which joins the first batch: one step an epoch, not two."""
    options = ("data_loader.args.batch_size=39", "trainer.epochs=1")
    ended = launch(tmp_path, *coco(coco_dir, tmp_path / "run", *options, arm=arm))
    assert (ended.code, ended.err) == (0, "")
    assert read(tmp_path / "run" / "checkpoint-epoch1.pth")["global_step"] == 1


# --- the network ---------------------------------------------------------------------------------------------------


def test_data_that_are_not_downloaded_touch_no_network(
    coco_dir: Path, exdark_dir: Path, tmp_path: Path, finished: Path
) -> None:
    """Training and testing on every other dataset; resuming and checking on one."""
    log = tmp_path / "network.txt"
    quiet = [no_network(log)]
    folder = write_image_folder(tmp_path / "images", each=20)
    for kind, place, subset in (
        ("TinyCOCO", coco_dir, 0.6),
        ("TinyExDark", exdark_dir, 0.3),
        ("ImageFolder", folder, 0.9),
        ("Digits", folder, 0.1),
    ):
        run = tmp_path / kind
        few = (f"data_loader.args.subset={subset}", "data_loader.args.validation_split=0.2", "trainer.epochs=1")
        options = (f"data_loader.type={kind}", *few)
        assert launch(tmp_path, *coco(place, run, *options), prepare=quiet).code == 0, kind
        if kind == "TinyCOCO":
            assert launch(tmp_path, "-r", "auto", "--run-dir", run, "--check", prepare=quiet).code == 0
        assert evaluate(tmp_path, "-r", run / "checkpoint-epoch1.pth", prepare=quiet).code == 0
        assert len(rows(run)) == 1
    assert not log.exists(), log.read_text()


def test_cifar10_is_asked_for_over_https_only(tmp_path: Path) -> None:
    """torchvision by itself would go on over HTTP where HTTPS fails."""
    log = tmp_path / "network.txt"
    options = ("data_loader.type=CIFAR10",)
    ended = launch(tmp_path, *coco(tmp_path / "nothing", tmp_path / "run", *options), prepare=[no_network(log)])
    one_line(ended, 3, "could not be downloaded", "there is no network", "(MD5 c58f30108f718f92721af3b95e74349a)")
    assert log.read_text() == "socket.getaddrinfo ('www.cs.toronto.edu', 443)\n"
    assert not list((tmp_path / "nothing").iterdir())


def test_no_redirection_leads_away_from_https() -> None:
    from urllib.request import Request

    from data_loader.archives import _download, _HttpsOnly

    with pytest.raises(RuntimeError, match="http://x/y is not HTTPS"):
        _HttpsOnly().redirect_request(Request("https://x/y"), None, 302, "", {}, "http://x/y")
    with pytest.raises(RuntimeError, match="ftp://x/y is not HTTPS"):
        _download("ftp://x/y", "", Path("y"), 1)


@pytest.mark.parametrize("data", [b"another file", bytes(2000)])
def test_a_download_of_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """What comes over the wire is checked before it is written, its length as well."""
    from data_loader import archives, cifar10
    from utils.errors import DataError

    class Answer(io.BytesIO):
        length = len(data)

    monkeypatch.setattr(archives, "_LARGEST", 1000)
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: Answer(data))
    with pytest.raises(DataError, match="sends more than 1,000 bytes" if len(data) > 1000 else "12 bytes with the MD5"):
        cifar10.load_cifar10(tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())
