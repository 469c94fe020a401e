"""Rows 53 to 75, as far as they are about pictures, zips of them, and their cache."""

import io
import os
import random
import shutil
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import prepare_data
import report
from data_loader import image_folder, pictures
from data_loader.dataset import ImageDataset
from data_loader.image_folder import load_image_folder
from data_loader.picture_files import walk
from data_loader.pictures import SUFFIXES, BrokenImageError, Picture, decode
from data_loader.splits import make_splits
from tests.faults import limit_more_memory
from tests.runs import Started, coco, evaluate, launch, one_line
from utils.errors import DataError

CASES = Path(__file__).parent / "data" / "pictures"


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def fill(folder: Path, *names: str) -> Path:
    """Write another picture under each name."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(seed)))
    return folder


def two_classes(folder: Path, each: int = 3) -> Path:
    return fill(folder, *(f"train/{name}/{row}.png" for name in ("a", "b") for row in range(each)))


def zipped(folder: Path, path: Path, **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def caches(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.32x32.*.npz"))


def refused(source: Path, **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        load_image_folder(source, **options)
    return str(caught.value)


def prepared(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code of prepare_data.py, and what it said."""
    code = prepare_data.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.err.count("\n") == (code != 0), captured.err
    return code, captured.out + captured.err


# --- 53, 75: the cache -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_home")
def test_53_a_cache_that_came_with_the_zip_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's own program made it, whole and with the right name, but of other pictures."""
    source = zipped(two_classes(tmp_path / "images"), tmp_path / "x.zip")
    true = load_image_folder(source).images
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "stranger"))
        elsewhere.setattr(image_folder, "decode", lambda *_: Picture(np.zeros((3, 32, 32), np.uint8)))
        assert not load_image_folder(source).images.any(), "nor is the user's believed there"
        assert not load_image_folder(source).images.any()
    assert len(caches(tmp_path)) == 1
    assert torch.equal(load_image_folder(source).images, true)


def test_53_a_cache_of_another_source_or_state_is_not_taken(tmp_path: Path) -> None:
    one, two = (two_classes(tmp_path / name / "images") for name in "xy")
    fill(two, "train/a/0.png", "train/b/9.png")
    first, second = load_image_folder(one), load_image_folder(two)
    assert first.sha256() != second.sha256()
    shutil.copy(caches(tmp_path / "x")[0], caches(tmp_path / "y")[0])  # under the other's name
    assert load_image_folder(two).sha256() == second.sha256()


def test_75_hidden_files_do_not_matter_and_one_cache_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = two_classes(tmp_path / "images")
    shutil.copytree(folder, tmp_path / "images.2")  # another source, whose cache has a like name
    load_image_folder(tmp_path / "images.2")
    theirs = tmp_path / "images.0123456789abcdef.32x32.v2.npz"
    theirs.write_bytes(b"the user's own")
    kept = {*caches(tmp_path)}
    first = load_image_folder(folder)
    assert len(caches(tmp_path)) == 3
    for name in (".DS_Store", "train/.DS_Store", "train/a/Thumbs.db", "train/a/._0.png", "README.md", "x/y.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(os.urandom(10))
    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode", lambda *_: pytest.fail("decoded again"))
        again = load_image_folder(folder)
    assert again.sha256() == first.sha256()
    fill(folder, "train/a/0.png", "train/b/new.png")
    assert len(load_image_folder(folder)) == 7
    assert len(caches(tmp_path)) == 3, "the older one has gone"
    assert kept <= {*caches(tmp_path)}
    assert theirs.read_bytes() == b"the user's own"


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("kind", ["no home", "a file in the way"])
def test_75_no_place_for_a_cache_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = two_classes(tmp_path / "images")
    if kind == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    else:
        (tmp_path / "home").write_text("")
    assert len(load_image_folder(folder)) == 6
    assert not caches(tmp_path)


# --- 57: all pictures, or told ---------------------------------------------------------------------------------------

WRITTEN = {
    **{".avif": "AVIF", ".webp": "WEBP", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".tiff": "TIFF", ".gif": "GIF"},
    **{".qoi": "QOI", ".bmp": "BMP", ".dib": "DIB", ".pcx": "PCX", ".tga": "TGA", ".sgi": "SGI", ".ppm": "PPM"},
    **{".ico": "ICO", ".icns": "ICNS", ".dds": "DDS", ".im": "IM", ".mpo": "MPO", ".jfif": "JPEG", ".apng": "PNG"},
    **{".JPG": "JPEG", ".jpeg": "JPEG", ".Png": "PNG"},
}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_57_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    image = photo(size=(64, 64))
    data = encoded(image, WRITTEN[suffix])
    assert suffix.lower() in SUFFIXES
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    found = decode(data, f"x{suffix}").pixels
    assert np.abs(found.transpose(1, 2, 0).astype(int) - expected).max() <= 1
    assert np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(image.resize((32, 32)))).mean() < 12


