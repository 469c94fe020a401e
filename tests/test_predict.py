"""predict.py: what it answers, the pictures that it takes, and what becomes of its output."""

import csv
import json
import os
import shutil
import signal
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_loader.build import build_data
from data_loader.pictures import BrokenImageError
from data_loader.preprocess import Preprocess
from predict import load
from tests.conftest import write_image_folder
from tests.faults import Call, file_system, limit_file_size
from tests.runs import Started, call, coco, contents, one_line, run
from trainer.checkpoint import read
from trainer.checkpoint_file import pack
from trainer.state import config_of
from utils.errors import CheckpointError

MODES = (
    *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "F", "LA", "PA", "RGBX", "RGBa", "La"),
    *("I;16", "I;16L", "I;16B"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("pictures") / "images", each=20)


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on `images`; read only."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ("data_loader.type=ImageFolder", "trainer.epochs=1", "data_loader.args.subset=0.9")
    assert run(*coco(images, folder, *options)) == 0
    return folder


@pytest.fixture
def some(images: Path, tmp_path: Path) -> Path:
    """A folder of three pictures."""
    folder = tmp_path / "some"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "ü.png")):
        shutil.copy(images / "test" / "ant" / f"{number:03}.png", folder / name)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- the right answers -----------------------------------------------------------------------------------------------


def test_it_says_of_each_test_image_what_test_py_says(trained: Path, images: Path, tmp_path: Path) -> None:
    place = shutil.copytree(trained, tmp_path / "run")
    out = tmp_path / "new" / "predictions.csv"
    for options in ([], ["arch.args.num_classes=5", "data_loader.args.batch_size=7"]):
        if options:
            shutil.rmtree(place)
            more = ("data_loader.type=ImageFolder", "trainer.epochs=1", "data_loader.args.subset=0.9", *options)
            assert run(*coco(images, place, *more)) == 0
        assert call("test.py", "-r", place / "model_best.pth").code == 0
        said = json.loads((place / "model_best-test.json").read_text())
        ended = call("predict.py", "-r", place, images / "test", "-o", out, "--top", "3")
        assert (ended.code, ended.err) == (0, "")
        rows = table(out)
        pairs = Counter((Path(row["image"]).parent.name, row["class"]) for row in rows)
        names = [*said["classes"], "output 3", "output 4"]
        assert pairs == Counter(
            {
                (names[true], names[predicted]): count
                for true, line in enumerate(said["confusion_matrix"])
                for predicted, count in enumerate(line)
                if count
            }
        )
        assert sum(true == predicted for true, predicted in pairs.elements()) / len(rows) == said["test_accuracy"]
        columns = ["image", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
        assert list(rows[0]) == columns
        for row in rows:
            shares = [float(row[column]) for column in columns[2::2]]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) <= 1.0 + 1e-6


def test_a_picture_becomes_what_the_evaluation_has_of_it(trained: Path, images: Path) -> None:
    model, preprocess, classes = load(trained)
    assert not model.training
    assert classes == ["ant", "bee", "cat"]
    data = build_data(config_of(read(trained / "model_best.pth"), ""), torch.device("cpu"))
    expected = torch.cat([batch.images for batch in data.test.batches()])
    paths = [path for name in classes for path in sorted((images / "test" / name).iterdir())]
    assert len(paths) == len(expected) == 12
    for path, tensor in zip(paths, expected, strict=True):
        with Image.open(path) as image:
            for given in (path, str(path), image):
                found = preprocess(given)
                assert (found.dtype, found.shape) == (torch.float32, (3, 32, 32))
                assert torch.equal(found, tensor)


def test_a_picture_of_any_mode_and_size() -> None:
    preprocess = Preprocess((0.5, 0.4, 0.3), (0.2, 0.0, 1.0), (24, 40))
    for mode in MODES:
        for size in ((1, 1), (300, 2), (40, 24), (41, 200)):
            found = preprocess(Image.new(mode, size))
            assert found.shape == (3, 24, 40), mode
            assert bool(torch.isfinite(found).all())
    rotated = Image.new("RGB", (40, 24))
    rotated.paste((255, 0, 0), (0, 0, 20, 24))
    rotated.getexif()[0x0112] = 3  # upside down
    assert preprocess(rotated)[0, 0, 39] > preprocess(rotated)[0, 0, 0]
    for image, why in ((Image.new("RGB", (0, 5)), "no pixels"), (Image.new("I", (5, 5)), "convert the image")):
        with pytest.raises(BrokenImageError, match=why):
            preprocess(image)


