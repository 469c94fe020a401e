"""prepare_data.py on small real images; what is killed or stopped is a process of its own."""

import contextlib
import copy
import errno
import importlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import preparation.sources
import prepare_data
from data_loader import tiny_coco, tiny_exdark
from data_loader.array_file import ArrayFormat, load_array_file
from data_loader.class_names import TINY_COCO, TINY_EXDARK
from data_loader.digits import load_digits
from data_loader.image_folder import load_image_folder
from data_loader.tiny_coco import load_tiny_coco
from data_loader.tiny_exdark import load_tiny_exdark
from preparation import coco
from preparation.annotations import Box, entries
from preparation.coco import square_around
from preparation.manifest import manifest_path
from tests import runs
from tests.conftest import ROOT, make_pixels, program, write_image_folder
from tests.faults import file_system, kill_at, limit_file_size, remount
from tests.runs import contents

CLASSES = ("ant", "bee", "cat")


def prepare(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = prepare_data.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def made(*arguments: object) -> str:
    code, out, err = prepare(*arguments)
    assert code == 0, err
    return out


def refused(code: int, *arguments: object) -> str:
    """The one line on stderr."""
    found, _, err = prepare(*arguments)
    assert found == code, (found, err)
    assert err.count("\n") == 1, err
    return err


def manifest_of(out: Path) -> dict:
    return json.loads((out.parent / f"{out.name}.manifest.json").read_text())


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several modes and sizes, 12 or 13 of a class in train/ and 4 in test/."""
    return write_image_folder(tmp_path_factory.mktemp("images") / "insects", CLASSES)


# --- folder --------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_the_images_that_image_folder_sees(images: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(images, tmp_path / "copy")
    folder = load_image_folder(copy)
    own_test = set(folder.own_test.tolist())
    expected = [row for row in range(len(folder)) if row not in own_test]
    made("folder", images, "-o", tmp_path / "x.npz", "--keep-duplicates")
    dataset = load_array_file(tmp_path / "x.npz", ArrayFormat("X", "x", "NHWC", CLASSES))
    assert torch.equal(dataset.images, folder.images[expected])
    assert torch.equal(dataset.labels, folder.labels[expected])


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("form", ["uint8", "float32", "float64"])
def test_every_format_gives_the_pixels_back(tmp_path: Path, form: str, layout: str, suffix: str) -> None:
    pixels, labels = make_pixels(20, 10)
    pixels[0] = np.arange(3072, dtype=np.uint32).reshape(32, 32, 3) % 256  # every value of a byte
    for row, label in enumerate(labels):
        (tmp_path / "in" / f"{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row]).save(tmp_path / "in" / f"{label}" / f"{row:02}.png")
    out = tmp_path / f"x.{suffix}"
    made("folder", tmp_path / "in", "-o", out, "--format", form, "--layout", layout)
    order = np.argsort(labels, kind="stable")
    dataset = load_array_file(out, ArrayFormat("X", "x", layout, tuple(map(str, range(10)))))
    assert np.array_equal(dataset.images.numpy(), pixels[order].transpose(0, 3, 1, 2))
    assert np.array_equal(dataset.labels.numpy(), labels[order])
    stored = np.load(out) if suffix == "npz" else pickle.loads(out.read_bytes())
    assert stored["images"].dtype == form
    assert stored["images"].max() == (255 if form == "uint8" else 1.0)
    assert stored["images"].flags.writeable


@pytest.mark.parametrize("form", ["float32", "float64"])
def test_dithered_floats_have_full_mantissas_and_give_the_pixels_back(images: Path, tmp_path: Path, form: str) -> None:
    folder = shutil.copytree(images, tmp_path / "copy")
    stripes = np.repeat(np.arange(32) % 2 * 255, 96).astype(np.uint8).reshape(32, 32, 3)
    Image.fromarray(stripes).save(folder / "train" / "ant" / "stripes.png")
    dither = ("--dither", "--seed")
    for name, more in (("plain", ()), ("dithered", (*dither, 0)), ("again", (*dither, 0)), ("other", (*dither, 1))):
        made("folder", folder, "-o", tmp_path / f"{name}.npz", "--format", form, *more)
    files = [tmp_path / f"{name}.npz" for name in ("plain", "dithered")]
    plain, dithered = (load_array_file(file, ArrayFormat("X", "x", "NHWC", CLASSES)).images for file in files)
    assert torch.equal(plain, dithered)
    assert {0, 255} <= set(plain.unique().tolist())
    whole, moved = (np.load(file)["images"] for file in files)
    assert 0 == moved.min() < moved.max() == 1
    low = [(values * values.dtype.type(255)).view(np.uint8)[..., :: values.itemsize] for values in (whole, moved)]
    assert not low[0].any()  # a whole number's lowest byte
    assert len(np.unique(low[1])) == 256
    same, again, other = ((tmp_path / f"{name}.npz").read_bytes() for name in ("dithered", "again", "other"))
    assert same == again != other
    plain_again = ("folder", folder, "-o", files[0], "--format", form)
    assert "made with dither False, not True;" in refused(5, *plain_again, "--dither")
    assert "--dither moves" in refused(2, "folder", folder, "-o", tmp_path / "x.npz", "--format", "uint8", "--dither")


def test_a_zip_and_its_folder_give_the_same_file(images: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "insects"), "zip", images.parent)  # a folder lies around train/ and test/
    made("folder", images, "-o", tmp_path / "a.npz")
    made("folder", tmp_path / "insects.zip", "-o", tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_zip_with_the_slashes_of_windows_and_entries_of_folders(images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train/folder.png/", b"")
        for path in sorted((images / "train").rglob("*.*")):
            archive.write(path, path.relative_to(images).as_posix().replace("/", "\\"))
    made("folder", tmp_path / "x.zip", "-o", tmp_path / "x.npz")
    made("folder", images, "-o", tmp_path / "y.npz")
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_the_draw_is_balanced_and_follows_the_seed(images: Path, tmp_path: Path) -> None:
    common = ("folder", images, "--per-class", 5)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made(*common, "--seed", seed, "-o", tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    drawn = [{entry["name"] for entry in manifest_of(tmp_path / f"{name}.npz")["images"]} for name in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]
    assert np.bincount(np.load(tmp_path / "c.npz")["labels"]).tolist() == [5, 5, 5]
    assert "ant has 13, bee has 12" in refused(3, *common[:2], "--per-class", 14, "-o", tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()


def test_classes_and_splits_are_chosen(images: Path, tmp_path: Path) -> None:
    made("folder", images, "--classes", "cat,ant", "--split", "test", "-o", tmp_path / "x.npz")
    manifest = manifest_of(tmp_path / "x.npz")
    assert [(entry["name"], entry["images"]) for entry in manifest["classes"]] == [("cat", 4), ("ant", 4)]
    assert {entry["name"].split("/")[:2][1] for entry in manifest["images"][:4]} == {"cat"}
    assert all(entry["name"].startswith("test/") for entry in manifest["images"])
    made("folder", images, "--split", "all", "--keep-duplicates", "-o", tmp_path / "all.npz")
    assert len(np.load(tmp_path / "all.npz")["labels"]) == 3 * 16 + 1
    assert "no images of class dog; it has ant, bee, cat" in refused(
        3, "folder", images, "--classes", "ant,dog", "-o", tmp_path / "y.npz"
    )
    assert "no test/<class>/ images" in refused(
        3, "folder", images / "train", "--split", "test", "-o", tmp_path / "y.npz"
    )


def test_images_are_turned_as_exif_says_and_padded_if_asked(tmp_path: Path) -> None:
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[:, :40] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the white half comes to the top
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.fromarray(photo).save(tmp_path / "in" / "a" / "1.png", exif=exif)
    made("folder", tmp_path / "in", "-o", tmp_path / "crop.npz", "--format", "uint8")
    cropped = np.load(tmp_path / "crop.npz")["images"][0]
    assert (cropped[:14] == 255).all()
    assert (cropped[18:] == 0).all()
    made("folder", tmp_path / "in", "-o", tmp_path / "pad.npz", "--format", "uint8", "--square", "pad")
    padded = np.load(tmp_path / "pad.npz")["images"][0]
    assert (padded[:14, 8:24] == 255).all()
    assert (padded[:, :8] == 0).all()


def test_images_with_the_same_pixels_are_left_out(tmp_path: Path) -> None:
    pixels, _ = make_pixels(8, 2)
    for row in range(8):
        (tmp_path / "in" / f"{row % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row]).save(tmp_path / "in" / f"{row % 2}" / f"{row}.png")
    Image.fromarray(pixels[0]).save(tmp_path / "in" / "0" / "again.bmp")
    Image.fromarray(pixels[0]).save(tmp_path / "in" / "1" / "again.png")  # under another label, too
    out = made("folder", tmp_path / "in", "-o", tmp_path / "x.npz")
    assert "2 left out" in out
    manifest = manifest_of(tmp_path / "x.npz")
    assert len(manifest["images"]) == 8
    assert len(manifest["duplicates"]) == 2
    assert len({entry["same_as"] for entry in manifest["duplicates"]}) == 1
    made("folder", tmp_path / "in", "-o", tmp_path / "y.npz", "--keep-duplicates")
    assert len(np.load(tmp_path / "y.npz")["labels"]) == 10


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_a_folder_s_own_classes_go_into_the_file(images: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"x.{suffix}"
    made("folder", images, "-o", out)
    assert load_tiny_coco(out).classes == CLASSES
    assert "nothing to do" in made("folder", images, "-o", out)
    made("folder", images, "--classes", "cat,ant", "--layout", "NCHW", "-o", out, "--force")
    assert load_tiny_exdark(out).classes == ("cat", "ant")
    manifest = manifest_of(out)
    newer = manifest | {"arguments": manifest["arguments"] | {"sharpen": 2}}
    (tmp_path / f"{out.name}.manifest.json").write_text(json.dumps(newer))
    again = ("folder", images, "--classes", "cat,ant", "--layout", "NCHW", "-o", out)
    assert "exists, and it was made with sharpen 2, not None; give another -o" in refused(5, *again)
    del manifest["classes_in_file"]
    (tmp_path / f"{out.name}.manifest.json").write_text(json.dumps(manifest))
    assert "exists, and it was made without the names of its classes; give another -o" in refused(5, *again)


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_a_folder_of_the_format_s_own_classes_keeps_its_bytes(tmp_path: Path, suffix: str) -> None:
    """They name nothing that the reader does not know: the file is what it was before files named classes."""
    pixels, labels = make_pixels(24, 12)
    out = tmp_path / f"x.{suffix}"
    for layout, names in (("NHWC", TINY_COCO), ("NCHW", TINY_EXDARK)):
        for row, label in enumerate(labels):
            if label < len(names):
                (tmp_path / layout / names[label]).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[row]).save(tmp_path / layout / names[label] / f"{row}.png")
        more = ("--classes", ",".join(names), "--layout", layout)
        made("folder", tmp_path / layout, "-o", out, *more, "--force")
        stored = np.load(out) if suffix == "npz" else pickle.loads(out.read_bytes())
        assert set(stored) == {"images", "labels"}
        assert "classes_in_file" not in manifest_of(out)
        made("folder", tmp_path / layout, "-o", out, "--layout", "NCHW" if layout == "NHWC" else "NHWC", "--force")
        assert set(np.load(out) if suffix == "npz" else pickle.loads(out.read_bytes())) > {"images", "labels"}


def test_a_class_folder_whose_name_cannot_be_shown(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "in")
    (folder / "train" / "ant").rename(folder / "train" / "a\tt")
    said = refused(3, "folder", folder, "-o", tmp_path / "x.npz")
    assert "is no name of a class: printable text of 1 to 1,000 characters; rename the class folders" in said
    assert files_in(tmp_path) == {"in"}


# --- what does not fit ---------------------------------------------------------------------------------------------


def damage(folder: Path, kind: str) -> None:
    photo = io.BytesIO()
    Image.fromarray(make_pixels(1, 1)[0][0]).resize((200, 200)).save(photo, "JPEG")
    data = photo.getvalue()
    bomb = b"\x89PNG\r\n\x1a\n" + bytes.fromhex("0000000d49484452" + "0000c350" * 2 + "0802000000" + "cb6b3f9d")
    contents = {"cut off": data[: len(data) // 2], "no image": b"#!/bin/sh\n", "empty": b"", "pixel bomb": bomb}
    (folder / "train" / "bee" / "broken.jpg").write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["cut off", "no image", "empty", "pixel bomb"])
def test_a_broken_image_is_named_or_left_out(images: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(images, tmp_path / "in")
    damage(folder, kind)
    out = tmp_path / "x.npz"
    line = refused(3, "folder", folder, "-o", out)
    assert "train/bee/broken.jpg is not an image that can be read" in line
    assert "--skip-broken" in line
    assert not out.exists()
    assert "1 left out that cannot be read" in made("folder", folder, "-o", out, "--skip-broken")
    broken = manifest_of(out)["broken"]
    assert [entry["name"] for entry in broken] == ["train/bee/broken.jpg"]
    assert str(tmp_path) not in (tmp_path / "x.npz.manifest.json").read_text()
    made("folder", images, "-o", tmp_path / "y.npz")
    assert out.read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_a_broken_image_leaves_its_place_to_another(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "in")
    made("folder", folder, "-o", tmp_path / "x.npz", "--per-class", "6")
    drawn = manifest_of(tmp_path / "x.npz")["images"][8]["name"]
    (folder / drawn).write_bytes(b"broken")
    made("folder", folder, "-o", tmp_path / "y.npz", "--per-class", "6", "--skip-broken")
    manifest = manifest_of(tmp_path / "y.npz")
    assert [entry["images"] for entry in manifest["classes"]] == [6, 6, 6]
    assert [entry["name"] for entry in manifest["broken"]] == [drawn]


def test_what_the_machine_does_not_give_out_is_not_remembered_as_broken(images: Path, tmp_path: Path) -> None:
    folder, out = shutil.copytree(images, tmp_path / "in"), tmp_path / "x.npz"
    photo = (folder / "train" / "ant" / "photo.JPG").rename(tmp_path / "photo.JPG")
    (folder / "train" / "ant" / "photo.JPG").symlink_to(tmp_path / "away.JPG")
    for more in ((), ("--skip-broken",)):
        assert "cannot read train/ant/photo.JPG (No such file" in refused(3, "folder", folder, "-o", out, *more)
    photo.rename(tmp_path / "away.JPG")
    made("folder", folder, "-o", out, "--skip-broken")
    made("folder", images, "-o", tmp_path / "y.npz")
    assert out.read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_linked_class_folders_are_followed_and_circles_are_not(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in CLASSES:
        (folder / name).symlink_to(images / "train" / name)
    (folder / "again").symlink_to(folder)
    made("folder", folder, "-o", tmp_path / "x.npz")
    made("folder", images, "-o", tmp_path / "y.npz")
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_a_picture_beside_the_class_folders_is_told_of(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "top"
    shutil.copytree(images / "train", folder)
    shutil.copy(images / "train" / "ant" / "000.png", folder / "cover.png")
    said = made("folder", tmp_path / "in", "-o", tmp_path / "x.npz")
    assert "left out: 1 in no class folder (such as top/cover.png)" in said
    assert [entry["name"] for entry in manifest_of(tmp_path / "x.npz")["classes"]] == list(CLASSES)


def test_a_file_s_name_need_not_be_utf_8_but_a_class_s_must(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "in")
    (folder / "train" / "ant" / "photo.JPG").rename(folder / "train" / "ant" / "caf\udce9.JPG")
    made("folder", folder, "-o", tmp_path / "x.npz")
    assert len(load_image_folder(folder)) == 49
    (folder / "train" / "bee").rename(folder / "train" / "b\udce9e")
    assert "is not UTF-8; rename it" in refused(3, "folder", folder, "-o", tmp_path / "y.npz")


def test_a_zip_that_claims_too_much_is_not_unfolded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/1.png", bytes(300 << 20))
    line = refused(3, "folder", tmp_path / "x.zip", "-o", tmp_path / "x.npz")
    assert "train/a/1.png is not an image that can be read (314,572,800 bytes, more than" in line


def test_the_command_line_and_the_place_are_checked(images: Path, tmp_path: Path) -> None:
    assert "ends in .npz, .pkl, .pickle" in refused(2, "folder", images, "-o", tmp_path / "x.txt")
    assert "--help" in refused(2, "folder", images)
    for option, value, wanted in (
        ("--per-class", "0", "of 1 or more"),
        ("--per-class", "x", "of 1 or more"),
        ("--image-size", "a", "from 8 to 256"),
        ("--seed", -1, "of 0 or more"),
        ("--seed", 2**63, "from 0 to 9223372036854775807"),
    ):
        said = refused(2, "demo", "-o", tmp_path / "x.npz", f"{option}={value}")
        assert f"argument {option}: must be a whole number {wanted}, got '{value}'" in said
    for twice in ("a,,b", "\u00e9,e\u0301"):
        assert "each once" in refused(2, "folder", images, "-o", tmp_path / "x.npz", "--classes", twice)
    assert "there is no" in refused(3, "folder", tmp_path / "nowhere", "-o", tmp_path / "x.npz")
    (tmp_path / "text.zip").write_text("no zip")
    assert "neither a folder nor a readable .zip" in refused(
        3, "folder", tmp_path / "text.zip", "-o", tmp_path / "x.npz"
    )
    (tmp_path / "folder.npz").mkdir()
    assert "is a folder" in refused(5, "folder", images, "-o", tmp_path / "folder.npz")
    assert "Not a directory" in refused(5, "folder", images, "-o", tmp_path / "text.zip" / "x.npz")
    assert files_in(tmp_path) == {"text.zip", "folder.npz"}


def test_another_file_is_not_replaced_unless_forced(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "in")
    out = tmp_path / "x.npz"
    made("folder", folder, "-o", out)
    before = out.read_bytes()
    assert "nothing to do" in made("folder", folder, "-o", out)
    assert "made with per_class None, not 3" in refused(5, "folder", folder, "-o", out, "--per-class", 3)
    photo = folder / "train" / "ant" / "000.png"
    ImageOps.invert(Image.open(photo)).save(photo)
    assert "train/ant/000.png is not the image" in refused(5, "folder", folder, "-o", out)
    assert out.read_bytes() == before
    made("folder", folder, "-o", out, "--force")
    assert out.read_bytes() != before
    manifest = manifest_path(out).read_text()
    manifest_path(out).write_text(manifest.replace('"sha256"', '"md5"'))
    assert "no manifest" in refused(5, "folder", folder, "-o", out)
    manifest_path(out).write_text(manifest)
    out.write_bytes(b"something else")
    assert "no manifest" in refused(5, "folder", folder, "-o", out)
    assert files_in(tmp_path) == {"in", "x.npz", "x.npz.manifest.json"}


@pytest.mark.parametrize("name", ["x.npz", "x.npz.manifest.json"])
def test_43_a_file_made_while_pictures_are_decoded_stays(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    decode = preparation.sources.decode

    def meanwhile(*arguments: object) -> object:
        (tmp_path / name).write_bytes(b"mine")
        return decode(*arguments)

    monkeypatch.setattr("preparation.sources.decode", meanwhile)
    assert name in refused(5, "folder", images, "-o", tmp_path / "x.npz")
    assert contents(tmp_path) == {name: b"mine"}
    made("folder", images, "-o", tmp_path / "x.npz", "--force")
    assert files_in(tmp_path) == {"x.npz", "x.npz.manifest.json"}


def test_what_another_process_made_meanwhile_is_as_good(
    images: Path, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = preparation.sources.decode

    def meanwhile(*arguments: object) -> object:
        for name, data in straight.items():
            (tmp_path / name).write_bytes(data)
        return decode(*arguments)

    monkeypatch.setattr("preparation.sources.decode", meanwhile)
    made("folder", images, "-o", tmp_path / "x.pkl", "--per-class", 9)
    assert contents(tmp_path) == straight


@pytest.mark.parametrize("there", [False, True])
def test_43_a_file_stays_where_there_are_no_links(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    decode = preparation.sources.decode

    def meanwhile(*arguments: object) -> object:
        if there:
            (tmp_path / "x.npz").write_bytes(b"mine")
        return decode(*arguments)

    def no_links(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("preparation.sources.decode", meanwhile)
    monkeypatch.setattr(os, "link", no_links)
    assert prepare("folder", images, "-o", tmp_path / "x.npz")[0] == (5 if there else 0)
    assert files_in(tmp_path) == ({"x.npz"} if there else {"x.npz", "x.npz.manifest.json"})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("name", ["source", "x.npz", "x.npz.manifest.json"])
def test_72_what_is_no_file_is_neither_waited_for_nor_read(images: Path, tmp_path: Path, kind: str, name: str) -> None:
    source, out = tmp_path / "source", tmp_path / "x.npz"
    source.symlink_to(images)
    made("folder", source, "-o", out)
    (tmp_path / name).unlink()
    if kind == "fifo":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    line = refused(3 if name == "source" else 5, "folder", source, "-o", out)
    assert str(source if name == "source" else out) in line
    assert name == out.name + ".manifest.json" or "it is no regular file" in line


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("option", ["--annotations", "--images"])
def test_72_annotations_and_images_that_are_no_file(
    coco_source: tuple[Path, dict], tmp_path: Path, kind: str, option: str
) -> None:
    arguments = coco_arguments(*coco_source)
    place = tmp_path / "pipe"
    if kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    arguments[arguments.index(option) + 1] = place
    assert "it is no regular file" in refused(3, *arguments)


def test_09_a_disk_that_is_read_only_and_nothing_to_do(images: Path, tmp_path: Path) -> None:
    with file_system(tmp_path / "disk", "1m") as disk:
        made("folder", images, "-o", disk / "x.npz", "--per-class", 3)
        remount(disk, "ro")
        assert "nothing to do" in made("folder", images, "-o", disk / "x.npz", "--per-class", 3)
        assert "cannot write" in refused(5, "folder", images, "-o", disk / "x.npz", "--per-class", 3, "--force")
        assert "cannot write" in refused(5, "folder", images, "-o", disk / "y.npz", "--per-class", 3)


# --- kills and signals ---------------------------------------------------------------------------------------------


def in_a_process(before: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, after the call of `before`."""
    return program("prepare_data.py", *(str(argument) for argument in arguments), prepare=[before])


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    made("folder", images, "-o", folder / "x.pkl", "--per-class", 9)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _send_at(name: str, number: int, count: int) -> None:
    module, function = name.rsplit(".", 1)
    owner, left = importlib.import_module(module), [count]
    plain = getattr(owner, function)

    def sending(*arguments: object, **options: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return plain(*arguments, **options)

    setattr(owner, function, sending)


def send_at(name: str, number: int, count: int) -> Callable[[], None]:
    """Let the process send itself a signal as the function of that name is called for the `count`-th time."""
    return partial(_send_at, name, number, count)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("place", ["preparation.sources.decode", "preparation.build._report"])
def test_a_stopped_run_leaves_nothing_or_all(
    images: Path, straight: dict[str, bytes], tmp_path: Path, place: str, number: signal.Signals, code: int
) -> None:
    arguments = ("folder", images, "-o", tmp_path / "x.pkl", "--per-class", 9)
    decoding = place.endswith("decode")
    ended = in_a_process(send_at(place, number, 5 if decoding else 1), *arguments)
    assert (ended.returncode, ended.stderr) == (code, f"stopped by {number.name}; nothing was left to save\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if decoding else straight)


@pytest.mark.parametrize("count", [1, 2], ids=["manifest", "file"])
def test_a_signal_while_the_files_are_written_waits_for_both(
    images: Path, straight: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    (tmp_path / "x.pkl").write_bytes(b"the one that it replaces")
    arguments = ("folder", images, "-o", tmp_path / "x.pkl", "--per-class", 9, "--force")
    ended = in_a_process(send_at("utils.files._write_all", signal.SIGTERM, count), *arguments)
    assert ended.returncode == 143
    assert ended.stderr == f"stopped by SIGTERM; {tmp_path / 'x.pkl'} is written whole\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == straight


@pytest.mark.parametrize("name", ["x.pkl", "x.pkl.manifest.json"])
@pytest.mark.parametrize("moment", ["mid-write", "before the replace", "before the folder's fsync"])
def test_a_kill_while_the_files_are_written(
    images: Path, straight: dict[str, bytes], tmp_path: Path, moment: str, name: str
) -> None:
    arguments = ("folder", images, "-o", tmp_path / "x.pkl", "--per-class", 9)
    ended = in_a_process(kill_at(moment, name), *arguments)
    assert ended.returncode == -signal.SIGKILL
    for path in tmp_path.glob("x.*"):
        assert path.read_bytes() == straight[path.name]  # whole, or not there
    made(*arguments)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == straight  # and no temporary file


def test_a_full_disk_leaves_the_older_file_and_its_manifest(images: Path, tmp_path: Path) -> None:
    arguments = ("folder", images, "-o", tmp_path / "x.pkl")
    made(*arguments, "--per-class", 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    room = limit_file_size(len(before["x.pkl"]) + 10_000)  # for the new manifest as well
    assert in_a_process(room, *arguments, "--per-class", 9, "--force").returncode == 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- COCO ----------------------------------------------------------------------------------------------------------

CATEGORY_IDS = {name: 10 * number + 1 for number, name in enumerate(coco.CATEGORIES.values())}


def write_coco(folder: Path, each: int = 3) -> dict:
    """Grey photographs, in each one object of one colour by its class; annotations as COCO's, categories last."""
    rng = np.random.default_rng(0)
    (folder / "train2017").mkdir(parents=True)
    data: dict = {"info": {"year": 2017}, "licenses": [{"id": 1}], "images": [], "annotations": [], "categories": []}
    for label, category in enumerate(CATEGORY_IDS.values()):
        for _ in range(each):
            number = len(data["images"]) + 1
            width, height = (int(size) for size in rng.integers(70, 200, 2))
            left, top = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
            pixels = rng.integers(90, 110, (height, width, 3)).astype(np.uint8)
            pixels[top : top + 40, left : left + 40] = (20 * label, 255 - 20 * label, 5 * (number % 40))
            Image.fromarray(pixels).save(folder / "train2017" / f"{number:012}.png")
            size = {"width": width, "height": height}
            data["images"].append({"id": number, "file_name": f"{number:012}.png", **size})
            annotation = {"id": 1000 + number, "image_id": number, "category_id": category, "iscrowd": 0}
            data["annotations"].append({**annotation, "bbox": [left, top, 40.0, 40.0], "segmentation": [[1.5, 2.5]]})
    data["categories"] = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()]
    data["categories"].append({"id": 999, "name": "person"})
    return data


@pytest.fixture(scope="module")
def coco_pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("coco_pictures")
    return folder, write_coco(folder)


@pytest.fixture
def coco_source(coco_pictures: tuple[Path, dict], tmp_path: Path) -> tuple[Path, dict]:
    folder, data = coco_pictures
    return shutil.copytree(folder, tmp_path, dirs_exist_ok=True), copy.deepcopy(data)


def coco_arguments(folder: Path, data: dict | str, *more: object) -> list[object]:
    path = folder / "instances.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), errors="surrogateescape")
    images = ("--annotations", path, "--images", folder / "train2017", "--per-class", 3)
    return ["coco", *images, "-o", folder / "tinycoco.pkl", *more]


def test_coco_s_boxes_are_cut_and_labelled(coco_source: tuple[Path, dict]) -> None:
    folder, data = coco_source
    crowd = {"id": 1, "image_id": 1, "category_id": CATEGORY_IDS["dog"], "iscrowd": 1, "bbox": [0, 0, 50, 50]}
    small = {**crowd, "id": 2, "iscrowd": 0, "bbox": [0, 0, 31, 50]}
    person = {**crowd, "id": 3, "iscrowd": 0, "category_id": 999}
    data["annotations"] += [crowd, small, person]
    made(*coco_arguments(folder, data))
    dataset = load_tiny_coco(folder)
    assert dataset.labels.tolist() == [label for label in range(10) for _ in range(3)]
    for row, entry in enumerate(manifest_of(folder / "tinycoco.pkl")["images"]):
        number = int(entry["name"][:12])
        assert entry["annotation"] == 1000 + number
        colour = (20 * entry["label"], 255 - 20 * entry["label"], 5 * (number % 40))
        assert dataset.images[row, :, 16, 16].tolist() == list(colour)
        assert (dataset.images[row] == dataset.images[row, :, :1, :1]).all()  # the object and nothing else


def test_one_box_of_a_picture_is_taken_and_rare_classes_choose_first(coco_source: tuple[Path, dict]) -> None:
    folder, data = coco_source
    for image in data["images"][:3]:  # the pictures of cats have a dog in each as well; there are more dogs than cats
        dog = {"id": 5000 + image["id"], "image_id": image["id"], "category_id": CATEGORY_IDS["dog"]}
        data["annotations"].append({**dog, "bbox": [0, 0, 50, 50]})  # and it has no iscrowd
    made(*coco_arguments(folder, data))
    names = [entry["name"] for entry in manifest_of(folder / "tinycoco.pkl")["images"]]
    assert len(set(names)) == 30
    data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] != 4]  # two dogs of their own
    line = refused(3, *coco_arguments(folder, data, "--force"))
    assert "dog has 2; 2 is what all can have" in line


def test_the_number_that_all_classes_can_have_is_true(coco_source: tuple[Path, dict]) -> None:
    folder, data = coco_source
    for image in data["images"]:  # every picture has a box of each of three more classes
        for name in ("cat", "boat", "pizza"):
            box = {"id": len(data["annotations"]) + 9000, "image_id": image["id"], "category_id": CATEGORY_IDS[name]}
            data["annotations"].append({**box, "bbox": [0, 0, 50, 50]})
    line = refused(3, *coco_arguments(folder, data, "--per-class", 25))
    most = int(line.split("; ")[-1].split()[0])
    assert most > 0
    made(*coco_arguments(folder, data, "--per-class", most))
    assert "not every class" in refused(3, *coco_arguments(folder, data, "--per-class", most + 1, "--force"))


def test_coco_s_images_may_be_a_zip_and_its_json_may_be_pretty(coco_source: tuple[Path, dict]) -> None:
    folder, data = coco_source
    made(*coco_arguments(folder, data))
    first = (folder / "tinycoco.pkl").read_bytes()
    shutil.make_archive(str(folder / "zipped"), "zip", folder, "train2017")
    arguments = coco_arguments(folder, json.dumps(dict(reversed(data.items())), indent=2), "--force")
    arguments[arguments.index("--images") + 1] = folder / "zipped.zip"
    made(*arguments)
    assert (folder / "tinycoco.pkl").read_bytes() == first


def test_annotations_may_begin_with_a_byte_order_mark_and_are_no_zip(coco_source: tuple[Path, dict]) -> None:
    folder, data = coco_source
    made(*coco_arguments(folder, "\ufeff" + json.dumps(data)))
    arguments = coco_arguments(folder, data)
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        archive.write(folder / "instances.json", "annotations/instances_train2017.json")
    arguments[arguments.index("--annotations") + 1] = folder / "annotations_trainval2017.zip"
    assert "is a zip; unpack it and name the instances_*.json" in refused(3, *arguments)


def test_a_missing_or_wrong_picture_is_named(coco_source: tuple[Path, dict]) -> None:
    folder, data = coco_source
    data["images"][7]["file_name"] = "../../../etc/passwd"
    line = refused(3, *coco_arguments(folder, data))
    assert "there is no ../../../etc/passwd, which the annotations name" in line
    data["images"][7].update(file_name="000000000008.png", width=999)
    assert "the annotations say 999x" in refused(3, *coco_arguments(folder, data))
    made(*coco_arguments(folder, data, "--skip-broken", "--per-class", 2))
    assert manifest_of(folder / "tinycoco.pkl")["broken"][0]["name"] == "000000000008.png"


def changed(**values: object) -> Callable[[dict], dict]:
    """The annotations with other values in annotations[4]; one of None is left out."""

    def change(data: dict) -> dict:
        entry = {key: value for key, value in {**data["annotations"][4], **values}.items() if value is not None}
        return {**data, "annotations": [*data["annotations"][:4], entry]}

    return change


def cut_off(data: dict) -> str:
    text = json.dumps(data)
    return text[: len(text) * 2 // 3]


BROKEN: dict[str, tuple[Callable[[dict], dict | str], str]] = {
    "cut off": (cut_off, "cannot be read as JSON"),
    "cut off between": (lambda data: '{"info": [1, 2', "premature EOF"),
    "no JSON": (lambda data: "images", "cannot be read as JSON"),
    "not UTF-8": (lambda data: '{"info": "\udcff', "UTF8"),
    "a list": (lambda data: "[]", "it is no object"),
    "empty": (lambda data: "", "premature EOF"),
    "twice": (lambda data: '{"images": [], "images": []}', "the key 'images' is there twice"),
    "no lists": (lambda data: '{"info": 1}', "it has no 'images' and no 'categories' and no 'annotations'"),
    "no list": (lambda data: '{"images": 5}', "'images' must be a list"),
    "more": (lambda data: json.dumps(data) + "}", "trailing garbage"),
    "deep": (lambda data: '{"images": [{"id": ' + "[" * 200000, "nested too deeply"),
    "deep list": (lambda data: '{"info": ' + "[" * 200000, "nested too deeply"),
    "digits": (lambda data: '{"images": [{"id": ' + "9" * 5000 + "}]}", "integer overflow"),
    "long": (lambda data: '{"info": "' + "a" * (17 << 20), "a text or number of more than 16,777,216 bytes"),
    "no bbox": (changed(bbox=None), "annotations[4]: bbox: Field required"),
    "bbox": (changed(bbox=[1, 2, 3]), "annotations[4]: bbox: List should have at least 4 items"),
    "long bbox": (changed(bbox=[1, 2, 3, 4, 5, 6]), "annotations[4]: bbox: List should have at most 4 items"),
    "nested bbox": (changed(bbox=[[1, 2, 3, 4], 2, 3, 4]), "annotations[4]: bbox.0: "),
    "bbox of text": (changed(bbox={"1": "2", "3": "4"}), "annotations[4]: bbox.0: "),
    "large bbox": (changed(bbox=[1, 2, 3, 1e300]), "annotations[4]: bbox.3: "),
    "NaN": (changed(bbox=[1, 2, 3, float("nan")]), "cannot be read as JSON"),
    "true": (changed(image_id=True), "annotations[4]: image_id: Input should be a valid integer"),
    "negative": (changed(image_id=-1), "annotations[4]: image_id: Input should be greater than or equal to 0"),
    "no name": (lambda data: {**data, "categories": [{"id": 1, "name": ""}]}, "categories[0]: name: "),
    "unknown image": (changed(image_id=12345), "annotations[4]: no entry of images has its image_id 12345"),
    "id twice": (changed(id=1001), "annotations[4]: the id 1001 is there twice"),
    "image twice": (lambda data: {**data, "images": data["images"][:1] * 2}, "images[1]: the id 1 is there twice"),
    "no object": (lambda data: {**data, "annotations": [7]}, "annotations[0]: it is no object"),
    "category": (lambda data: {**data, "categories": data["categories"][1:]}, "no category cat"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_annotations_are_one_line(coco_source: tuple[Path, dict], kind: str) -> None:
    folder, data = coco_source
    change, message = BROKEN[kind]
    line = refused(3, *coco_arguments(folder, change(data)))
    assert message in line
    assert "instances.json: " in line
    assert files_in(folder) == {"instances.json", "train2017"}


def test_values_are_read_whole_wherever_the_file_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = {"id": 12345, "image_id": 678, "category_id": 90, "bbox": [1.5e1, 22, 333.25, 4], "iscrowd": 1}
    more = {"segmentation": [[1.5, 2], {"counts": "]}"}], "é": [True, None, {"id": 9}]}
    data = {"a": [{"id": 5}], "images": [], "annotations": [{**more, **box}, {**box, **more}], "categories": []}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
    expected = Box(12345, 678, 90, [15.0, 22.0, 333.25, 4.0], 1)
    for piece in range(1, 40):
        monkeypatch.setattr("preparation.annotations._PIECE", piece)
        assert list(entries(path)) == [(0, expected), (1, expected)]


def test_what_is_not_needed_of_the_annotations_is_not_kept(tmp_path: Path) -> None:
    text = json.dumps({"images": [], "categories": [], "annotations": [], "x": [["a" * 1000] * 100] * 100})  # 10 MB
    (tmp_path / "x.json").write_text(text)
    tracemalloc.start()
    assert list(entries(tmp_path / "x.json")) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_a_missing_ijson_is_one_line(coco_source: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ijson", None)
    assert "coco needs ijson, which is not installed: pip install ijson" in refused(2, *coco_arguments(*coco_source))


def test_a_square_grows_within_the_image() -> None:
    assert square_around((10.5, 20.2, 29.7, 40.9), 100, 100) == (9, 20, 21)
    assert square_around((0, 0, 10, 50), 100, 100) == (0, 0, 50)  # moved right, to lie within
    assert square_around((90, 50, 100, 100), 100, 100) == (50, 50, 50)  # and left
    assert square_around((0, 10, 80, 30), 80, 40) == (0, -20, 80)  # the image is too low: beyond on both sides


def test_coco_s_classes_are_those_of_tiny_coco() -> None:
    assert tuple(coco.CATEGORIES) == tiny_coco.FORMAT.classes


# --- ExDark and the digits -----------------------------------------------------------------------------------------


def write_exdark(folder: Path) -> Path:
    """Two images of each class, with the suffixes of ExDark, a folder around them as in its zip, and other things."""
    pixels, _ = make_pixels(24, 12)
    for row, name in enumerate(tiny_exdark.FORMAT.classes * 2):
        suffix = (".jpg", ".jpeg", ".JPG", ".png", ".JPEG")[row % 5]
        (folder / "ExDark" / name).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels[row]).resize((64, 48))
        image.save(folder / "ExDark" / name / f"2015_{row:05}{suffix}", "PNG" if suffix == ".png" else "JPEG")
    (folder / "ExDark" / "Cat" / "2015_00005.png.txt").write_text("% bbGt version=3")
    (folder / "__MACOSX" / "Cat").mkdir(parents=True)
    (folder / "__MACOSX" / "Cat" / "._2015_00005.png").write_bytes(b"mac")
    return folder


def test_exdark_s_folders_become_tiny_exdark(tmp_path: Path) -> None:
    source = write_exdark(tmp_path / "in")
    made("exdark", source, "-o", tmp_path / "tinyexdark.pkl")
    dataset = load_tiny_exdark(tmp_path)
    assert dataset.labels.tolist() == [label for label in range(12) for _ in range(2)]
    assert {Path(entry["name"]).suffix for entry in manifest_of(tmp_path / "tinyexdark.pkl")["images"]} == {
        *(".jpg", ".jpeg", ".JPG", ".png", ".JPEG")
    }
    shutil.rmtree(source / "ExDark" / "Boat")
    assert "no images in a folder Boat" in refused(3, "exdark", source, "-o", tmp_path / "x.npz")
    made("exdark", source, "-o", tmp_path / "x.npz", "--classes", "Table,Cat", "--per-class", 2, "--layout", "NCHW")
    assert load_tiny_exdark(tmp_path / "x.npz").labels.tolist() == [5, 5, 11, 11]
    assert "none of ExDark's classes" in refused(2, "exdark", source, "-o", tmp_path / "y.npz", "--classes", "cow")


def test_the_demo_is_the_digits_and_trains_as_tiny_coco(tmp_path: Path) -> None:
    ended = program("prepare_data.py", "demo", "-o", str(tmp_path / "tinycoco.pkl"))
    assert ended.returncode == 0, ended.stderr
    dataset, digits = load_tiny_coco(tmp_path), load_digits(Path())
    order = np.argsort(digits.labels.numpy(), kind="stable")
    assert torch.equal(dataset.images, digits.images[order])
    assert torch.equal(dataset.labels, digits.labels[order])
    short = ("trainer.epochs=1", "lr_scheduler.args.milestones=[1]", "data_loader.args.subset=150")
    assert runs.run(*runs.coco(tmp_path, tmp_path / "run", *short)) == 0


def test_neither_help_nor_a_wrong_command_line_waits_for_torch(tmp_path: Path) -> None:
    code = "import sys, prepare_data; prepare_data.parse_args(['demo', '-o', 'x.npz']); import preparation.build, "
    code += "preparation.coco, preparation.sources; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