def test_57_formats_that_run_programs_or_are_documents_are_not() -> None:
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".mpg", ".h5", ".fits", ".iim", ".fpx", ".mic"} & SUFFIXES.keys()
    for suffix in (".eps", ".png"):
        with pytest.raises(BrokenImageError, match="unknown format"):
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", f"x{suffix}")


def test_57_text_under_a_picture_s_name_is_no_picture_of_a_format_without_a_mark() -> None:
    tga = encoded(photo(), "TGA")
    assert decode(tga, "x.tga").pixels.any()
    with pytest.raises(BrokenImageError, match="unknown format"):
        decode(tga, "x.png")


def messy(folder: Path) -> Path:
    """Pictures wherever people put them, and other files."""
    fill(folder, *(f"train/{name}/{row}.png" for name in ("a", "b") for row in range(4)))
    fill(folder, "train/a/2024/may/x.png", "train/b/sub/y.png", "train/b/test/z.png")
    fill(
        folder,
        *(f"{split}/{name}/v{row}.png" for split in ("valid", "test") for name in ("a", "b") for row in range(2)),
    )
    for seed, name in enumerate(("valid/a/v0.png", "valid/a/v1.png", "valid/b/v0.png", "valid/b/v1.png")):
        (folder / name).write_bytes(encoded(photo(100 + seed)))
    fill(folder, "train/cover.png", "loose.png", "docs/figure.png", "train/a/.hidden.png", "__MACOSX/train/a/1.png")
    (folder / "train/a/notes.txt").write_text("x")
    (folder / "train/b/photo.heic").write_text("x")
    (folder / "README.md").write_text("x")
    os.mkfifo(folder / "train/a/fifo.png")
    (folder / "train/empty").mkdir()
    return folder


def test_57_sub_folders_val_and_all_that_is_left_out(tmp_path: Path) -> None:
    dataset = load_image_folder(messy(tmp_path / "images"))
    assert dataset.classes == ("a", "b")
    assert len(dataset) == 11 + 4 + 4
    assert dataset.own_val is not None
    assert dataset.own_test is not None
    assert dataset.own_val.tolist() == [11, 12, 13, 14]
    assert dataset.own_test.tolist() == [15, 16, 17, 18]
    told = dataset.notes[0]
    for part in (
        *("2 hidden or of the system", "2 of no format that is read", "1 in no class folder (such as train/cover.png)"),
        *(
            "1 no regular file (such as train/a/fifo.png)",
            "3 outside train/, val/ and test/",
            "1 class folder with noth",
        ),
    ):
        assert part in told, told
    assert "\n" not in told
    assert "validation is on the 4 images of the source's own val/" in dataset.notes[1]


@pytest.mark.timeout(20)
def test_57_links_to_links_are_followed_once_within_a_class(tmp_path: Path) -> None:
    """And a folder that several classes and splits share is part of each."""
    shared = tmp_path / "shared"
    for level in range(30):
        folder = shared / str(level)
        fill(folder, "x.png")
        for way in ("left", "right"):
            (folder / way).symlink_to(shared / str(level + 1), target_is_directory=True)
    fill(shared / "30", "x.png")
    for place in ("train/a/deep", "train/b/deep", "val/a/deep"):
        (tmp_path / "images" / place).parent.mkdir(parents=True)
        (tmp_path / "images" / place).symlink_to(shared / "0")
    tree = walk(tmp_path / "images")
    assert len(tree.files) == 3 * 31
    assert tree.files[0] == "train/a/deep/" + "left/" * 30 + "x.png"
    assert "90 on another way to a folder of the same class (such as train/a/deep/right/)" in tree.left_out.lines()[0]


def test_57_what_is_left_out_is_told_by_check_and_log(tmp_path: Path) -> None:
    folder = messy(tmp_path / "images")
    arguments = (f"data_loader.args.data_dir={folder}", "data_loader.type=ImageFolder", "trainer.epochs=1")
    allowed = "data_loader.args.allow_duplicates=true"
    for more in ((), ("--check",)):
        ended = launch(tmp_path, *coco(folder, tmp_path / "run", *arguments, allowed), *more)
        assert ended.code == 0, ended.err
        assert ended.out.count("left out: ") == 1, ended.out
        assert ended.out.count("validation is on the 4 images") == 1
    assert "splits: train 11, val 4, test 4" in ended.out
    assert "left out: " in (tmp_path / "run" / "train.log").read_text()