def test_no_more_pictures_than_a_batch_are_held(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, batch = [], Preprocess.batch
    monkeypatch.setattr(
        Preprocess, "batch", lambda self, pixels, *more: counts.append(len(pixels)) or batch(self, pixels, *more)
    )
    assert call("predict.py", "-r", trained, images, "-o", tmp_path / "x.csv").code == 0
    assert (sum(counts), max(counts)) == (73, 8)
    state = read(trained / "model_best.pth")
    state["config"]["data_loader"]["args"]["batch_size"] = 10**12
    state["preprocessing"]["image_size"] = [1024, 512]  # a stranger's, for large batches of large images
    (tmp_path / "x.pth").write_bytes(pack(state))
    counts.clear()
    assert call("predict.py", "-r", tmp_path / "x.pth", images / "test" / "ant").code == 0
    assert counts == [2, 2]


# --- what holds a network --------------------------------------------------------------------------------------------


def test_a_run_folder_a_checkpoint_and_a_weights_only_file(trained: Path, images: Path, tmp_path: Path) -> None:
    assert call("export.py", "-r", trained, "--safetensors", tmp_path / "x.safetensors").code == 0
    newest = tmp_path / "run"
    newest.mkdir()
    shutil.copy(trained / "checkpoint-epoch1.pth", newest)
    picture = images / "test" / "bee" / "001.png"
    answers = []
    for place in (trained, trained / "model_best.pth", newest, tmp_path / "x.safetensors"):
        model, preprocess, classes = load(place)
        with torch.no_grad():
            answers.append((model(preprocess(picture).unsqueeze(0)), classes))
    for logits, classes in answers:
        assert torch.equal(logits, answers[0][0])
        assert classes == answers[0][1]


def test_a_checkpoint_of_an_earlier_version(trained: Path, images: Path, tmp_path: Path) -> None:
    """It has no mean, standard deviation and image size: they are derived from its data, if those are there."""
    state = read(trained / "model_best.pth")
    record = state.pop("preprocessing")
    old = tmp_path / "old.pth"
    old.write_bytes(pack(state))
    before = {path.name for path in images.parent.iterdir()}
    assert load(old).preprocess.record() == record
    assert {path.name for path in images.parent.iterdir()} == before
    state["config"]["data_loader"]["args"]["data_dir"] = str(tmp_path / "gone")
    old.write_bytes(pack(state))
    ended = call("predict.py", "-r", old, images)
    one_line(ended, 4, "old.pth", "lacks the mean, the standard deviation", f"there is no {tmp_path / 'gone'}")


def test_what_a_stranger_s_file_may_not_do(trained: Path, images: Path, tmp_path: Path) -> None:
    state = read(trained / "model_best.pth")
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pack({**state, "preprocessing": Call(os.system, f"touch {tmp_path / 'ran'}")}))
    with pytest.raises(CheckpointError, match="which was not run"):
        load(evil)
    assert not (tmp_path / "ran").exists()
    sizes = [{"mean": [0.5] * 3, "std": [1.0] * 3, "image_size": size} for size in ([10**9, 32], [2048, 2049])]
    for wrong in ({}, *sizes, [0.5], {"mean": [2.0] * 3}):
        evil.write_bytes(pack({**state, "preprocessing": wrong}))
        with pytest.raises(CheckpointError, match="preprocessing is not as a run writes it"):
            load(evil)
    evil.write_bytes(pack({**state, "classes": ["a"] * 4}))
    one_line(call("predict.py", "-r", evil, images), 4, "of another architecture")
    state["config"]["arch"]["args"]["width"] = 100_000
    evil.write_bytes(pack(state))
    one_line(call("predict.py", "-r", evil, images), 4, "of another architecture")
    (tmp_path / "empty").mkdir()
    one_line(call("predict.py", "-r", tmp_path / "empty", images), 4, "without checkpoints")
    one_line(call("predict.py", "-r", "auto", images), 4, "auto", "not there")


