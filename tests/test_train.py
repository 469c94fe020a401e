"""Whole runs of the programs, at a size that takes seconds."""

import itertools
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.start import first_step
from models import preconv_filter, preconv_matmul
from models.norms import NORMS
from parse_config import load_config
from tests.conftest import ROOT, fresh_program, make_pixels, program, same_tree, write_image_folder, write_pickle
from tests.runs import SMALL, call, coco, contents, curves, final_state, rows, run, scalars
from trainer.checkpoint import read
from trainer.checkpoint_file import pack
from trainer.environment import code_version
from trainer.meter import Meter
from trainer.optim import build_optimizer
from trainer.trainer import Trainer
from utils.cli import run_program
from utils.columns import SPLITS
from utils.device import choose_device
from utils.errors import ConfigError
from utils.seeding import generator, rng_state, set_rng_state

# --- what a run leaves ---------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_it_should(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if "tfevents" not in path.name and path.is_file()}
    assert {path.name for path in finished.iterdir() if path.is_dir()} == set(SPLITS)
    assert names == {
        *(
            "run.json",
            "config.json",
            "metrics.csv",
            "noise.npz",
            "noise_transition.csv",
            "data.json",
            "train.log",
            "model_best.pth",
        ),
        *("checkpoint-epoch2.pth", "checkpoint-epoch3.pth", ".lock"),
    }
    config = load_config(finished / "config.json")
    assert config.model_dump() == json.loads((finished / "config.json").read_text())
    assert config.trainer.epochs == 3


def test_data_json_says_what_the_run_saw(finished: Path) -> None:
    said = json.loads((finished / "data.json").read_text())
    labels = np.load(finished / "noise.npz")
    parts = {split: labels["split"] == split for split in ("train", "val")}
    assert {split: said["images"][split] for split in parts} == {s: int(part.sum()) for s, part in parts.items()}
    wrong = labels["given_label"] != labels["true_label"]
    assert said["wrong_labels"] == {**{s: int(wrong[part].sum()) for s, part in parts.items()}, "test": 0}
    assert said["wrong_labels"]["train"] > 0
    assert said["classes"] == labels["classes"].tolist()
    assert said["sha256"] == read(finished / "checkpoint-epoch3.pth")["dataset_sha256"]
    assert said["as_published"] == {}
    (here,) = said["environments"]
    assert here.pop("code") == code_version()
    assert here == read(finished / "checkpoint-epoch3.pth")["environment"]