def test_57_a_class_lost_whole_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = two_classes(tmp_path / "images")
    for split in ("train", "test", "val"):
        place = folder / split / "lost"
        place.mkdir(parents=True)
        (place / "1.heic").write_text("x")
        assert f"class folders without a picture that can be read: {split}/lost (1 .heic)" in refused(folder)
        assert f"{split}/lost (1 .heic)" in refused(zipped(folder, tmp_path / "x.zip"))
        shutil.rmtree(place)
    (tmp_path / "plain").mkdir()
    shutil.copytree(folder / "train", tmp_path / "plain" / "x")
    (tmp_path / "plain/x/lost").mkdir()
    (tmp_path / "plain/x/lost/1.heic").write_text("x")
    arguments = ("folder", tmp_path / "plain", "-o", tmp_path / "x.npz")
    code, said = prepared(capsys, *arguments)
    assert code == 3
    assert "x/lost (1 .heic)" in said
    assert "--classes" in said
    assert prepared(capsys, *arguments, "--classes", "a,b")[0] == 0


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("around", ["", "x/", "x/y/"])
def test_a_plain_folder_of_classes_is_divided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], around: str, form: str
) -> None:
    source = fill(tmp_path / "in", *(f"{around}{name}/{row}.png" for name in "ab" for row in range(10)))
    fill(source, f"{around}b/2024/may/x.png", *([f"{around}../cover.png"] if around else []))
    source = zipped(source, tmp_path / "x.zip") if form == "zip" else source
    dataset = load_image_folder(source)
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [*[0] * 10, *[1] * 11]
    assert dataset.own_test is None
    assert dataset.own_val is None
    assert dataset.notes[-1] == "the source has no train/: all its pictures are divided into train, val and test"
    assert prepared(capsys, "folder", source, "-o", tmp_path / "x.npz", "--keep-duplicates")[0] == 0
    assert np.load(tmp_path / "x.npz")["labels"].tolist() == dataset.labels.tolist()
    settings = ("data_loader.type=ImageFolder", "data_loader.args.allow_duplicates=true", "--check")
    more = ("data_loader.args.validation_split=0.2", "data_loader.args.test_split=0.2")
    ended = launch(tmp_path, *coco(source, tmp_path / "run", *settings, *more))
    assert "splits: train 13, val 4, test 4" in ended.out, ended


def test_plain_folders_that_may_be_something_else_are_refused(tmp_path: Path) -> None:
    """A train/ keeps its meaning, and folders of class folders may be several datasets."""
    expected = "no train/<class>/ images; expected train/<class>/* and optionally val/<class>/* and test/<class>/*, or"
    for name, files in {
        "pictures of a split": ("train/0.png", "test/0.png"),
        "one folder around it": ("x/Train/0.png", "x/other/0.png"),
        "two beside one another": ("x/train/0.png", "x/other/0.png", "docs/.z/0.png"),
        "only val": ("val/a/0.png", "val/b/0.png"),
    }.items():
        assert expected in refused(fill(tmp_path / name, *files))
    fill(tmp_path / "empty", "a/0.png", "b/0.png")
    (tmp_path / "empty/train").mkdir()
    assert expected in refused(tmp_path / "empty")
    train = two_classes(tmp_path / "in") / "train"
    assert (
        refused(train) == f"{train} is the folder of one split; name the one around it with data_loader.args.data_dir"
    )
    par = fill(tmp_path / "par", *(f"{name}/{label}/0.png" for name in ("flowers", "pets") for label in "ab"))
    said = refused(par)
    assert "flowers, pets may be classes or datasets, since no picture lies in them" in said
    assert "name one dataset with data_loader.args.data_dir, or put the classes into train/" in said
    fill(par, "pets/0.png")
    assert load_image_folder(par).classes == ("flowers", "pets"), "pictures lie in one"
    (par / "notes").mkdir()
    (par / "notes" / "a.txt").write_text("x")
    said = refused(par)
    assert "without a picture that can be read: notes (1 .txt); give them such pictures, or take them away" in said
    assert "--classes" not in said


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_several_datasets_under_one_folder_are_not_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    source = tmp_path / "par"
    fill(
        source, *(f"{name}/train/{label}/{row}.png" for name in ("pets", "flowers") for label in "ab" for row in "012")
    )
    (source / ".trash/train/a").mkdir(parents=True)
    one = "make a zip of one" if form == "zip" else "name one with data_loader.args.data_dir"
    place = zipped(source, tmp_path / "x.zip") if form == "zip" else source
    assert refused(place) == f"{place}: several datasets: flowers, pets; {one}"
    code, said = prepared(capsys, "folder", place, "-o", tmp_path / "x.npz")
    assert (code, "several datasets: flowers, pets; " in said) == (3, True)
    assert ("name one as SOURCE" in said) == (form == "folder")
    two_classes(source)
    dataset = load_image_folder(zipped(source, tmp_path / "y.zip") if form == "zip" else source)
    assert (len(dataset), dataset.classes) == (6, ("a", "b")), "those of the upper train/"


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_57_prepare_data_takes_them_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    source = messy(tmp_path / "images")
    if form == "zip":
        (source / "train/a/fifo.png").unlink()
        source = zipped(source, tmp_path / "x.zip")
    for split, count in (("train", 11), ("val", 4), ("test", 4), ("all", 19)):
        out = tmp_path / f"{split}.npz"
        code, said = prepared(capsys, "folder", source, "-o", out, "--split", split, "--keep-duplicates")
        assert code == 0, said
        assert said.count("left out: ") == 1
        assert len(np.load(out)["labels"]) == count


