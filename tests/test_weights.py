"""train.py --weights: a new run that starts from trained weights."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.build import build_model
from parse_config import load_config
from tests.conftest import same_tree
from tests.runs import coco, final_state, rows, run
from trainer.checkpoint import read
from trainer.weights import read_weights, start_from
from utils.errors import CheckpointError

HEAD = {"head.weight", "head.bias"}


@pytest.fixture
def best(finished: Path, tmp_path: Path) -> Path:
    """The best checkpoint of another run."""
    return Path(shutil.copy(finished / "model_best.pth", tmp_path / "best.pth"))


def started(weights: Any, config: Any, classes: tuple[str, ...], size: int) -> tuple[dict[str, Any], dict, list[str]]:
    """A new network's state before it starts from `weights`, the state after, and what is said."""
    model = build_model(config, len(classes))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = SimpleNamespace(dataset=SimpleNamespace(classes=classes), image_size=(size, size))
    lines = start_from(weights, model, config, data)
    return before, model.state_dict(), lines


def test_a_run_starts_from_weights_and_can_be_repeated(best: Path, coco_dir: Path, tmp_path: Path, capsys) -> None:
    arguments = coco(coco_dir, tmp_path / "new", "trainer.epochs=2", noise=0)
    assert run(*arguments, "--check", "--weights", best) == 0
    assert f"started from the weights of {best}" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert run(*arguments, "--weights", best) == 0
    assert f"started from the weights of {best}" in capsys.readouterr().out
    noted = json.loads((tmp_path / "new" / "config.json").read_text())["weights"]
    assert noted == {"path": str(best), "sha256": sha256(best.read_bytes()).hexdigest()}
    assert [row["epoch"] for row in rows(tmp_path / "new")] == ["1", "2"]
    # From its config.json, and, once it is under way, without the file.
    again = ["-c", tmp_path / "new" / "config.json", "--run-dir", tmp_path / "again"]
    assert run(*again, "trainer.epochs=1") == 0
    best.write_bytes((tmp_path / "new" / "checkpoint-epoch2.pth").read_bytes())
    capsys.readouterr()
    assert run("-c", tmp_path / "new" / "config.json", "--run-dir", tmp_path / "other") == 4
    assert "its SHA-256 is" in capsys.readouterr().err
    best.unlink()
    assert run("-r", "auto", "--run-dir", tmp_path / "again", "trainer.epochs=2") == 0
    assert rows(tmp_path / "again") == rows(tmp_path / "new")
    assert same_tree(final_state(tmp_path / "again", 2)["model"], final_state(tmp_path / "new", 2)["model"]) == []


def test_other_data_get_a_new_head(best: Path, exdark_dir: Path, coco_dir: Path, tmp_path: Path, capsys) -> None:
    exdark = ("data_loader.type=TinyExDark", f"data_loader.args.data_dir={exdark_dir}", "trainer.epochs=1")
    assert run(*coco(coco_dir, tmp_path / "run", *exdark), "--weights", best) == 0
    said = capsys.readouterr().out
    assert "the head is new: the weights are for 10 classes (cat, dog" in said
    assert "the data have 12 classes (Bicycle" in said
    weights, config = read_weights(best), load_config(tmp_path / "run" / "config.json")
    before, after, lines = started(weights, config, tuple("abcdefghijkl"), 32)
    assert {key for key in after if torch.equal(after[key], before[key])} >= HEAD
    assert same_tree({**after, **dict.fromkeys(HEAD)}, {**weights.model, **dict.fromkeys(HEAD)}) == []
    # Other names of as many classes are other classes; the same ones keep the head.
    renamed = (*weights.classes[:-1], "tables")
    assert len(started(weights, config, renamed, 32)[2]) == 2
    _, after, lines = started(weights, config, weights.classes, 32)
    assert len(lines) == 1
    assert same_tree(dict(after), dict(weights.model)) == []


@pytest.mark.parametrize("arm", ["bncn", "conv_published"])
def test_running_estimates_of_another_image_size_start_anew(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    assert run(*coco(coco_dir, tmp_path / "run", "trainer.epochs=1", arm="bncn"), f"arch.args.norm={arm}") == 0
    weights, config = read_weights(tmp_path / "run"), load_config(tmp_path / "run" / "config.json")
    for size, kept in ((32, True), (16, False), (33, False)):
        before, after, lines = started(weights, config, weights.classes, size)
        assert any("running estimates start anew: images were 32x32" in line for line in lines) != kept
        estimates = {key for key in after if key.endswith("running_preconditioner")}
        for key, value in after.items():
            layer = key.rpartition(".")[0]
            new = (
                not kept
                and f"{layer}.running_preconditioner" in estimates
                and weights.model[f"{layer}.weight"].shape[2] > 1
            )
            if new and key.endswith(("running_preconditioner", f"{layer}.num_batches_tracked")):
                assert torch.equal(value, before[key]), key
                assert after._metadata[layer] == {"version": 1}
            else:
                assert torch.equal(value, weights.model[key]), key
    older = replace(weights, preprocess=None)  # every image was 32x32 then
    assert len(started(older, config, weights.classes, 32)[2]) == 1
    assert len(started(older, config, weights.classes, 40)[2]) == 2


def test_what_does_not_fit_is_named(best: Path, coco_dir: Path, tmp_path: Path, capsys) -> None:
    place = tmp_path / "run"

    def refused(code: int, *parts: str, more: tuple[object, ...] = ("--weights", best)) -> None:
        assert run(*coco(coco_dir, place), *more) == code
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert all(part in said for part in parts), said
        assert not place.exists()

    differs = ("arch.args.width=8", "arch.args.norm=gn", "arch.type=resnet34", "arch.args.activation=srelu")
    refused(
        4,
        *("arch.args.width 4 -> 8", 'arch.args.norm "bn" -> "gn"', "resnet34", "srelu"),
        more=("--weights", best, *differs),
    )
    refused(2, "--weights starts a new run, and -r goes on with one", more=("--weights", best, "-r", best))
    refused(2, "--weights starts a new run", more=("--weights", best, "-r", "auto"))
    refused(4, "not there", more=("--weights", tmp_path / "gone.pth"))
    refused(2, "weights.sha256", more=(f"weights.path={best}", "weights.sha256=abc"))
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 100)
    refused(4, "not a weights-only file", more=("--weights", tmp_path / "x.safetensors"))
    data = bytearray(best.read_bytes())
    data[5000] ^= 1
    best.write_bytes(data)
    refused(4, "checksum mismatch")


def test_the_weights_of_a_checkpoint_that_was_made_up(best: Path) -> None:
    """Its config is right, and its tensors are of another form."""
    weights, state = read_weights(best), read(best)
    for change in ({"head.weight": torch.zeros(3)}, {"more": torch.zeros(3)}, {"head.bias": 3}):
        wrong = replace(weights, model={**state["model"], **change})
        with pytest.raises(CheckpointError):
            started(wrong, weights.config, weights.classes, 32)