def test_a_run_that_misread_its_pixels_takes_no_pictures(trained: Path, images: Path, tmp_path: Path) -> None:
    state = read(trained / "model_best.pth")
    state["config"]["data_loader"]["type"] = "TinyCOCO"
    state["config"]["protocol"] = "as_published"
    (tmp_path / "x.pth").write_bytes(pack(state))
    one_line(call("predict.py", "-r", tmp_path / "x.pth", images), 4, "float_bytes_as_pixels")


# --- pictures that are odd or broken ---------------------------------------------------------------------------------


def test_broken_pictures_are_named_and_the_others_written(trained: Path, some: Path, tmp_path: Path) -> None:
    (some / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (some / "notes.txt").write_text("no picture")
    (some / ".hidden.png").write_bytes((some / "a.png").read_bytes())
    (some / "deep" / "er").mkdir(parents=True)
    shutil.copy(some / "a.png", some / "deep" / "er" / "c.JPG")  # told by its content
    os.mkfifo(some / "pipe.png")
    (tmp_path / "none").mkdir()
    out = tmp_path / "x.csv"
    ended = call("predict.py", "-r", trained, some, some / "gone.png", tmp_path / "none", some / "a.png", "-o", out)
    one_line(
        ended, 3, "3 pictures cannot be read", "broken.png (", "gone.png (No such file", "none (there is no picture"
    )
    assert [row["image"] for row in table(out)] == [
        *(str(some / name) for name in ("a.png", "b.png", "deep/er/c.JPG", "ü.png", "a.png"))
    ]
    assert "1 of no format that is read" in ended.out
    assert "1 no regular file (such as pipe.png)" in ended.out
    ended = call("predict.py", "-r", trained, some / "broken.png", some / "pipe.png", "-o", tmp_path / "y.csv")
    one_line(ended, 3, "2 pictures cannot be read", "pipe.png (it is no regular file)", "nothing was written")
    assert not (tmp_path / "y.csv").exists()
    gone = [tmp_path / f"gone{number}.png" for number in range(50)]  # more names than a line holds
    ended = call("predict.py", "-r", trained, some / "a.png", *gone)
    assert ended.code == 3
    assert all(f"{name} (No such file" in ended.err for name in gone)
    assert ended.err.endswith("error: 50 pictures cannot be read; they are named above; 1 others were classified\n")


def test_names_that_a_terminal_or_a_spreadsheet_would_obey(
    trained: Path, some: Path, tmp_path: Path, monkeypatch
) -> None:
    data = (some / "a.png").read_bytes()
    names = ["=cmd().png", 'a,b"c.png', "a\nb\x1b[31m.png", "\u202egnp.png"]
    for name in names:
        (some / name).write_bytes(data)
    (some / os.fsdecode(b"\xff.png")).write_bytes(data)
    state = read(trained / "model_best.pth")
    state["classes"] = ["=HYPERLINK(1)", "\x1b[31mred", "-1"]
    (tmp_path / "x.pth").write_bytes(pack(state))
    monkeypatch.chdir(some)
    ended = call("predict.py", "-r", tmp_path / "x.pth", ".", *names, "-o", "x.csv", "--top", "9")
    assert (ended.code, ended.err) == (0, "")
    assert "--top 9: the network has 3 classes" in ended.out
    rows = table(Path("x.csv"))
    shown = {row["image"] for row in rows}
    assert {"'=cmd().png", *names[1:], "\\udcff.png"} <= shown
    assert {row[column] for row in rows for column in ("class", "class_2", "class_3")} == {
        "'=HYPERLINK(1)",
        "\x1b[31mred",
        "-1",
    }
    ended = call("predict.py", "-r", tmp_path / "x.pth", *names, "b.png")
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert len(ended.out.splitlines()) == 5
    assert "a\\nb\\x1b[31m.png" in ended.out


def test_pictures_in_a_zip(trained: Path, some: Path, tmp_path: Path) -> None:
    archive = tmp_path / "some.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(some / "a.png", "in/a.png")
        file.writestr("in/b.png", b"no picture")
    ended = call("predict.py", "-r", trained, archive)
    one_line(ended, 3, f"{archive}/in/b.png")
    assert ended.out.startswith(f"{archive}/in/a.png  ")
    archive.write_bytes(archive.read_bytes()[:-30])
    one_line(call("predict.py", "-r", trained, archive), 3, "neither a folder nor a readable .zip")


def test_wrong_command_lines(trained: Path, some: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.txt").write_text("x")
    one_line(call("predict.py", "-r", trained, tmp_path / "none"), 3, "no picture was found", "x.txt")
    one_line(call("predict.py", "-r", trained, some, "--top", "0"), 2, "--top")
    one_line(call("predict.py", some), 2, "-r")
    one_line(call("predict.py", "-r", trained, some, ""), 2, "empty")
    one_line(call("predict.py", "-r", trained), 2, "PICTURES")
    one_line(call("predict.py", "-r", trained, some, "-d", "cuda:77"), 2, "cuda:77")
    one_line(call("predict.py", "-r", "a\nb", some), 2, "control character")


# --- the output ------------------------------------------------------------------------------------------------------


def test_no_file_of_the_users_is_replaced(trained: Path, some: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("image,label\n")
    (tmp_path / "link.csv").symlink_to(own)
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder").mkdir()
    for name in ("own.csv", "link.csv", "pipe.csv", "folder", "own.csv/x.csv"):
        before = contents(tmp_path)
        one_line(call("predict.py", "-r", trained, some, "-o", tmp_path / name), 5, str(tmp_path / name.split("/")[0]))
        assert contents(tmp_path) == before
    own.write_text("")
    for _ in range(2):  # an empty file, and one of its own
        assert call("predict.py", "-r", trained, some, "-o", own).code == 0
        assert len(table(own)) == 3


def test_43_a_file_made_while_pictures_are_classified_stays(
    trained: Path, some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, decode = tmp_path / "x.csv", Preprocess.decode

    def decode_meanwhile(self: Preprocess, data: bytes, where: str) -> object:
        out.write_text("mine")
        return decode(self, data, where)

    monkeypatch.setattr(Preprocess, "decode", decode_meanwhile)
    for before in ("", None):  # one of its own to replace, or nothing
        out.unlink(missing_ok=True)
        if before is not None:
            out.write_text(before)
        one_line(call("predict.py", "-r", trained, some, "-o", out), 5, f"{out} exists")
        assert contents(tmp_path) == {"x.csv": b"mine"}


def test_a_full_disk_leaves_the_older_table(trained: Path, some: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("image,class,probability\nolder,a,1\n")
    arguments = ["-r", trained, *[some] * 40, "-o", out]
    ended = Started(arguments, tmp_path / "process", [limit_file_size(5000)], "predict.py").end()
    one_line(ended, 5, "cannot write", str(out), "bytes needed")
    assert "older" in out.read_text()
    assert not list(tmp_path.glob(".*.tmp"))
    with file_system(tmp_path / "disk", "4k") as disk:
        one_line(call("predict.py", "-r", trained, *[some] * 40, "-o", disk / "x.csv"), 5, "No space left")
        assert not list(disk.iterdir())


def _stop_at_the_third(number: int) -> Callable[[], None]:
    def prepare() -> None:
        decode = Preprocess.decode
        left = [2]

        def decode_and_stop(self: Preprocess, data: bytes, where: str) -> object:
            if not left[0]:
                os.kill(os.getpid(), number)
            left[0] -= 1
            return decode(self, data, where)

        Preprocess.decode = decode_and_stop

    return prepare


def _interrupt() -> None:
    _stop_at_the_third(signal.SIGINT)()


def _terminate() -> None:
    _stop_at_the_third(signal.SIGTERM)()


@pytest.mark.parametrize(("prepare", "code"), [(_interrupt, 130), (_terminate, 143)])
def test_a_signal_leaves_nothing(trained: Path, some: Path, tmp_path: Path, prepare, code: int) -> None:
    out = tmp_path / "x.csv"
    ended = Started(["-r", trained, some, "-o", out], tmp_path / "process", [prepare], "predict.py").end()
    one_line(ended, code, "stopped by")
    assert {path.name for path in tmp_path.iterdir()} == {"some", "process"}