def test_the_code_s_version_is_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none where only a folder further up is a checkout."""
    place = tmp_path / "copy"
    place.mkdir()
    monkeypatch.setattr("trainer.environment._ROOT", place)

    def git(*arguments: str, at: Path) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(["git", *names, *arguments], cwd=at, check=True, capture_output=True, text=True).stdout

    git("init", "-q", at=tmp_path)
    assert code_version() is None
    git("init", "-q", at=place)
    assert code_version() is None, "no commit yet"
    (place / "file").write_text("1")
    git("add", "file", at=place)
    git("commit", "-q", "-m", "first", at=place)
    git("tag", "v1", at=place)
    commit = git("rev-parse", "--short=12", "HEAD", at=place).strip()
    assert code_version() == commit
    (place / "file").write_text("2")
    assert code_version() == f"{commit}-dirty"
    (place / ".git" / "HEAD").write_text("?")
    assert code_version() is None, "a damaged one"


def test_metrics_csv_has_its_columns_in_order(finished: Path) -> None:
    header = (finished / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[:8] == [
        *("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
        *("test_loss", "test_accuracy"),
    ]
    assert header[-1] == "seconds"
    assert {"train_clean_accuracy", "train_mislabelled_given_accuracy", "train_mislabelled_true_accuracy"} < set(header)
    found = rows(finished)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert [float(row["lr"]) for row in found] == pytest.approx([0.025, 0.025, 0.0025])


def test_tensorboard_has_the_same_figures(finished: Path) -> None:
    found = scalars(finished)
    for column, tag in (("train_loss", "train/loss"), ("val_accuracy", "val/accuracy"), ("lr", "lr")):
        written = [(int(row["epoch"]), float(row[column])) for row in rows(finished)]
        assert np.array(found[tag]) == pytest.approx(np.array(written), rel=1e-6)
    assert {"test/loss", "test/top5_accuracy"} <= found.keys()
    assert all(len(points) == 3 for points in found.values()), "a curve of one point"
    events = EventAccumulator(str(finished)).Reload()
    assert set(events.Tags()["images"]) == {"train/images", "test/confusion", "test/images"}
    for split in SPLITS:  # what has one tag in several runs is in one chart
        of_split = scalars(finished / split)
        assert of_split == {name: found[f"{split}/{name}"] for name in ("loss", "accuracy", "top5_accuracy")}
    plugin = events.PluginTagToContent("hparams")
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info", "_hparams_/experiment"} == plugin.keys()
    assert b"optimizer.args.lr" in plugin["_hparams_/session_start_info"]


def test_the_best_checkpoint_is_best_by_validation(finished: Path) -> None:
    scores = [float(row["val_accuracy"]) for row in rows(finished)]
    best = read(finished / "model_best.pth")
    assert best["epoch"] == 1 + int(np.argmax(scores))  # the first of equals
    assert best["best"] == pytest.approx(max(scores))


def test_noise_of_the_run_is_recorded(finished: Path) -> None:
    with np.load(finished / "noise.npz") as noise:
        train = noise["split"] == "train"
        assert (noise["given_label"] != noise["true_label"])[train].sum() == round(0.2 * train.sum())
        assert np.allclose(noise["transition_matrix"].sum(1), 1)


def test_figures_are_weighted_by_sample(coco_dir: Path, tmp_path: Path) -> None:
    """A last batch of another size must not weigh as much as a full one: evaluate one by one and compare."""
    assert run(*coco(coco_dir, tmp_path / "a", "trainer.epochs=1")) == 0
    whole = rows(tmp_path / "a")[0]
    trainer = make_trainer(coco_dir, tmp_path / "b", "data_loader.args.batch_size=7")
    trainer.model.load_state_dict(read(tmp_path / "a" / "checkpoint-epoch1.pth")["model"])
    figures = trainer.evaluator.figures(trainer.data.test, "test")
    assert figures["loss"] == pytest.approx(float(whole["test_loss"]), rel=1e-5)
    assert figures["accuracy"] == pytest.approx(float(whole["test_accuracy"]))


def make_trainer(coco_dir: Path, folder: Path, *more: str, arm: str = "bn") -> Trainer:
    from data_loader.build import build_data
    from models.build import build_model

    arguments = coco(coco_dir, folder, *more, arm=arm)
    config = load_config(arguments[1], arguments[4:])
    data = build_data(config, torch.device("cpu"))
    model = build_model(config, 10)
    return Trainer(config, model, *build_optimizer(config, model), data, torch.device("cpu"), folder)


def test_two_runs_are_the_same_run(finished: Path, coco_dir: Path, tmp_path: Path) -> None:
    assert run(*coco(coco_dir, tmp_path / "again")) == 0
    assert rows(tmp_path / "again") == rows(finished)
    assert same_tree(final_state(tmp_path / "again", 3), final_state(finished, 3)) == []


def test_noise_columns_tell_memorising_from_resisting() -> None:
    from base.base_data_loader import Batch
    from trainer.evaluation import measure_noise

    given, true = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 0, 0])  # two clean, two mislabelled
    logits = torch.eye(3)[torch.tensor([0, 2, 1, 0])]  # right, wrong, as given, as true
    meter = Meter(torch.device("cpu"))
    measure_noise(meter, logits, Batch(torch.empty(0), given, true, given))
    assert meter.figures() == {
        "clean_accuracy": 0.5,
        "mislabelled_given_accuracy": 0.5,
        "mislabelled_true_accuracy": 0.5,
    }


# --- resume --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_after", "how"),
    [(1, "auto"), (2, "file"), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "file"), (2, "auto")))],
)
def test_a_run_stopped_after_an_epoch_ends_as_one_never_stopped(
    finished: Path, coco_dir: Path, tmp_path: Path, stop_after: int, how: str
) -> None:
    folder = tmp_path / "part"
    assert run(*coco(coco_dir, folder, f"trainer.epochs={stop_after}")) == 0
    resume = (
        ["-r", folder / f"checkpoint-epoch{stop_after}.pth"] if how == "file" else ["-r", "auto", "--run-dir", folder]
    )
    assert run(*resume, "trainer.epochs=3") == 0
    assert rows(folder) == rows(finished)
    ended, straight = final_state(folder, 3), final_state(finished, 3)
    assert same_tree(ended, straight) == []
    assert curves(folder) == curves(finished)


THREE_STEPS = ("data_loader.args.batch_size=14", "trainer.epochs=2")  # an epoch, since those of ConvNorm take long


class StoppingTrainer:
    """Asks a trainer to stop, as a signal would, after so many steps in all."""

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self.trainer, self.steps, self.original = trainer, steps, trainer.train_step

    def __call__(self, batch: object, weight: float) -> None:
        self.original(batch, weight)
        if self.trainer.global_step + 1 == self.steps:
            self.trainer.stop.signal = signal.SIGTERM


@pytest.mark.parametrize("amp", ["null", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "arm", ["bn", "bncn", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("conv", "bncn_published"))]
)
def test_a_run_stopped_within_an_epoch_ends_as_one_never_stopped(
    coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, amp: str
) -> None:
    protocol = "as_published" if arm == "bncn_published" else "clean"
    options = (*THREE_STEPS, f"trainer.amp={amp}", f"arch.args.norm={arm}", f"protocol={protocol}")
    if protocol == "as_published":  # which takes every image for a test image
        options += ("data_loader.args.batch_size=35", "data_loader.args.subset=null")
    config = arm.removesuffix("_published")
    assert run(*coco(coco_dir, tmp_path / "straight", *options, arm=config)) == 0
    step = int(torch.randint(1, 6, (1,), generator=generator(0, f"stop {arm} {amp}")))
    original = Trainer.__init__

    def stopping(self: Trainer, *args: Any) -> None:
        original(self, *args)
        self.train_step = StoppingTrainer(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", stopping)
        assert run(*coco(coco_dir, tmp_path / "part", *options, arm=config)) == 143
    assert run("-r", "auto", "--run-dir", tmp_path / "part") == 0
    assert rows(tmp_path / "part") == rows(tmp_path / "straight")
    assert same_tree(final_state(tmp_path / "part", 2), final_state(tmp_path / "straight", 2)) == []


def test_a_longer_run_trains_on_with_the_schedule_it_is_given(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    assert run("-r", folder / "checkpoint-epoch3.pth", "trainer.epochs=5", "lr_scheduler.args.milestones=[4]") == 0
    assert [float(row["lr"]) for row in rows(folder)] == pytest.approx([0.025, 0.025, 0.0025, 0.025, 0.0025])
    assert load_config(folder / "config.json").trainer.epochs == 5


def as_earlier_code_wrote_it(config: dict) -> dict:
    """A config.json from before each type of a block had settings of its own: null where one is not set or has none."""
    earlier = json.loads(json.dumps(config))
    optimizer, schedule = earlier["optimizer"], earlier["lr_scheduler"]
    unset = dict.fromkeys(("momentum", "nesterov", "betas", "eps"))
    kept = ("lr", "weight_decay", "momentum") if optimizer["type"] == "SGD" else ("lr", "weight_decay")
    optimizer["args"] = unset | {key: optimizer["args"][key] for key in kept}
    unset = dict.fromkeys(("milestones", "gamma", "step_size", "T_max", "eta_min"))
    schedule["args"] = unset | {key: value for key, value in schedule["args"].items() if key != "gamma"}
    return earlier | {"loss": "cross_entropy", "label_noise": {**earlier["label_noise"], "path": None}}


STEP = ("lr_scheduler.type=StepLR", "lr_scheduler.args.step_size=2")


@pytest.mark.parametrize("changes", [[], ["optimizer.type=Adam", "optimizer.args.lr=0.01", *STEP]], ids=["SGD", "Adam"])
def test_a_run_of_earlier_code_goes_on_exactly(
    coco_dir: Path, tmp_path: Path, changes: list[str], capsys: pytest.CaptureFixture
) -> None:
    def arguments(folder: Path, epochs: int) -> list[str]:
        given = coco(coco_dir, folder, *changes, f"trainer.epochs={epochs}")
        return [each for each in given if not (changes and "milestones" in each)]

    straight, folder = tmp_path / "straight", tmp_path / "run"
    assert run(*arguments(straight, 3)) == 0
    assert run(*arguments(folder, 2)) == 0
    earlier = as_earlier_code_wrote_it(json.loads((folder / "config.json").read_text()))
    assert None in earlier["optimizer"]["args"].values()
    (folder / "config.json").write_text(json.dumps(earlier))
    for path in folder.glob("*.pth"):
        path.write_bytes(pack({**read(path), "config": earlier}))
    capsys.readouterr()
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=3") == 0
    changed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("changed since", "lr of"))]
    assert changed == ["changed since: trainer.epochs 2 -> 3"]
    assert rows(folder) == rows(straight)
    assert same_tree(final_state(folder, 3), final_state(straight, 3)) == []
    assert (folder / "config.json").read_bytes() == (straight / "config.json").read_bytes()


def test_a_finished_run_has_nothing_to_do(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.glob("*.pth")}
    assert run("-r", "auto", "--run-dir", folder) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.glob("*.pth")} == before


def test_auto_finds_the_newest_run_of_the_config(coco_dir: Path, tmp_path: Path, capsys) -> None:
    arguments = coco(coco_dir, tmp_path, f"trainer.save_dir={tmp_path}", "trainer.epochs=1")
    del arguments[2:4]  # no --run-dir
    assert run(*arguments, "-r", "auto") == 0
    assert "nothing to resume; starting afresh" in capsys.readouterr().out
    assert run(*arguments) == 0
    runs = sorted((tmp_path / "coco_bn_20noise").iterdir())
    assert len(runs) == 2
    assert all(re.fullmatch(r"\d{8}_\d{6}(-\d+)?", path.name) for path in runs)
    assert run(*arguments, "-r", "auto", "trainer.epochs=2") == 0
    assert [len(rows(path)) for path in runs] == [1, 2]


def test_auto_falls_back_to_the_newest_valid_checkpoint_and_refuses_if_there_is_none(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    newest = folder / "checkpoint-epoch3.pth"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert run("-r", newest) == 4
    assert run("-r", "auto", "--run-dir", folder) == 0
    assert "trying an older one" in capsys.readouterr().err
    assert rows(folder) == rows(finished)
    for path in folder.glob("*.pth"):
        path.write_bytes(b"garbage")
    assert run("-r", "auto", "--run-dir", folder) == 4
    assert "not starting over" in capsys.readouterr().err


def test_a_run_killed_before_its_first_checkpoint_starts_afresh(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for path in [*folder.glob("*.pth"), folder / "metrics.csv"]:
        path.unlink()
    assert run("-r", "auto", "--run-dir", folder) == 0
    assert rows(folder) == rows(finished)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("arch.args.width=8", "of another architecture: stem.0.0.weight is (4, 3, 3, 3) there, (8, 3, 3, 3) here"),
        ("arch.args.norm=conv", "of another architecture: missing stages.0.0.branch.0.affine.bias"),
        ("optimizer.type=Adam", "saved with the optimizer SGD, but the config says Adam"),
        ("seed=13", "would not be the same"),
        ("label_noise.rate=0.1", "the label noise would not be the same"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture, override: str, part: str
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    before = contents(folder)
    assert run("-r", folder / "checkpoint-epoch3.pth", override, "trainer.epochs=9") == 4
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        {"rng": {}},
        {"history": [1]},
        {"history": []},
        {"partial_sums": {"a": 1}, "batch": 1, "global_step": 16},
        {"splits": {"train": 3}},
        {"batch": 999},
        {"epoch": -5},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.tensor([float("nan")])}}, "param_groups": []}},
        {"model": {}},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_signed_checkpoint_of_nonsense_is_refused_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: dict
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint-epoch3.pth"
    path.write_bytes(pack({**read(path), **change}))
    before = contents(folder)
    assert run("-r", path, "trainer.epochs=4") == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(folder) == before


def test_a_checkpoint_away_from_its_run_goes_on_in_a_new_run_folder(finished: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(finished / "checkpoint-epoch3.pth", tmp_path)
    assert run("-r", checkpoint, "trainer.epochs=4", f"trainer.save_dir={tmp_path}/saved") == 0
    (folder,) = (tmp_path / "saved" / "coco_bn_20noise").iterdir()
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-epoch3.pth", "saved"}


def test_another_run_s_folder_is_not_written_over(finished: Path, tmp_path: Path, capsys) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    assert run("-r", finished / "checkpoint-epoch3.pth", "--run-dir", other, "trainer.epochs=4") == 5
    assert "already holds a run" in capsys.readouterr().err


def test_the_run_s_own_config_is_resumed_whatever_c_says(finished: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    config = ROOT / "configs" / "coco_bncn_0noise.json"
    assert run("-c", config, "-r", folder / "checkpoint-epoch3.pth") == 0
    out = capsys.readouterr().out
    assert "resuming with the config of" in out
    assert "nothing to do" in out


def test_metrics_and_monitor_may_change_on_the_way(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = json.loads((finished / "config.json").read_text())
    config["metrics"], config["trainer"]["epochs"] = ["accuracy"], 1
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert run("-c", tmp_path / "c.json", "--run-dir", folder) == 0
    metrics = 'metrics=["accuracy", "top5_accuracy"]'
    assert run("-r", "auto", "--run-dir", folder, metrics, "trainer.epochs=2", "trainer.monitor=min val_loss") == 0
    assert [row["test_top5_accuracy"] == "" for row in rows(folder)] == [True, False]
    assert read(folder / "model_best.pth")["best"] == pytest.approx(float(rows(folder)[1]["val_loss"]))


def test_other_data_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images, labels = make_pixels(200, 10, seed=9)
    write_pickle(tmp_path / "tinycoco.pkl", {"images": images, "labels": labels})
    checkpoint = finished / "checkpoint-epoch3.pth"
    assert run("-r", checkpoint, f"data_loader.args.data_dir={tmp_path}", "trainer.epochs=9") == 4
    assert "trained on other data" in capsys.readouterr().err


def test_another_environment_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint-epoch3.pth"
    state = read(path)
    state["environment"]["threads"] = 64
    path.write_bytes(pack(state))
    assert run("-r", path, "trainer.epochs=4") == 0
    assert "resume not bit-exact: threads was 64, is" in capsys.readouterr().err


def test_going_back_to_an_older_checkpoint_sets_later_ones_aside(finished: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    best = read(folder / "model_best.pth")["epoch"]
    assert run("-r", folder / "checkpoint-epoch2.pth", "trainer.epochs=2") == 0
    assert "a later one is now" in capsys.readouterr().err
    names = {path.name for path in folder.glob("*.pth*")}
    assert {"checkpoint-epoch2.pth", "checkpoint-epoch3.pth.abandoned"} <= names
    assert ("model_best.pth.abandoned" in names) == (best == 3)
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=3") == 0
    assert rows(folder) == rows(finished)


# --- the loop ------------------------------------------------------------------------------------------------------


def test_early_stop_and_monitor(coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("trainer.epochs=9", "trainer.monitor=min test_loss", "trainer.early_stop=1", "optimizer.args.lr=1e-12")
    assert run(*coco(coco_dir, tmp_path / "run", *options, arm="bn")) == 0
    assert "stopped early: no better test_loss in 1 epochs" in capsys.readouterr().out
    losses = [float(row["test_loss"]) for row in rows(tmp_path / "run")]
    assert len(losses) < 9
    assert losses[-1] >= losses[-2]
    assert all(a > b for a, b in itertools.pairwise(losses[:-1]))


def test_save_period_and_no_monitor_and_no_tensorboard(coco_dir: Path, tmp_path: Path) -> None:
    options = ("trainer.save_period=2", "trainer.monitor=off", "trainer.tensorboard=false")
    assert run(*coco(coco_dir, tmp_path / "run", *options)) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint-epoch2.pth", "checkpoint-epoch3.pth"} <= names
    assert "model_best.pth" not in names
    assert not [name for name in names if "tfevents" in name]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    assert run(*coco(coco_dir, folder, "trainer.epochs=1")) == 0
    before = {path.name: path.read_bytes() for path in folder.glob("*.pth")}
    assert run("-r", folder / "checkpoint-epoch1.pth", "trainer.epochs=3", "optimizer.args.lr=1e30") == 6
    error = capsys.readouterr().err
    assert re.search(r"NaN or infinite in epoch 2 at step \d+; the best checkpoint is kept", error)
    assert {path.name: path.read_bytes() for path in folder.glob("*.pth")} == before


def test_the_best_so_far_is_kept_where_a_run_goes_back(finished: Path, tmp_path: Path) -> None:
    """A later epoch was better, and its weights are set aside; if all fails from there on, the best before are left."""
    folder = tmp_path / "run"
    options = ("trainer.epochs=3", "trainer.monitor=min train_loss")
    config = json.loads((finished / "config.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert run("-c", tmp_path / "c.json", "--run-dir", folder, *options) == 0
    assert read(folder / "model_best.pth")["epoch"] == 3
    assert run("-r", folder / "checkpoint-epoch2.pth", "trainer.epochs=4", "optimizer.args.lr=1e30") == 6
    assert read(folder / "model_best.pth")["epoch"] == 2


def test_weights_that_blow_up_in_the_last_step_of_an_epoch_are_not_saved(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one_step = ("data_loader.args.batch_size=40", "optimizer.args.lr=1e30", "trainer.epochs=1")
    assert run(*coco(coco_dir, tmp_path / "run", *one_step)) == 6
    assert "NaN or infinite in epoch 1 at step 1;" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pth"))


def test_an_evaluation_that_is_not_finite_names_its_epoch_and_step(coco_dir: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    assert run(*coco(coco_dir, folder, "trainer.epochs=1", "data_loader.args.batch_size=20")) == 0
    one_step = ("trainer.epochs=2", "data_loader.args.batch_size=40", "optimizer.args.lr=1e30")
    assert run("-r", "auto", "--run-dir", folder, *one_step) == 6
    assert "NaN or infinite in epoch 2 at step 3;" in capsys.readouterr().err


@pytest.mark.parametrize("arm", sorted(set(NORMS) - {"bn", "bncn"}))
def test_every_other_arm_trains(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    two_steps = ("trainer.epochs=1", "data_loader.args.batch_size=20")
    options = (*two_steps, f"arch.args.norm={arm}", "trainer.channels_last=true", "trainer.clip_grad_norm=1")
    assert run(*coco(coco_dir, tmp_path / "run", *options)) == 0
    assert math.isfinite(float(rows(tmp_path / "run")[0]["train_loss"]))


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_other_optimizers_and_schedules(coco_dir: Path, tmp_path: Path, kind: str) -> None:
    schedule = "lr_scheduler.type=StepLR" if kind == "Adam" else "lr_scheduler.type=CosineAnnealingLR"
    arguments = [a for a in coco(coco_dir, tmp_path / "run") if "milestones" not in a]
    extra = ["lr_scheduler.args.step_size=2"] if kind == "Adam" else ["trainer.epochs=2"]
    assert run(*arguments, f"optimizer.type={kind}", "optimizer.args.lr=0.01", schedule, *extra) == 0
    rates = [float(row["lr"]) for row in rows(tmp_path / "run")]
    assert rates == pytest.approx([0.01, 0.01, 0.001] if kind == "Adam" else [0.01, 0.005])


def test_fp16_with_its_scaler_trains_and_resumes(coco_dir: Path, tmp_path: Path) -> None:
    options = ("trainer.amp=fp16", "trainer.clip_grad_norm=1", "data_loader.args.batch_size=20")
    assert run(*coco(coco_dir, tmp_path / "a", *options, "trainer.epochs=2", arm="bn")) == 0
    assert run(*coco(coco_dir, tmp_path / "b", *options, "trainer.epochs=1", arm="bn")) == 0
    assert run("-r", "auto", "--run-dir", tmp_path / "b", "trainer.epochs=2") == 0
    assert same_tree(final_state(tmp_path / "a", 2), final_state(tmp_path / "b", 2)) == []


def test_clipping_bounds_the_step(coco_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(coco_dir, tmp_path, "trainer.clip_grad_norm=0.001", "optimizer.args.weight_decay=0")
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train_step(next(trainer.data.train.batches(1)))
    moved = sum((p - b).square().sum() for p, b in zip(trainer.model.parameters(), before, strict=True)).sqrt().item()
    assert moved == pytest.approx(0.001 * 0.025, rel=1e-3)  # the clipped norm times the rate


class Waits(TorchDispatchMode):
    """Names the operators that make the host wait for a device: they read values, or their shape depends on some."""

    READERS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.seen.add(name)
        masks = [part for part in (args[1] if name.startswith("index") else ()) if isinstance(part, torch.Tensor)]
        if name in self.READERS or any(mask.dtype == torch.bool for mask in masks):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("arm", "amp"),
    [
        *(("bn", "null"), ("conv", "null"), ("bncn", "null"), ("bn", "bf16")),
        *(pytest.param(arm, "bf16", marks=pytest.mark.slow) for arm in ("conv", "bncn")),
    ],
)
def test_a_training_step_does_not_wait_for_the_device(
    coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, amp: str
) -> None:
    trainer = make_trainer(coco_dir, tmp_path, f"trainer.amp={amp}", arm=arm)
    batches = trainer.data.train.batches(1)
    trainer.train_step(next(batches))

    def forbidden(self: torch.Tensor, *_: object) -> None:
        raise AssertionError("a step brought a tensor to the host")

    for name in ("tolist", "cpu", "numpy"):  # on a CPU these call no operator
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    with Waits() as waits:
        trainer.train_step(next(batches))
    assert waits.found == []
    layer_s = {"filtered_conv_backward", "spectral_filter", "_fft_c2r"}  # by method
    assert {"convolution_backward", "add_"} < waits.seen
    assert bool(layer_s & waits.seen) == (arm != "bn")


def test_the_layer_s_own_operators_do_not_wait_for_the_device() -> None:
    x, weight = torch.randn(2, 3, 32, 32), torch.randn(4, 3, 3, 3)
    with Waits() as waits:
        v = preconv_matmul.inverse_root_of_gram(weight, 34, 34)
        y = preconv_matmul.forward(x, weight, v, 1, 1)
        preconv_matmul.backward(y, x, weight, v, 1, 1, True, 1)
        preconv_filter.spectral_filter(torch.randn(2, 4, 34, 34), v, 34, 34, 1, 1, False)
    assert waits.found == []
    assert {"bmm", "baddbmm_", "mm", "addcmul_"} < waits.seen


def test_reading_a_value_is_noticed() -> None:
    with Waits() as waits:
        torch.ones(2).sum().item()
        torch.ones(2)[torch.tensor([True, False])]
    assert waits.found == ["_local_scalar_dense", "index"]


@pytest.mark.parametrize(("value", "wanted"), [("null", True), ("true", True), ("false", False)])
def test_channels_last_is_what_batches_have(coco_dir: Path, tmp_path: Path, value: str, wanted: bool) -> None:
    option = f"trainer.channels_last={value}"
    images = next(make_trainer(coco_dir, tmp_path, option).data.train.batches(1)).images
    assert images.is_contiguous(memory_format=torch.channels_last) == wanted
    assert images.is_contiguous() != wanted


@pytest.mark.parametrize("value", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_channels_last_resumes(coco_dir: Path, tmp_path: Path, value: str) -> None:
    """`true` is what runs on a CPU have where nothing is said."""
    options = (f"trainer.channels_last={value}", "data_loader.args.batch_size=40", "trainer.epochs=2")  # one step each
    assert run(*coco(coco_dir, tmp_path / "a", *options, arm="bncn")) == 0
    assert run(*coco(coco_dir, tmp_path / "b", *options, "trainer.epochs=1", arm="bncn")) == 0
    assert run("-r", "auto", "--run-dir", tmp_path / "b", "trainer.epochs=2") == 0
    assert same_tree(final_state(tmp_path / "a", 2), final_state(tmp_path / "b", 2)) == []


@pytest.mark.parametrize("value", [True, False])
def test_keeping_freed_memory_can_be_switched_off(
    coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("utils.memory.keep_freed_memory", lambda: calls.append("kept"))
    option = f"trainer.keep_freed_memory={str(value).lower()}"
    assert run(*coco(coco_dir, tmp_path / "run", option, "trainer.epochs=1")) == 0
    assert calls == ["kept"] * value


@pytest.mark.slow
def test_a_compiled_run_trains_evaluates_and_resumes(coco_dir: Path, tmp_path: Path) -> None:
    options = ("trainer.compile=true", "trainer.epochs=2")
    assert run(*coco(coco_dir, tmp_path / "a", *options, arm="bncn")) == 0
    assert run(*coco(coco_dir, tmp_path / "b", "trainer.compile=true", "trainer.epochs=1", arm="bncn")) == 0
    assert run("-r", "auto", "--run-dir", tmp_path / "b", "trainer.epochs=2") == 0
    assert same_tree(final_state(tmp_path / "a", 2), final_state(tmp_path / "b", 2)) == []
    plain = read(tmp_path / "b" / "checkpoint-epoch2.pth")["model"].keys()
    assert plain == make_trainer(coco_dir, tmp_path, arm="bncn").model.state_dict().keys()


def test_compiling_without_a_compiler_is_an_error(
    coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    fails(capsys, 2, "no C++ compiler", *coco(coco_dir, tmp_path / "run", "trainer.compile=true"))


def test_freed_memory_is_kept() -> None:
    """A block of 64 MB, freed and allocated again, is not faulted in again; without the setting it is."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("it is for glibc")
    script = (
        "import resource, sys; sys.path.insert(0, '.'); from utils.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': assert keep_freed_memory()\n"
        "for _ in range(20): b'x' * 2**26\n"  # glibc tries some places before it settles
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): b'x' * 2**26\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = {}
    for how in ("keep", "free"):
        command = [sys.executable, "-c", script, how]
        faults[how] = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)
    assert faults["keep"] < 100 < faults["free"]