def test_57_a_validation_set_of_its_own_is_the_validation_split() -> None:
    count = 100
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
    labels = torch.arange(count) % 2
    val, test = torch.arange(60, 80), torch.arange(80, 100)
    both = ImageDataset(images, labels, ("a", "b"), "x", test, val)
    splits = make_splits(both, 0.5, 0.5, None, 0)
    assert [part.tolist() for part in splits.named().values()] == [[*range(60)], val.tolist(), test.tolist()]
    few = make_splits(both, 0.1, 0.1, 0.5, 0)
    assert [len(part) for part in few.named().values()] == [30, 10, 20]
    assert set(few.val.tolist()) < set(val.tolist())
    alone = make_splits(ImageDataset(images, labels, ("a", "b"), "x", None, val), 0.1, 0.25, None, 0)
    assert alone.val.tolist() == val.tolist()
    assert [len(part) for part in alone.named().values()] == [60, 20, 20]
    assert not set(alone.test.tolist()) & set(val.tolist())
    assert both.sha256() != ImageDataset(images, labels, ("a", "b"), "x", test).sha256()


def test_names_are_those_of_the_pictures_that_are_kept(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "images")
    (folder / "train/a/1.png").write_bytes(b"broken")
    dataset = load_image_folder(folder, skip_broken=True)
    assert dataset.names == ("train/a/0.png", "train/a/2.png", "train/b/0.png", "train/b/1.png", "train/b/2.png")
    assert [dataset.name_of(row) for row in (1, 2)] == ["train/a/2.png", "train/b/0.png"]


def test_57_what_is_in_val_and_in_train_is_a_leak(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "images")
    shutil.copytree(folder / "train", folder / "val")
    shutil.copytree(folder / "train", folder / "test")
    for source in (folder, zipped(folder, tmp_path / "x.zip")):
        for in_memory in ("true", "false"):
            more = ("data_loader.type=ImageFolder", f"data_loader.args.in_memory={in_memory}")
            ended = launch(tmp_path, *coco(source, tmp_path / "run", *more))
            one_line(
                ended, 3, "share images: train/a/0.png (train) and val/a/0.png (val), train/a/1.png (train) and val"
            )


# --- 58: more than 8 bits --------------------------------------------------------------------------------------------


def tiff(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def raw_tiff(width: int, height: int, data: bytes, **changed: int) -> bytes:
    """A grey TIFF of one strip."""
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data), 339: 1}
    tags |= {int(name[1:]): value for name, value in changed.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def grey(data: bytes, name: str) -> int:
    pixels = decode(data, name).pixels
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0, 0])


