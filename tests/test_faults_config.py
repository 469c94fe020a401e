"""Wrong configs, losses that blow up and devices that are not there. The numbers are those of docs/faults.md."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import call, coco, contents, launch, one_line
from tests.test_config import RESOLVED
from tests.test_train import make_trainer
from trainer.checkpoint import read


def refused(place: Path, text: str | dict, *parts: str) -> None:
    """train.py on this config ends with 2, one line that names the file, and nothing written."""
    path = place / "config.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    one_line(call("train.py", "-c", path, f"trainer.save_dir={place}/saved"), 2, f"error: {path}: ", *parts)
    assert not (place / "saved").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"name": "x",\n  "seed": }', "line 2 column 11"),
        ('{"seed": 1,\n "seed": 2}', "duplicate key 'seed': line 2 column 2"),
        ('{"optimizer": {"args": {"lr": NaN}}}', "NaN and Infinity are not JSON: line 1 column 31"),
        ("[1]", "line 1 column 1: a config is a JSON object {...}, not list"),
        ("", "line 1 column 1"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["syntax", "duplicate", "nan", "list", "empty", "deep"],
)
def test_29_what_is_no_json_object(tmp_path: Path, text: str, part: str) -> None:
    refused(tmp_path, text, part)


def test_30_a_misspelt_key(tmp_path: Path) -> None:
    """Each key of a shipped config: test_each_misspelt_key_is_found_and_its_name_guessed."""
    wrong = json.loads(json.dumps(RESOLVED))
    wrong["optimizer"]["args"]["learning_rate"] = wrong["optimizer"]["args"].pop("lr")
    wrong["trainer"]["epoch"] = wrong["trainer"].pop("epochs")
    parts = ["2 problems", "unknown key 'optimizer.args.learning_rate'", "unknown key 'trainer.epoch'"]
    refused(tmp_path, wrong, *parts, "did you mean 'epochs'?")


def changed(path: str, value: Any) -> dict:
    values = json.loads(json.dumps(RESOLVED))
    block = values
    *keys, last = path.split(".")
    for key in keys:
        block = block[key]
    block[last] = value
    return values


def test_31_all_wrong_values_at_once(tmp_path: Path) -> None:
    wrong = {
        "optimizer.args.lr": (-0.1, 0, "0.1", True, None),
        "data_loader.args.batch_size": (0, -1, 1.5, True),
        "trainer.epochs": (0, -1, 2.5, "3", True),
        "label_noise.rate": (-0.1, 1.1, "0.1", True),
        "seed": (-1, 1.0, True),
    }
    for turn in range(5):
        values = json.loads(json.dumps(RESOLVED))
        for path, choices in wrong.items():
            *keys, last = path.split(".")
            block = values
            for key in keys:
                block = block[key]
            block[last] = choices[turn % len(choices)]
        refused(tmp_path, values, "5 problems: ", *(f"{path}: should be" for path in wrong))


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("data_loader.type", "choose from CIFAR10, CIFAR100, SVHN"),
        ("arch.args.norm", "choose from bn, conv, bncn"),
        ("arch.type", "choose from resnet18"),
        ("optimizer.type", "choose from SGD, Adam, AdamW"),
        ("loss", "choose from cross_entropy"),
        ("label_noise.type", "choose from symmetric, asymmetric, file"),
    ],
)
@pytest.mark.parametrize("name", ["os.system", "antigravity"])
def test_32_an_unknown_name(tmp_path: Path, path: str, part: str, name: str) -> None:
    """Nothing is imported for a name: a config error ends the program before torch, let alone `name`, is."""
    refused(tmp_path, changed(path, name), f"{path}: unknown choice '{name}'", part)


def test_33_inheritance_that_cannot_be_followed(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text('{"_base_": "b.json", "name": "a"}')
    b.write_text('{"_base_": ["a.json"]}')
    one_line(call("train.py", "-c", a), 2, f"config inheritance goes in a circle: {a} -> {b} -> {a}")
    b.write_text('{"_base_": "missing.json"}')
    one_line(call("train.py", "-c", a), 2, "missing.json'", f"inherited by {b}, inherited by {a}: No such file")


# --- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["bn", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("conv", "bncn"))])
def test_34_a_loss_that_is_not_finite(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    folder = tmp_path / "run"
    assert launch(tmp_path, *coco(coco_dir, folder, "trainer.epochs=1", arm=arm)).code == 0
    before = contents(folder, "*.pth")
    ended = launch(tmp_path, "-r", "auto", "--run-dir", folder, "trainer.epochs=3", "optimizer.args.lr=1e20")
    one_line(ended, 6, "error: the loss became NaN or infinite in epoch 2 at step ", "lower optimizer.args.lr")
    step = re.search(r"at step (\d+); the best checkpoint is kept in (\S+);", ended.err)
    assert step
    assert 6 <= int(step[1]) <= 10, "five steps an epoch"
    assert step[2] == str(folder)
    assert contents(folder, "*.pth") == before
    assert not list(folder.glob(".*.tmp"))
    assert json.loads((folder / "diverged.json").read_text()) == {"epoch": 2, "step": int(step[1])}
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder, "trainer.epochs=2", "optimizer.args.lr=0.01").code == 0
    assert not (folder / "diverged.json").exists(), "it has come through"


def test_34_weights_that_blow_up_in_the_last_step(coco_dir: Path, tmp_path: Path) -> None:
    """One step an epoch: its loss is finite, and what it leaves is not."""
    options = ("data_loader.args.batch_size=40", "optimizer.args.lr=1e20", "trainer.epochs=1")
    ended = launch(tmp_path, *coco(coco_dir, tmp_path / "run", *options))
    one_line(ended, 6, "in epoch 1 at step 1; lower optimizer.args.lr")
    assert not list((tmp_path / "run").glob("*.pth"))


def test_34_the_setting_that_the_rate_goes_by_is_named(coco_dir: Path, tmp_path: Path) -> None:
    options = ("lr_scheduler.type=OneCycleLR", "lr_scheduler.args.max_lr=1e20", "trainer.epochs=1")
    arguments = [each for each in coco(coco_dir, tmp_path / "run", *options) if "milestones" not in each]
    one_line(call("train.py", *arguments), 6, "; lower lr_scheduler.args.max_lr\n")


def test_34_nothing_is_saved_on_a_signal_either(coco_dir: Path, tmp_path: Path) -> None:
    """Nor by the clock: a state that is not finite resumes nothing."""
    options = ("optimizer.args.lr=1e20", "trainer.save_every_minutes=1e-9")
    ended = launch(tmp_path, *coco(coco_dir, tmp_path / "run", *options))
    one_line(ended, 6, "in epoch 1 at step ")
    for path in (tmp_path / "run").glob("*.pth"):
        read(path)


def test_35_a_monitor_of_what_is_not_measured(tmp_path: Path) -> None:
    refused(tmp_path, changed("trainer.monitor", "max val_f1"), "trainer.monitor: must be 'off', or 'max' or 'min'")
    wrong = changed("metrics", ["accuracy"])
    wrong["trainer"]["monitor"] = "max val_top5_accuracy"
    refused(tmp_path, wrong, "trainer.monitor: 'top5_accuracy' is not among metrics ['accuracy']")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_35_nan_is_never_best(coco_dir: Path, tmp_path: Path, mode: str) -> None:
    trainer = make_trainer(coco_dir, tmp_path, f"trainer.monitor={mode} val_accuracy")
    values = (float("nan"), 0.5, float("nan"), 0.6 if mode == "max" else 0.4)
    assert [trainer.monitor.add(value) for value in values] == [False, True, False, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_39_cuda_that_is_not_there(coco_dir: Path, tmp_path: Path, finished: Path, name: str) -> None:
    part = f"device '{name}' was asked for, but this machine has 0 CUDA devices; use -d cpu"
    one_line(call("train.py", *coco(coco_dir, tmp_path / "run"), "-d", name), 2, part)
    in_config = [a for a in coco(coco_dir, tmp_path / "run") if a != "trainer.device=cpu"]
    one_line(call("train.py", *in_config, f"trainer.device={name}"), 2, part)
    one_line(call("test.py", "-r", finished / "checkpoint-epoch3.pth", "-d", name), 2, part)
    assert not (tmp_path / "run").exists()
