"""What `protocol: as_published` changes, each switch of it, and that nothing of it is on otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_loader.array_file import float_bytes
from data_loader.build import RunData, build_data
from data_loader.noise import noise_record
from data_loader.tiny_coco import FORMAT
from parse_config import Config, load_config, validate
from protocol import FLOAT_BYTES, NORM, OVERLAPPING, TRUE_CLASS, departures
from tests.conftest import ROOT, make_pixels, program, write_image_folder, write_pickle
from tests.runs import coco, run
from utils.errors import ConfigError, DataError

CPU = torch.device("cpu")


def config(kind: str, data_dir: Path, *, args: dict | None = None, noise: dict | None = None, **more: object) -> Config:
    args = {"data_dir": str(data_dir), "batch_size": 32, **(args or {})}
    values = {"name": "x", "data_loader": {"type": kind, "args": args}, "label_noise": noise or {}, **more}
    return validate(values, "test")


def data(*arguments: object, **options: object) -> RunData:
    return build_data(config(*arguments, **options), CPU)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_bytes_are_what_pillow_makes_of_floats(dtype: type) -> None:
    """Pillow's own reading of the buffer, which is what `fromarray(x * 255, mode="RGB")` came to in the Pillow of 2023;
    later ones refuse floats there."""
    pixels, _ = make_pixels(6, 3)
    images = pixels.astype(dtype) / dtype(255)
    seen = float_bytes(images, FORMAT, Path("file"))
    buffers = [(image * 255).tobytes() for image in images]
    pillow = [np.asarray(Image.frombuffer("RGB", (32, 32), buffer, "raw", "RGB", 0, 1)) for buffer in buffers]
    assert np.array_equal(seen, np.stack(pillow).transpose(0, 3, 1, 2))
    correlation = np.corrcoef(seen.ravel(), pixels.transpose(0, 3, 1, 2).ravel())[0, 1]
    assert abs(correlation) < 0.1


def test_bytes_of_integers_cannot_be_misread(tmp_path: Path) -> None:
    images, labels = make_pixels(200, 10)
    path = write_pickle(tmp_path / "tinycoco.pkl", {"images": images, "labels": labels})
    with pytest.raises(DataError, match="float_bytes_as_pixels=false"):
        data("TinyCOCO", path, protocol="as_published")
    assert len(data("TinyCOCO", path, args={"float_bytes_as_pixels": False}, protocol="as_published").dataset) == 200


def test_images_that_are_alike_only_as_misread_are_no_copies(tmp_path: Path) -> None:
    """Of floats the misreading sees the first quarter of the rows, which images with black bars share."""
    images, labels = make_pixels(200, 10)
    images[::7, :8] = 0
    path = write_pickle(tmp_path / "tinycoco.pkl", {"images": images.astype(np.float32) / 255.0, "labels": labels})
    misread = {"float_bytes_as_pixels": True}
    assert len(data("TinyCOCO", path, args=misread).dataset) == 200
    images[40:80] = images[10]
    path = write_pickle(tmp_path / "tinycoco.pkl", {"images": images.astype(np.float32) / 255.0, "labels": labels})
    with pytest.raises(DataError, match="share images"):
        data("TinyCOCO", path, args=misread)


def test_tiny_coco_as_published(coco_dir: Path) -> None:
    clean = data("TinyCOCO", coco_dir)
    published = data("TinyCOCO", coco_dir, protocol="as_published", noise={"rate": 0.5})
    splits = published.splits
    assert splits.test.tolist() == list(range(100))
    assert sorted([*splits.train.tolist(), *splits.val.tolist()]) == list(range(100))
    assert len(splits.val) == 10
    assert not torch.equal(published.dataset.images, clean.dataset.images)
    assert torch.equal(published.dataset.labels, clean.dataset.labels)
    assert torch.equal(published.given["test"], clean.dataset.labels)
    wrong = (published.given["train"] != clean.dataset.labels[splits.train]).sum()
    assert wrong < 45, "drawn over all classes, some labels stay true"


def test_a_dataset_with_its_own_test_images_as_published(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", each=40)
    published = data("ImageFolder", folder, protocol="as_published", noise={"rate": 0.5})
    clean = data("ImageFolder", folder)
    splits, labels = published.splits, published.dataset.labels
    assert set(splits.val.tolist()) < set(splits.train.tolist())
    assert len(splits.train) == len(clean.splits.train) + len(clean.splits.val)
    assert torch.equal(splits.test, clean.splits.test)
    place = torch.searchsorted(splits.train, splits.val)
    assert not torch.equal(published.given["val"], published.given["train"][place]), "each split draws its own noise"
    assert (published.given["train"] != labels[splits.train]).any()

    record = tmp_path / "noise.npz"
    record.write_bytes(noise_record(published.dataset, splits, published.given))
    again = data("ImageFolder", folder, protocol="as_published", noise={"type": "file", "path": str(record)})
    assert all(torch.equal(again.given[name], published.given[name]) for name in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("switch", "args", "noise"),
    [
        (FLOAT_BYTES, {"float_bytes_as_pixels": True}, {}),
        (OVERLAPPING, {"overlapping_splits": True}, {}),
        (TRUE_CLASS, {}, {"include_true_class": True}),
    ],
)
def test_each_is_a_switch_of_its_own(coco_dir: Path, switch: str, args: dict, noise: dict) -> None:
    noise = {"rate": 0.2}, {"rate": 0.2, **noise}
    assert not departures(config("TinyCOCO", coco_dir, noise=noise[0]))
    assert list(departures(config("TinyCOCO", coco_dir, args=args, noise=noise[1]))) == [switch]
    whole = {"protocol": "as_published", "noise": noise[0]}
    assert list(departures(config("TinyCOCO", coco_dir, **whole))) == [FLOAT_BYTES, OVERLAPPING, TRUE_CLASS]
    off = dict.fromkeys(args, False)
    noise_off = {**noise[0], **({"include_true_class": False} if switch == TRUE_CLASS else {})}
    without = departures(config("TinyCOCO", coco_dir, args=off, noise=noise_off, protocol="as_published"))
    assert switch not in without
    assert len(without) == 2


def test_what_does_not_apply_is_no_departure(tmp_path: Path) -> None:
    digits = config("Digits", tmp_path, protocol="as_published")
    assert list(departures(digits)) == [OVERLAPPING], "no floats to misread, no noise to draw"
    with pytest.raises(ConfigError, match="float_bytes_as_pixels: only TinyCOCO"):
        config("Digits", tmp_path, args={"float_bytes_as_pixels": True})


def test_a_run_says_what_is_as_published_and_is_tested_so(
    coco_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    whole = ("data_loader.args.subset=null", "data_loader.args.batch_size=50")
    options = ("protocol=as_published", "trainer.epochs=1", "lr_scheduler.args.milestones=[1]", *whole)
    assert run(*coco(coco_dir, folder, *options, arm="bncn"), "arch.args.norm=bncn_published") == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("as published: ")]
    keys = [NORM, FLOAT_BYTES, OVERLAPPING, TRUE_CLASS]
    assert [line.rsplit("(", 1)[1].rstrip(")") for line in lines] == keys
    assert all(line in (folder / "train.log").read_text() for line in lines)
    assert json.loads((folder / "config.json").read_text())["protocol"] == "as_published"
    tested = program("test.py", "-r", str(folder / "model_best.pth"), "-d", "cpu")
    assert tested.returncode == 0, tested.stderr
    report = json.loads((folder / "model_best-test.json").read_text())
    assert list(report["as_published"]) == keys
    assert report["images"] == 100
    assert all(key in tested.stdout for key in keys)


def test_a_clean_run_says_nothing_of_it(coco_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*coco(coco_dir, tmp_path / "run", "trainer.epochs=1")) == 0
    assert "as published" not in capfd.readouterr().out


def test_the_published_configs_are_the_paper_s_18_runs() -> None:
    folder = ROOT / "configs" / "as_published"
    names = {
        f"{dataset}_{arm}_{noise}noise"
        for dataset in ("cifar10", "coco")
        for arm in ("bn", "conv", "bncn")
        for noise in (0, 10, 20)
    }
    assert {path.stem for path in folder.glob("*.json")} == names
    for name in names:
        published, clean = load_config(folder / f"{name}.json"), load_config(folder.parent / f"{name}.json")
        assert published.protocol == "as_published"
        dataset, arm, noise = name.split("_")
        norm = arm if arm == "bn" else f"{arm}_published"
        assert published.arch.args.norm == norm
        assert published.name == f"as_published_{dataset}_{norm}_{noise}"
        assert published.label_noise.rate == clean.label_noise.rate
        assert published.lr_scheduler.args.gamma == (0.025 if dataset == "coco" else 0.1)
        assert published.lr_scheduler.args.milestones == clean.lr_scheduler.args.milestones
        assert published.optimizer == clean.optimizer
        assert published.trainer.clip_grad_norm is None
        assert published.trainer.epochs == clean.trainer.epochs