@pytest.mark.parametrize("level", [0, 1, 255, 257, 300, 4095, 32768, 65535])
def test_58_the_range_is_that_of_the_depth(level: int) -> None:
    values = np.full((32, 32), level, np.uint16)
    expected = round(level / 257)
    assert grey(encoded(Image.fromarray(values)), "x.png") == expected
    assert grey(tiff(values), "x.tif") == expected
    assert grey(encoded(Image.fromarray(values), "TIFF", compression="tiff_lzw"), "x.tif") == expected
    assert grey(encoded(Image.fromarray(values), "PPM"), "x.pgm") == expected
    assert grey(b"P2 32 32 65535 " + b"%d " % level * 1024, "x.pgm") == expected
    assert grey(raw_tiff(32, 32, values.tobytes(), t262=0), "x.tif") == round((65535 - level) / 257)
    signed = raw_tiff(32, 32, (values // 2).tobytes(), t339=2)
    assert grey(signed, "x.tif") == round(level // 2 * 255 / 32767)
    wide = np.full((32, 32), level << 16, np.uint32).tobytes()
    assert grey(raw_tiff(32, 32, wide, t258=32), "x.tif") == round((level << 16) * 255 / (2**32 - 1))
    packed = np.packbits(np.unpackbits(np.full((1024, 1), level >> 4, ">u2").view(np.uint8), axis=1)[:, 4:].ravel())
    assert grey(raw_tiff(32, 32, packed.tobytes(), t258=12), "x.tif") == round((level >> 4) * 255 / 4095)
    precise = encoded(Image.fromarray(values), "JPEG2000")
    assert abs(grey(precise, "x.jp2") - expected) <= 1


def test_58_a_picture_is_not_judged_by_what_is_in_it() -> None:
    """Two pictures of one scene, one of them dark: the same values are the same grey."""
    light, dark = np.full((32, 32), 1, np.int32), np.full((32, 32), 1, np.int32)
    light[0, 0] = 2**31 - 1
    pixels = [decode(tiff(values), "x.tif").pixels for values in (light, dark)]
    assert pixels[0][0, 5, 5] == pixels[1][0, 5, 5] == 0
    assert pixels[0][0, 0, 0] == 255


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_58_floats_outside_0_and_1_are_refused(tmp_path: Path, value: float) -> None:
    values = np.full((32, 32), 0.5, np.float32)
    assert grey(tiff(values), "x.tif") == 128
    values[3, 3] = value
    with pytest.raises(BrokenImageError, match="must lie between 0 and 1"):
        decode(tiff(values), "x.tif")
    negative = np.full((32, 32), 5, np.int32)
    negative[0, 0] = -1
    with pytest.raises(BrokenImageError, match="must lie between 0 and 2147483647"):
        decode(tiff(negative), "x.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "La", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_58_other_modes(mode: str) -> None:
    image = photo(size=(32, 32))
    if mode in ("La", "LAB", "HSV", "PA"):
        from data_loader.pictures import to_8_bits

        steps = {"La": ("LA", "La"), "PA": ("P", "PA"), "HSV": ("HSV",)}.get(mode, ())
        converted = image
        for step in steps:
            converted = converted.convert(step)
        if mode == "LAB":
            from PIL import ImageCms

            profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
        found = np.asarray(to_8_bits(converted)[0].convert("RGB"))
    else:
        form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
        found = decode(encoded(image.convert(mode), form), f"x.{form.lower()}").pixels.transpose(1, 2, 0)
    expected = image.convert("1" if mode == "1" else "L" if mode[0] == "L" and mode != "LAB" else "RGB").convert("RGB")
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < (20 if mode[0] == "P" else 4)


def test_58_transparent_pixels_keep_their_colour() -> None:
    image = Image.new("RGBA", (32, 32), (200, 100, 50, 0))
    assert decode(encoded(image), "x.png").pixels[:, 4, 4].tolist() == [200, 100, 50]


# --- 59: memory ------------------------------------------------------------------------------------------------------


def test_59_no_memory_is_said_and_not_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = two_classes(tmp_path / "in")
    (folder / "train/a/large.png").write_bytes(png(6000, 6016, 8, 2, whole=True))
    arguments = ["folder", folder, "-o", tmp_path / "x.npz", "--skip-broken"]
    prepare = [limit_more_memory(100 << 20)]
    one_line(Started(arguments, tmp_path / "process", prepare, "prepare_data.py").end(), 3, "not enough memory")
    run = coco(folder, tmp_path / "run", "data_loader.type=ImageFolder", "data_loader.args.skip_broken=true")
    one_line(launch(tmp_path, *run, prepare=prepare), 3, "large.png", "not enough memory")
    assert not caches(tmp_path)
    assert "left out" not in prepared(capsys, *arguments)[1]
    assert len(np.load(tmp_path / "x.npz")["labels"]) == 7
    assert len(load_image_folder(folder, skip_broken=True)) == 7


# --- 61: good pictures -----------------------------------------------------------------------------------------------


def test_61_exif_turns_whatever_stands_beside_the_orientation() -> None:
    pixels = decode((CASES / "exif_rotated.jpg").read_bytes(), "x.jpg").pixels
    with Image.open(CASES / "exif_rotated.jpg") as image:
        orientation = image.getexif()[0x0112]
        turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
        plain = encoded(image.convert("RGB").transpose(turn))
    assert np.array_equal(pixels, decode(plain, "x.png").pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_61_every_orientation(orientation: int, form: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), form, exif=exif)
    expected = ImageOps.fit(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), (32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(decode(data, "x").pixels.transpose(1, 2, 0), np.asarray(expected))


def test_61_malformed_exif_is_no_reason_to_refuse() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0" + os.urandom(50))
    assert decode(data, "x.jpg").pixels.any()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind", ["case", "zTXt", "iTXt", "tEXt", "iCCP", "many iCCP", "text after the pixels"])
def test_61_long_texts_and_profiles_of_png(kind: str) -> None:
    if kind == "case":
        assert decode((CASES / "long_text.png").read_bytes(), "x.png").pixels.any()
        return
    plain = encoded(photo())
    long = zlib.compress(bytes(8 << 20))
    more = {
        "zTXt": chunk(b"zTXt", b"Comment\0\0" + long),
        "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + long),
        "tEXt": chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
        "iCCP": chunk(b"iCCP", b"icc\0\0" + long),
        "many iCCP": chunk(b"iCCP", b"icc\0\0" + long) * 200,
        "text after the pixels": chunk(b"zTXt", b"Comment\0\0" + long),
    }[kind]
    at = len(plain) - 12 if kind == "text after the pixels" else 8 + 25
    found = decode(plain[:at] + more + plain[at:], "x.png").pixels
    assert np.array_equal(found, decode(plain, "x.png").pixels)


def test_61_a_text_that_says_how_to_turn_is_read() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    plain = decode(encoded(photo().transpose(Image.Transpose.ROTATE_270)), "x.png").pixels
    assert np.array_equal(decode(encoded(photo(), pnginfo=info), "x.png").pixels, plain)


def test_61_twelve_bits_in_sixteen_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = two_classes(tmp_path / "images")
    for row in range(2):
        values = np.random.default_rng(row).integers(0, 4096, (40, 40)).astype(np.uint16)
        (folder / f"train/a/deep{row}.png").write_bytes(encoded(Image.fromarray(values)))
    told = "2 images of more than 8 bits come out nearly black (such as train/a/deep0.png)"
    for _ in range(2):  # decoded, and from the cache
        assert told in load_image_folder(folder).notes[0]
    for _ in range(2):
        code, said = prepared(capsys, "folder", folder, "-o", tmp_path / "x.npz", "--force")
        assert code == 0
        assert told in said


# --- 62: names -------------------------------------------------------------------------------------------------------


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """A zip with other bytes in its names, and without the flag that says UTF-8."""
    assert len(old) == len(new)
    return data.replace(old, new)


def test_62_utf_8_without_the_flag_and_code_page_437(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", "train/caf__/1.png", "train/gr_n/2.png")
    data = zipped(folder, tmp_path / "x.zip").read_bytes()
    data = renamed(renamed(data, b"caf__", "café".encode()), b"gr_n", "grün".encode("cp437"))
    (tmp_path / "x.zip").write_bytes(data)
    assert load_image_folder(tmp_path / "x.zip").classes == ("café", "grün")


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_62_names_that_look_alike_are_one_class(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    composed, apart = (unicodedata.normalize(kind, "café") for kind in ("NFC", "NFD"))
    source = fill(tmp_path / "images", f"train/{composed}/1.png", f"test/{apart}/2.png", f"train/{apart}/3.png")
    fill(source, "train/tea/4.png", "test/tea/5.png")
    if form == "zip":
        source = zipped(source, tmp_path / "x.zip")
    dataset = load_image_folder(source)
    assert dataset.classes == (composed, "tea")
    assert dataset.labels.tolist() == [0, 0, 1, 0, 1]
    assert f"folders whose names look alike are taken for one class: train/{composed}" in dataset.notes
    arguments = ("folder", source, "-o", tmp_path / "x.npz", "--keep-duplicates")
    code, said = prepared(capsys, *arguments, "--classes", f"tea,{apart}")
    assert code == 0, said
    assert np.load(tmp_path / "x.npz")["labels"].tolist() == [0, 1, 1]


# --- 68: neighbours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["", "around"])
def test_68_neighbours_that_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], around: str
) -> None:
    """Root may look anywhere, so that the system's refusal is put in its place."""
    source = tmp_path / "images"
    folder = two_classes(source / around)
    closed = [source / "lost+found", folder / "private", folder / "train/lost+found"]
    for place in closed:
        place.mkdir(exist_ok=True)
        place.chmod(0)
    scandir = os.scandir

    def refusing(path: str | os.PathLike[str] | int) -> object:
        if not isinstance(path, int) and Path(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert len(load_image_folder(source)) == 6
    code, said = prepared(capsys, "folder", source, "-o", tmp_path / "x.npz")
    assert code == 0, said
    assert "lost+found" in said
    closed.append(folder / "train/a")
    assert "cannot look into" in refused(source)


# --- 71: broken files ------------------------------------------------------------------------------------------------


def broken_folder(folder: Path, count: int = 25) -> Path:
    two_classes(folder, each=12)
    shutil.copytree(folder / "train", folder / "test")
    for row in range(count):
        (folder / f"train/a/broken{row:02}.png").write_bytes(b"text")
    return folder


def test_71_all_broken_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = broken_folder(tmp_path / "images")
    run = coco(folder, tmp_path / "run", "data_loader.type=ImageFolder", "data_loader.args.allow_duplicates=true")
    parts = ("25 images cannot be read", "train/a/broken00.png (unknown format)", "broken19.png", "and 5 more")
    ended = launch(tmp_path, *run)
    one_line(ended, 3, *parts, "data_loader.args.skip_broken=true")
    assert "broken20" not in ended.err
    skipping = "data_loader.args.skip_broken=true"
    for _ in range(2):  # the second from the cache
        ended = launch(tmp_path, *run, skipping, "trainer.epochs=1", "--check")
        assert ended.code == 0, ended.err
        assert "left out, as data_loader.args.skip_broken says: 25 images cannot be read" in ended.out
    one_line(launch(tmp_path, *run), 3, *parts)  # the cache is of the other setting
    code, said = prepared(capsys, "folder", folder, "-o", tmp_path / "x.npz")
    assert code == 3
    assert all(part in said for part in (*parts, "--skip-broken"))
    assert prepared(capsys, "folder", folder, "-o", tmp_path / "x.npz", "--skip-broken")[0] == 0


def test_71_a_resume_and_test_py_skip_as_the_run_did(tmp_path: Path) -> None:
    folder = broken_folder(tmp_path / "images", 1)
    more = ("data_loader.type=ImageFolder", "data_loader.args.allow_duplicates=true", "trainer.epochs=1")
    run = coco(folder, tmp_path / "run", *more, "data_loader.args.skip_broken=true")
    ended = launch(tmp_path, *run)
    assert ended.code == 0, ended.err
    assert evaluate(tmp_path, "-r", tmp_path / "run" / "checkpoint-epoch1.pth").code == 0
    one_line(
        launch(tmp_path, *coco(folder, tmp_path / "x", "data_loader.args.skip_broken=true")), 2, "only ImageFolder"
    )


def test_71_a_class_of_which_all_is_broken_is_an_error(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "images")
    for path in (folder / "train/a").iterdir():
        path.write_bytes(b"")
    assert "no image of these class folders can be read: train/a" in refused(folder, skip_broken=True)


# --- 73: time and memory ---------------------------------------------------------------------------------------------


def png(width: int, height: int, depth: int, colour: int, whole: bool = False) -> bytes:
    """All black; no more than its beginning, unless it is to be `whole`."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = (width * channels * depth + 7) // 8 + 1
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(row * 64)) for _ in range(height // 64 if whole else 1)) + packer.flush()
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of_many_scans() -> bytes:
    data = encoded(Image.new("L", (4096, 4096)), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * 1000 + data[-2:]


def tiff_of_many_strips(count: int) -> bytes:
    """Each strip is nearly the whole picture, at one place in the file."""
    tags = [(256, 4, 1, 8000), (257, 4, 1, 8000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    at = 8 + 2 + 12 * 8 + 4
    tags += [(273, 4, count, at), (278, 4, 1, 7999), (279, 4, count, at)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<I", at) * count


LARGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "case 1": ((CASES / "slow_picture_1.img").read_bytes, "x.tif"),
    "case 2": ((CASES / "slow_picture_2.img").read_bytes, "x.tif"),
    "grey": (lambda: png(9000, 8960, 8, 0), "x.png"),
    "16 bits": (lambda: png(9000, 8960, 16, 0), "x.png"),
    "1 bit": (lambda: png(20000, 19968, 1, 0), "x.png"),
    "palette": (lambda: png(20000, 19968, 1, 3), "x.png"),
    "colour": (lambda: png(9000, 8960, 8, 2), "x.png"),
    "a long side": (lambda: png(64, 70016, 8, 0), "x.png"),
    "in Python": (lambda: b"qoif" + struct.pack(">IIBB", 4000, 4000, 3, 0) + b"\xfd" * 300_000, "x.qoi"),
    "scans": (jpeg_of_many_scans, "x.jpg"),
    "strips": (lambda: tiff_of_many_strips(1000), "x.tif"),
    "more strips": (lambda: tiff_of_many_strips(300_000), "x.tif"),
    "tiles": (
        lambda: raw_tiff(60000, 10, bytes(1000), t258=8, t259=8, t322=16, t323=1 << 26, t324=200, t325=1000),
        "x.tif",
    ),
}


@pytest.mark.parametrize("kind", LARGE)
def test_73_what_would_take_too_long_or_too_much_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is decoded: by what the file says of itself."""
    from PIL import ImageFile, TiffImagePlugin

    make, name = LARGE[kind]
    data = make()
    for plugin in (ImageFile.ImageFile, TiffImagePlugin.TiffImageFile):
        monkeypatch.setattr(plugin, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BrokenImageError, match=r"pixels|strips|limit"):
        decode(data, name)


@pytest.mark.parametrize("tag", [273, 279, 324, 325], ids=["strips", "their sizes", "tiles", "their sizes"])
def test_73_each_list_of_strips_or_tiles_is_bounded(tag: int) -> None:
    data = b"II*\0" + struct.pack("<IHHHII", 8, 1, tag, 4, 300_000, 26)
    with pytest.raises(ValueError, match="300,000 strips or tiles"):
        pictures._check_strips(data)


@pytest.mark.parametrize(("depth", "colour"), [(16, 0), (8, 3)])
def test_73_a_large_picture_takes_bounded_memory(tmp_path: Path, depth: int, colour: int) -> None:
    """50 million pixels, which a camera may have, pass, within 420 MB beyond what the process has."""
    folder = fill(tmp_path / "in", "a/1.png", "b/1.png")
    (folder / "a" / "large.png").write_bytes(png(8000, 6272, depth, colour, whole=True))
    arguments = ["folder", folder, "-o", tmp_path / "x.npz"]
    ended = Started(arguments, tmp_path / "p", [limit_more_memory(420 << 20)], "prepare_data.py").end()
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(("tile", "pixels"), [((16, 32), 48 * 96), ((32, 16), 64 * 80), ((64, 96), 64 * 96)])
def test_the_tiles_of_a_picture_reach_beyond_it(tile: tuple[int, int], pixels: int) -> None:
    data = raw_tiff(40, 70, bytes(100), t258=8, t322=tile[0], t323=tile[1], t324=200, t325=100)
    with Image.open(io.BytesIO(data)) as image:
        assert pictures._padded(image) == pixels


def test_73_what_a_library_writes_to_stderr_itself_is_kept_off_it(tmp_path: Path) -> None:
    """libtiff tells of the tile that is too short; the line is ours alone."""
    folder = fill(tmp_path / "in", "a/1.png", "b/1.png")
    tile = raw_tiff(10, 10, bytes(1000), t258=8, t259=8, t322=1024, t323=1024, t324=200, t325=800)
    (folder / "a" / "tile.tif").write_bytes(tile)
    arguments = ["folder", folder, "-o", tmp_path / "x.npz"]
    one_line(Started(arguments, tmp_path / "p", (), "prepare_data.py").end(), 3, "a/tile.tif is not an image")


# --- 74: zips --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip_lzma", "zip_unicode", "zip_not_implemented", "records_oserror"])
def test_74_a_damaged_zip_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    source = Path(shutil.copy(CASES / f"{name}.bin", tmp_path / "x.zip"))
    if name in ("zip_unicode", "zip_not_implemented"):  # in the others the pictures are whole
        assert refused(source)
        assert prepared(capsys, "folder", source, "-o", tmp_path / "x.npz")[0] == 3
    assert report.main([str(source), "-o", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_74_every_kind_of_zip_damaged_anywhere(tmp_path: Path, method: int) -> None:
    folder = two_classes(tmp_path / "images", each=1)
    whole = zipped(folder, tmp_path / "x.zip", compression=method).read_bytes()
    assert len(load_image_folder(tmp_path / "x.zip")) == 2
    rng = random.Random(method)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        (tmp_path / "x.zip").write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
        try:
            load_image_folder(tmp_path / "x.zip")
        except DataError:
            continue


def test_74_an_encrypted_zip_is_said_to_be_one(tmp_path: Path) -> None:
    data = bytearray(zipped(two_classes(tmp_path / "images"), tmp_path / "x.zip").read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = -1
        while (start := data.find(mark, start + 1)) >= 0:
            data[start + at] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    assert "encrypted" in refused(tmp_path / "x.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_74_an_entry_that_unfolds_to_more_than_it_says(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("train/a/1.png", bytes(4_000_000))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 4_000_000), struct.pack("<I", 3000)))
    from utils.zips import _unfold, open_zip

    with open_zip(path) as archive:
        entry = archive.infolist()[0]
        start = entry.header_offset + 30 + len(entry.filename)
        packed = path.read_bytes()[start : start + entry.compress_size]
        assert len(_unfold(packed, entry)) == 3001
    assert "its size or checksum" in refused(path)


def test_74_many_empty_entries_and_names_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("/train/a/1.png", "train/../../b/1.png", "../train/a/2.png", "train/a/X.PNG", "train/a/x.png"):
            archive.writestr(name, encoded(photo()))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("train/a/x.png", encoded(photo(1)))
        for number in range(5_000):
            archive.writestr(f"train/a/{number}/", b"")
        for number in range(500):
            archive.writestr(f"train/a/{number}.png", b"")
    before = sorted(tmp_path.rglob("*"))
    assert "500 images cannot be read: train/a/0.png (the file is empty)" in refused(path)
    assert len(load_image_folder(path, skip_broken=True)) == 2
    assert {*before, *caches(tmp_path)} == {*tmp_path.rglob("*")}


def test_74_names_in_a_zip_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.zip"
    for names in (
        ("../../config.json",),
        ("/config.json",),
        ("config.json", "config.json/config.json"),
        ("a\0/config.json",),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "{}")
        assert report.main([str(path), "-o", str(tmp_path / "out")]) == 3, names
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.zip"]