def test_deterministic_and_global_seeding(coco_dir: Path, tmp_path: Path) -> None:
    try:
        assert run(*coco(coco_dir, tmp_path / "run", "trainer.deterministic=true", "trainer.epochs=1")) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    state = rng_state()
    first = (torch.rand(3), np.random.rand(3), generator(1, "x").seed)
    set_rng_state(state)
    assert torch.equal(torch.rand(3), first[0])
    assert np.array_equal(np.random.rand(3), first[1])


# --- bad input -----------------------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture, code: int, part: str, *arguments: object) -> None:
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1, error


def test_bad_data_ends_with_3_and_no_run_folder(coco_dir: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    missing = coco(tmp_path / "nowhere", folder)
    fails(capsys, 3, "TinyCOCO was not found", *missing)
    images, labels = make_pixels(200, 10)
    labels[17] = 10
    write_pickle(tmp_path / "bad" / "tinycoco.pkl", {"images": images, "labels": labels})
    fails(capsys, 3, "label 10 at index 17 is outside 0 to 9", *coco(tmp_path / "bad", folder))
    assert not folder.exists()


def test_bad_places_end_with_5(coco_dir: Path, tmp_path: Path, finished: Path, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    fails(capsys, 5, "cannot make the run folder", *coco(coco_dir, tmp_path / "file"))
    fails(capsys, 5, "cannot make the run folder", *coco(coco_dir, tmp_path / "file" / "below"))
    before = contents(finished)
    fails(capsys, 5, "already holds a run", *coco(coco_dir, finished))
    assert contents(finished) == before


def test_bad_requests(coco_dir: Path, tmp_path: Path, capsys) -> None:
    fails(capsys, 2, "give a config with -c, or a checkpoint")
    fails(capsys, 2, "-r auto needs -c", "-r", "auto")
    fails(capsys, 2, "give -c to start one there", "-r", "auto", "--run-dir", tmp_path)
    fails(capsys, 2, "cannot read the config", "-c", tmp_path / "nowhere.json")
    fails(capsys, 4, "is not there", "-r", tmp_path / "nowhere.pth")
    fails(capsys, 2, "is no path", *coco(coco_dir, tmp_path / "r", "data_loader.args.data_dir=~no_such_user/x"))
    fails(capsys, 2, "must not hold the control character \\x00", "-c", "a\0b")
    fails(capsys, 4, "is a folder", "-r", tmp_path)
    (tmp_path / "text.pth").write_text("text")
    fails(capsys, 4, "not a checkpoint", "-r", tmp_path / "text.pth")
    fails(capsys, 2, "data_loader.args.subset: 999", *coco(coco_dir, tmp_path / "r", "data_loader.args.subset=999"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_an_error(coco_dir: Path, tmp_path: Path, capsys) -> None:
    fails(capsys, 2, "0 CUDA devices", *coco(coco_dir, tmp_path / "run"), "-d", "cuda")
    for name in ("cuda:1", "tpu", "meta", "mps"):
        with pytest.raises(ConfigError):
            choose_device(name)
    assert choose_device(None).type in ("cpu", "mps")


def test_debug_shows_the_traceback(tmp_path: Path, capsys) -> None:
    assert run("-c", tmp_path / "nowhere.json", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_programs_turn_faults_into_exit_codes(capsys: pytest.CaptureFixture) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def full() -> None:
        raise OSError(28, "No space left on device")

    def surprise() -> None:
        raise RuntimeError("two\nlines\0")

    assert run_program(interrupt, []) == 130
    assert run_program(full, []) == 5
    assert "No space left" in capsys.readouterr().err
    assert run_program(surprise, []) == 1
    assert capsys.readouterr().err == "error: RuntimeError: two lines\\x00 (--debug shows where)\n"


# --- --check and test.py -------------------------------------------------------------------------------------------


ONE_OF_EACH = (("bn", 0), ("conv", 10), ("bncn", 20))
OTHERS = [case for case in itertools.product(("bn", "conv", "bncn"), (0, 10, 20)) if case not in ONE_OF_EACH]
configs = pytest.mark.parametrize(
    "cases", [ONE_OF_EACH, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["each arm and noise", "the others"]
)
Cases = Sequence[tuple[str, int]]


def check_all(data: str, cases: Cases, data_dir: Path, splits: str, capsys: pytest.CaptureFixture) -> None:
    for arm, noise in cases:
        name = f"{data}_{arm}_{noise}noise"
        config = ROOT / "configs" / f"{name}.json"
        assert run("-c", config, "--check", f"data_loader.args.data_dir={data_dir}", *SMALL) == 0
        out = capsys.readouterr().out
        assert splits in out
        assert f'"name": "{name}"' in out
        for part in ("channel mean", "channel std", "parameters", "forward and backward", "estimated time"):
            assert part in out
        assert f"({noise}.00%)" in out.split("label noise on train")[1].splitlines()[0]


@configs
def test_check_of_every_coco_config(coco_dir: Path, cases: Cases, capsys: pytest.CaptureFixture) -> None:
    check_all("coco", cases, coco_dir, "splits: train 80, val 10, test 10", capsys)


@configs
def test_check_of_every_exdark_config(exdark_dir: Path, cases: Cases, capsys: pytest.CaptureFixture) -> None:
    check_all("exdark", cases, exdark_dir, "splits: train 240, val 30, test 30", capsys)


@configs
def test_check_of_every_cifar10_config(trusted_cifar10: Path, cases: Cases, capsys: pytest.CaptureFixture) -> None:
    check_all("cifar10", cases, trusted_cifar10, "splits: train 450, val 50, test 100", capsys)


def test_check_leaves_nothing_behind(coco_dir: Path, tmp_path: Path, capsys) -> None:
    assert run(*coco(coco_dir, tmp_path / "run"), "--check") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["coco_bn_0noise", "exdark_conv_10noise"])
def test_without_data_the_missing_file_is_named(name: str, tmp_path: Path) -> None:
    done = program("train.py", "-c", f"configs/{name}.json", "--check", f"data_loader.args.data_dir={tmp_path}")
    assert done.returncode == 3
    assert f"there is no {tmp_path}/tiny" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.pictures
def test_test_py_prints_and_saves_the_figures(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    done = program("test.py", "-r", str(folder / "checkpoint-epoch3.pth"), "-d", "cpu")
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "checkpoint-epoch3-test.json").read_text())
    last = rows(folder)[-1]
    for key in ("test_loss", "test_accuracy", "test_top5_accuracy"):
        assert report[key] == pytest.approx(float(last[key]), rel=1e-5)
    matrix = np.array(report["confusion_matrix"])
    assert matrix.sum() == report["images"] == 10
    assert np.trace(matrix) / matrix.sum() == pytest.approx(report["test_accuracy"])
    for label, share in enumerate(report["per_class_accuracy"].values()):
        assert share == pytest.approx(matrix[label, label] / matrix[label].sum())
    assert (folder / "checkpoint-epoch3-confusion.png").read_bytes().startswith(b"\x89PNG")
    assert f"accuracy           {report['test_accuracy']:.2%}" in done.stdout


def test_test_py_records_how_the_figures_were_made(finished: Path, coco_dir: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(finished, tmp_path / "run") / "model_best.pth"

    def told(*more: object) -> dict[str, Any]:
        assert call("test.py", "-r", checkpoint, "-d", "cpu", *more).code == 0
        return json.loads(checkpoint.with_name("model_best-test.json").read_text())

    plain, coarse = told(), told("trainer.amp=bf16", "--data-dir", coco_dir)
    assert (plain["overrides"], plain["device"]) == ([], "cpu")
    assert coarse["overrides"] == ["trainer.amp=bf16", f'data_loader.args.data_dir="{coco_dir}"']
    assert coarse["test_loss"] != plain["test_loss"]


def test_test_py_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04 and then nothing")
    done = program("test.py", "-r", str(tmp_path / "bad.pth"))
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)


def test_a_folder_of_images_trains(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", each=20)
    options = ("data_loader.type=ImageFolder", f"data_loader.args.data_dir={folder}", "trainer.epochs=1")
    assert run(*coco(folder, tmp_path / "run", *options)) == 0
    assert (tmp_path / "run" / "model_best.pth").exists()


@pytest.mark.slow
def test_the_demo_config_learns_the_digits(tmp_path: Path) -> None:
    """A third of the demo's width and half its epochs: still far above chance."""
    config = ROOT / "configs" / "demo.json"
    assert run("-c", config, "--run-dir", tmp_path / "demo", "arch.args.width=5", "trainer.epochs=3") == 0
    assert float(rows(tmp_path / "demo")[-1]["test_accuracy"]) > 0.8


@pytest.mark.slow
def test_the_demo_reaches_what_the_readme_says(tmp_path: Path) -> None:
    done = fresh_program("train.py", "-c", "configs/demo.json", f"trainer.save_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"test accuracy after epoch 6: ([\d.]+)%", done.stdout)[1])
    assert accuracy >= 90.0
    assert re.search(rf"run folder: {tmp_path}/demo/\S+\n", done.stdout)
    assert re.search(rf"tensorboard\S* --logdir {tmp_path}/demo/\S+\n$", done.stdout)


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_slow_to_import_waits_until_after_the_first_step(tmp_path: Path) -> None:
    _, imported = first_step(ROOT, "configs/demo.json")
    assert imported == "none"


@pytest.mark.parametrize("own", ["", "GOMP_SPINCOUNT=7", "OMP_WAIT_POLICY=ACTIVE", "KMP_BLOCKTIME=1"])
def test_threads_spin_within_a_bound_unless_the_user_has_said_otherwise(own: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\natexit.register(lambda: print('spins', os.environ.get('GOMP_SPINCOUNT')))"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_", "KMP_"))}
    environment = {**kept, "PYTHONPATH": str(tmp_path), **dict(filter(None, [own.split("=") if own else None]))}
    command = [sys.executable, "report.py", "--help"]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60).stdout
    wanted = {"": "100000", "GOMP_SPINCOUNT=7": "7"}.get(own, "None")
    assert out.splitlines()[-1] == f"spins {wanted}"


def test_a_run_goes_on_after_its_file_has_come_to_name_its_classes(tmp_path: Path, capsys) -> None:
    images, labels = make_pixels(100, 10)
    values = {"images": images, "labels": labels}
    file, folder = tmp_path / "tinycoco.pkl", tmp_path / "run"
    write_pickle(file, values)
    assert run(*coco(tmp_path, folder, "trainer.epochs=1")) == 0
    own = [f"kind {label}" for label in range(10)]
    write_pickle(file, {**values, "classes": own})
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=2") == 0
    assert read(folder / "checkpoint-epoch2.pth")["classes"] == own
    assert call("test.py", "-r", folder / "checkpoint-epoch1.pth").code == 0
    capsys.readouterr()
    for names, shown in (([*own, "more"], "'kind 7' and 3 more"), (own[::-1], "'kind 9', 'kind 8'")):
        write_pickle(file, {**values, "classes": names})
        assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=3") == 4
        said = capsys.readouterr().err
        assert "it was trained on classes of other names, 'kind 0'" in said
        assert shown in said
