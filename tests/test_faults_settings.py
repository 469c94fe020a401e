"""Settings that are hostile, large or of another type, and settings changed at a resume. The numbers are those of
docs/faults.md."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from config_schema import NO_RESULT_DEPENDS_ON, types_of
from grids.plan import load_grid
from grids.slurm import _ALLOWED, _SET_BY_GRID, _executor, parameters_of
from models.compiled import compiled
from parse_config import Config, load_config, parse_overrides, validate
from tests.conftest import ROOT, same_tree
from tests.faults import little_memory_for_a_step
from tests.runs import Started, call, coco, contents, evaluate, final_state, launch, one_line, rows, run
from tests.test_grid import write_grid
from tests.test_train import StoppingTrainer
from trainer.changes import ORDER, changes, check_function, check_order, report_lines
from trainer.checkpoint import read
from trainer.checkpoint_file import pack
from trainer.trainer import Trainer
from utils.errors import CheckpointError, ConfigError
from utils.files import user_path
from utils.keys import nested

DEMO = ROOT / "configs" / "demo.json"
CONTROL = ["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\u2029"]

# --- 48 ------------------------------------------------------------------------------------------------------------


def with_losses(finished: Path, folder: Path, losses: list[float]) -> Path:
    """A copy of the run of three epochs whose checkpoints say these validation losses."""
    shutil.copytree(finished, folder)
    for path in folder.glob("*.pth"):
        state = read(path)
        for row, loss in zip(state["history"], losses, strict=False):
            row["val_loss"] = loss
        path.write_bytes(pack(state))
    return folder


MIN_LOSS = ("trainer.monitor=min val_loss", "trainer.epochs=4")


def test_48_the_best_epoch_is_in_no_checkpoint(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = with_losses(finished, tmp_path / "run", [1e-6, 1.0, 2.0])
    shutil.copy(folder / "checkpoint-epoch3.pth", folder / "model_best.pth")  # whatever was best, epoch 1 is in none
    (folder / "model_best.pth.abandoned").write_text("of an earlier time")
    best = (folder / "model_best.pth").read_bytes()
    assert run("-r", "auto", "--run-dir", folder, *MIN_LOSS) == 0
    out = capsys.readouterr().out
    aside = folder / "model_best.pth.abandoned-2"
    told_ = "epoch 1 is best by min val_loss, and no checkpoint holds it; the one that was best before is now "
    assert f"{told_}{aside}\n" in out
    assert told_ in (folder / "train.log").read_text()
    assert aside.read_bytes() == best
    assert (folder / "model_best.pth.abandoned").read_text() == "of an earlier time"
    state = final_state(folder, 4)
    assert (state["best"], state["epochs_since_best"]) == (1e-6, 3)
    assert not (folder / "model_best.pth").exists(), "no epoch was better"


def test_48_the_best_epoch_is_in_a_checkpoint(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    best = 2 if read(finished / "model_best.pth")["epoch"] == 3 else 3
    folder = with_losses(finished, tmp_path / "run", [1.0, *((1e-6, 2.0) if best == 2 else (2.0, 1e-6))])
    assert run("-r", "auto", "--run-dir", folder, *MIN_LOSS) == 0
    told_ = f"epoch {best} is best by min val_loss: {folder / 'model_best.pth'} is a copy of "
    assert told_ in capsys.readouterr().out
    assert read(folder / "model_best.pth")["epoch"] == best
    assert final_state(folder, 4)["epochs_since_best"] == 4 - best


def test_48_an_early_stop_counts_by_the_new_monitor(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = with_losses(finished, tmp_path / "run", [1e-6, 1.0, 2.0])
    before = contents(folder, "checkpoint*")
    assert run("-r", "auto", "--run-dir", folder, *MIN_LOSS, "trainer.early_stop=2") == 0
    assert "nothing to do: the run has stopped early: no better val_loss in 2 epochs" in capsys.readouterr().out
    assert contents(folder, "checkpoint*") == before


def test_48_the_same_monitor_changes_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    before = contents(folder, "*.pth")
    assert run("-r", "auto", "--run-dir", folder) == 0
    assert contents(folder, "*.pth") == before
    assert "is best by" not in capsys.readouterr().out


# --- 50 ------------------------------------------------------------------------------------------------------------


def texts(block: Any = Config, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The settings that take any text, rather than one of some names."""
    found = []
    for key, field in block.model_fields.items():
        below = types_of(field.annotation)
        if below:
            found += [text for each in below for text in texts(each, (*path, key))]
        elif "str" in str(field.annotation).replace("NoneType", "") and not any(
            word in str(field.annotation) for word in ("Literal", "dict")
        ):
            found.append((*path, key))
    return found


def test_50_the_texts_of_a_config() -> None:
    assert {".".join(path) for path in texts()} == {
        *("name", "arch.type", "data_loader.args.data_dir", "label_noise.path", "label_noise.key"),
        *("trainer.save_dir", "trainer.device", "trainer.monitor", "weights.path", "weights.sha256"),
    }


@pytest.mark.parametrize("path", texts(), ids=".".join)
def test_50_a_control_character_in_a_text(path: tuple[str, ...]) -> None:
    for char in CONTROL:
        values: Any = f"max val_loss{char}touch x" if path[-1] == "monitor" else f"a{char}touch x"
        if path[0] == "arch":
            values = f"timm/{values}"
        for key in reversed(path):
            values = {key: values}
        if path[0] == "label_noise":
            values["label_noise"] = {"type": "file", "path": "a.npz"} | values["label_noise"]
        if path[0] == "weights":
            values["weights"] = {"path": "a.pth"} | values["weights"]
        with pytest.raises(ConfigError, match=f"^test: 1 problem: .*{path[-1]}: (must|String should match pattern)"):
            validate({"name": "x"} | values, "test")


def test_50_a_control_character_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    requests = (
        ["-c", "a\nb.json"],
        ["-c", DEMO, "--run-dir", f"{tmp_path}/a\nb", "--check"],
        ["-r", f"{tmp_path}/a\u2028b/x.pth"],
        ["-c", DEMO, f"trainer.save_dir={tmp_path}/a\rb"],
    )
    for request in requests:
        assert run(*request) == 2
        error = capsys.readouterr().err
        assert "must not hold the control character \\" in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_50_a_character_that_no_path_has(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    for values, place in (
        ({"trainer": {"save_dir": "a\ud800"}}, "trainer.save_dir: "),
        ({"data_loader": {"args": {"data_dir": "\ud800"}}}, "data_loader.args.data_dir: "),
        ({"weights": {"path": "\ud800.pth"}}, "weights.path: "),
        ({"_base_": "\ud800"}, "a file name "),
    ):
        config.write_text(json.dumps({"_base_": str(DEMO), **values}))
        one_line(call("train.py", "-c", config), 2, f"{place}must not hold the character \\ud800")
    assert list(tmp_path.iterdir()) == [config]
    with pytest.raises(ConfigError, match="it must not hold the character"):
        user_path("\ud800")


def cluster(place: Path) -> dict[str, str]:
    """The environment of a machine whose sbatch runs the script at once, here."""
    (place / "bin").mkdir()
    for name, script in (("sbatch", 'bash "$1"; echo Submitted batch job 7'), ("srun", "true"), ("squeue", "true")):
        program = place / "bin" / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("way", ["save_dir", "working directory", "link", "comment", "setup", "grid file"])
def test_50_a_line_that_would_run_on_the_node(coco_dir: Path, tmp_path: Path, way: str) -> None:
    mark, place, more = tmp_path / "mark", tmp_path, []
    line = f"\nexec >{'_'.join(['x'] * 2)}; touch $MARK\n"
    path = write_grid(tmp_path, coco_dir)
    if way == "save_dir":
        path = write_grid(tmp_path, coco_dir, save_dir=f"saved{line}")
    elif way == "working directory":
        place = tmp_path / line
        place.mkdir()
        path = write_grid(tmp_path, coco_dir, save_dir="saved")
    elif way == "link":
        (tmp_path / line).mkdir()
        (tmp_path / "saved").symlink_to(tmp_path / line)
    elif way == "grid file":
        path = path.rename(tmp_path / f"grid{line}.json")
    else:
        more = ["--slurm", f"{way}=x{line}"]
    argv = [sys.executable, str(ROOT / "grid.py"), str(path), "--executor", "slurm", *more]
    environment = cluster(tmp_path) | {"MARK": str(mark)}
    ended = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ("it is the grid's" if way == "setup" else "must not hold the control character \\n") in ended.stderr
    assert not mark.exists()


def test_50_what_a_shell_would_read_is_quoted(coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    evil = f"$(touch {mark}) `touch {mark}` ' \" ; touch {mark} #".replace("/", "${PWD:0:1}")
    environment = cluster(tmp_path)
    monkeypatch.setenv("PATH", environment["PATH"])
    grid = load_grid(write_grid(tmp_path, coco_dir, save_dir=f"{tmp_path}/{evil}"))
    parameters = parameters_of([f"{key}={evil}" for key in ("partition", "comment", "signal_delay_s", "exclusive")])
    script = _executor(grid, "name", 1, parameters)._make_submission_file_text("true", "uid")
    assert script.count("$(touch ") >= 5, "it holds them all, and runs none"
    subprocess.run(["bash"], input=script, cwd="/", env=environment, text=True, check=True)
    assert not mark.exists()


def test_50_every_parameter_of_submitit_is_known() -> None:
    from submitit.slurm.slurm import _get_default_parameters

    assert set(_ALLOWED) | _SET_BY_GRID.keys() == _get_default_parameters().keys()


def test_50_a_grid_s_keys(coco_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'trainer\.save_dir=x' is no key of a setting"):
        load_grid(write_grid(tmp_path, coco_dir, settings={"trainer.save_dir=x": 1}))


# --- 55 ------------------------------------------------------------------------------------------------------------


def test_55_each_shape_has_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order of the shapes, and for as many of them as a run has."""
    seen: list[tuple[int, ...]] = []

    def backend(graph: nn.Module, inputs: list[torch.Tensor]) -> nn.Module:
        seen.append(tuple(inputs[-1].shape))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    sizes = [31, 5, 31, *range(6, 13)]  # nine; torch's own limit is eight
    for order in (sizes, sizes[::-1]):
        torch._dynamo.reset()
        seen.clear()
        network = compiled(nn.Flatten(), True, torch.device("cpu"))
        for size in order:
            network(torch.ones(size, 1, 2))
        assert seen == list(dict.fromkeys((size, 1, 2) for size in order))


def _stop_after(steps: int) -> None:
    original = Trainer.__init__

    def stopping(self: Trainer, *args: Any) -> None:
        original(self, *args)
        self.train_step = StoppingTrainer(self, steps)

    Trainer.__init__ = stopping


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_55_a_compiled_run_stopped_after_an_odd_batch_goes_on_bit_for_bit(coco_dir: Path, tmp_path: Path) -> None:
    """Five batches of 7 and one of 5; each process compiles on its own, and meets the two in another order."""
    options = ("trainer.compile=true", "trainer.epochs=2", "data_loader.args.batch_size=7")
    assert Started(coco(coco_dir, tmp_path / "a", *options), tmp_path).end(1200).code == 0
    stopped = Started(coco(coco_dir, tmp_path / "b", *options), tmp_path, [partial(_stop_after, 8)]).end(1200)
    assert stopped.code == 143
    assert (tmp_path / "b" / "checkpoint-epoch2-batch2.pth").exists()
    assert Started(["-r", "auto", "--run-dir", tmp_path / "b"], tmp_path).end(1200).code == 0
    assert same_tree(final_state(tmp_path / "a", 2), final_state(tmp_path / "b", 2)) == []


# --- 56 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def within(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped after the second batch of its second epoch, GroupNorm in it; read only."""
    folder = tmp_path_factory.mktemp("within") / "run"
    original = Trainer.__init__
    try:
        _stop_after(7)
        assert run(*coco(coco_dir, folder, "arch.args.norm=gn", "trainer.epochs=2")) == 143
    finally:
        Trainer.__init__ = original
    return folder


@pytest.mark.parametrize(
    ("override", "part"),
    [
        (
            "data_loader.args.batch_size=10",
            "would not fit together: data_loader.args.batch_size 8 -> 10; set it back, or ",
        ),
        ('metrics=["accuracy"]', 'together: metrics ["accuracy", "top5_accuracy"] -> ["accuracy"]; set it back'),
        ("seed=13", "set "),  # which other splits are refused for as well
    ],
)
def test_56_another_order_within_an_epoch(
    within: Path, tmp_path: Path, capsys: pytest.CaptureFixture, override: str, part: str
) -> None:
    folder = shutil.copytree(within, tmp_path / "run")
    before = contents(folder)
    assert run("-r", "auto", "--run-dir", folder, override) == 4
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert contents(folder) == before


def test_56_another_batch_size_at_an_epoch_s_end(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    more = ("data_loader.args.batch_size=10", "trainer.epochs=4")
    assert run("-r", "auto", "--run-dir", folder, *more) == 0
    assert "changed since: data_loader.args.batch_size 8 -> 10, trainer.epochs 3 -> 4\n" in capsys.readouterr().out
    assert final_state(folder, 4)["global_step"] == 3 * 5 + 4
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=5") == 0, "its steps are of two sizes"
    assert len(rows(folder)) == 5


def test_56_another_number_of_processes_within_an_epoch() -> None:
    """160 images in batches of 31 leave 5, which join the batch before where three processes share them."""
    config = load_config(ROOT / "configs" / "coco_bn_0noise.json", ["data_loader.args.batch_size=31"])
    state = {"epoch": 1, "batch": 5, "environment": {"world_size": 3}}
    with pytest.raises(CheckpointError, match="world_size 3 -> 1; set it back"):
        check_order(state, {}, config, 160, 1, "test")
    check_order({**state, "batch": 0}, {}, config, 160, 1, "test")
    check_order({**state, "environment": {"world_size": 2}}, {}, config, 160, 1, "test")


@pytest.mark.parametrize("override", ["arch.args.norm=ln", "arch.args.num_classes=12", "arch.args.activation=srelu"])
def test_56_another_model_with_the_same_weights(within: Path, tmp_path: Path, override: str) -> None:
    folder = shutil.copytree(within, tmp_path / "run")
    before = contents(folder)
    why = "is of another model" if "norm" in override else "is of another architecture"
    one_line(launch(tmp_path, "-r", "auto", "--run-dir", folder, override), 4, why)
    assert contents(folder) == before
    if "norm" in override:
        one_line(evaluate(tmp_path, "-r", folder / "checkpoint-epoch1.pth", override), 4, "arch.args.norm")


def test_56_what_is_null_may_be_said(within: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(within, tmp_path / "run")
    assert run("-r", "auto", "--run-dir", folder, "arch.args.num_classes=10") == 0


def test_56_what_else_has_changed_is_one_line(within: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(within, tmp_path / "run")
    changed = {
        "loss.type": ("cross_entropy", "smoothed_cross_entropy"),
        "loss.args.smoothing": (None, 0.2),
        "trainer.amp": (None, "bf16"),
        "data_loader.args.augment.crop_padding": (4, 0),
        "optimizer.args.momentum": (0.9, 0.5),
    }
    overrides = [f"{key}={json.dumps(now)}" for key, (_, now) in changed.items()]
    places = [f"trainer.save_dir={tmp_path}", "trainer.tensorboard=false", "name=other"]
    assert run("-r", "auto", "--run-dir", folder, *overrides, *places) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed since: ")]
    assert len(lines) == 1
    assert set(lines[0].removeprefix("changed since: ").split(", ")) == {
        f"{key} {json.dumps(before)} -> {json.dumps(now)}"
        for key, (before, now) in {**changed, "loss.args.label_smoothing": (0.0, None)}.items()
    }
    assert lines[0] in (folder / "train.log").read_text()


def test_a_setting_that_only_one_type_has_is_told() -> None:
    cosine = load_config(DEMO)
    step = load_config(DEMO, ["lr_scheduler.type=StepLR", "lr_scheduler.args.step_size=2"])
    assert changes(step, cosine) == {
        "lr_scheduler.type": ("StepLR", "CosineAnnealingLR"),
        "lr_scheduler.args.step_size": (2, None),
        "lr_scheduler.args.gamma": (0.1, None),
        "lr_scheduler.args.eta_min": (None, 0.0),
        "lr_scheduler.args.by": (None, "epoch"),
    }


def test_56_settings_that_allow_no_step_are_not_kept(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    resume = ("-r", "auto", "--run-dir", folder, "trainer.epochs=4")
    one_line(launch(tmp_path, *resume, prepare=[little_memory_for_a_step]), 2, "error: out of memory")
    assert contents(folder)["config.json"] == contents(finished)["config.json"]
    assert run(*resume) == 0
    assert load_config(folder / "config.json").trainer.epochs == 4
    assert run(*resume[:-1], "trainer.epochs=3") == 0, "nothing is left to do"
    assert load_config(folder / "config.json").trainer.epochs == 3


def test_56_weights_to_start_from_are_refused(finished: Path, tmp_path: Path, coco_dir: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    given = json.dumps({"path": str(finished / "model_best.pth")})
    ended = call("train.py", "-r", "auto", "--run-dir", folder, f"weights={given}", "trainer.epochs=4")
    one_line(ended, 2, "weights start a new run, and -r goes on with one: weights.path null -> ", "start a new run")
    assert contents(folder) == contents(finished)
    command = [*coco(coco_dir, tmp_path / "new", f"weights={given}", "trainer.epochs=1"), "-r", "auto"]
    assert run(*command) == run(*command) == 0, "a grid says the same each time"


def test_56_no_setting_falls_through() -> None:
    """Each is refused, told, or one of a machine and its places; a new one is told."""
    config = load_config(DEMO)
    state = {"epoch": 1, "batch": 1, "history": [], "environment": {}}
    for key, value in config.settings().items():
        since = {key: (value, "changed")}
        lines = report_lines(since, config, config, state, 5)
        assert lines == [] if key in NO_RESULT_DEPENDS_ON else lines[0].startswith(f"changed since: {key} "), key
        for refused, check in (
            (key.startswith("arch."), partial(check_function, since, 10, "test")),
            (key in ORDER, partial(check_order, state, since, config, 160, 1, "test")),
        ):
            with pytest.raises(CheckpointError) if refused else contextlib.nullcontext():
                check()
    assert {*ORDER, *NO_RESULT_DEPENDS_ON} <= config.settings().keys()


# --- 63 ------------------------------------------------------------------------------------------------------------

LOST = (
    'optimizer.type is AdamW in place of "SGD": optimizer.args.lr 0.025 is not inherited, it is now 0.1; '
    "optimizer.args.weight_decay 0.0001 is not inherited, it is now 0.0\n"
)


def test_63_another_optimizer_over_a_config(coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    more = ("optimizer.type=AdamW", "trainer.epochs=1")
    for how in (["--check"], []):
        assert run(*coco(coco_dir, tmp_path / "run", *more), *how) == 0
        assert capsys.readouterr().out.count(LOST) == 1
    assert LOST in (tmp_path / "run" / "train.log").read_text()
    assert rows(tmp_path / "run")[0]["lr"] == "0.1"


def test_63_what_is_said_for_the_new_type_is_not_told(tmp_path: Path) -> None:
    base = ROOT / "configs" / "coco_bn_0noise.json"
    said = ["optimizer.type=AdamW", "optimizer.args.lr=0.001", "optimizer.args.weight_decay=0"]
    assert load_config(base, said).remarks == ()
    assert load_config(base, ["optimizer.type=SGD"]).remarks == ()
    step = ["lr_scheduler.type=StepLR", "lr_scheduler.args.step_size=3"]
    assert load_config(base, step).remarks == (), "its gamma is the default"
    (remark,) = load_config(ROOT / "configs" / "as_published" / "coco_bn_0noise.json", step).remarks
    assert remark.startswith(
        'lr_scheduler.type is StepLR in place of "MultiStepLR": lr_scheduler.args.gamma 0.025 is not inherited, it is '
        "now 0.1"
    )
    (tmp_path / "c.json").write_text(json.dumps({"_base_": str(base), "optimizer": {"type": "Adam"}}))
    (remark,) = load_config(tmp_path / "c.json").remarks
    assert "optimizer.args.lr 0.025 is not inherited, it is now 0.1" in remark


def test_63_a_schedule_that_jumps(coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cosine = ("lr_scheduler.type=CosineAnnealingLR", "optimizer.args.lr=0.1", "trainer.epochs=2")
    folder = tmp_path / "run"
    arguments = [a for a in coco(coco_dir, folder, *cosine) if "milestones" not in a]
    assert run(*arguments) == 0
    capsys.readouterr()
    for how in (["--check"], []):
        assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=4", *how) == 0
        line = "lr of the next epoch is 0.05, it was to be 0, and the last epoch's was 0.05\n"
        assert line in capsys.readouterr().out
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=4") == 0
    assert "lr of" not in capsys.readouterr().out


def test_63_a_rate_that_changes_within_an_epoch(within: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(within, tmp_path / "run")
    assert run("-r", "auto", "--run-dir", folder, "optimizer.args.lr=0.01") == 0
    out = capsys.readouterr().out
    assert "changed since: optimizer.args.lr 0.025 -> 0.01\n" in out
    assert "lr of the epoch in progress is 0.01, it was 0.025\n" in out


# --- 70 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        *(("name=2024", "2024"), ("name=true", "true"), ("name=null", "null"), ("name=1e5", "1e5")),
        *(('name="2024"', "2024"), ("data_loader.args.data_dir=1e5", "1e5"), ("data_loader.args.data_dir=[1]", "[1]")),
        *(("label_noise.path=null", None), ("trainer.device=0", "0"), ("trainer.save_dir={}", "{}")),
        *(("trainer.amp=null", None), ("trainer.amp=bf16", "bf16"), ('trainer.device="null"', "null")),
    ],
)
def test_70_a_text_is_taken_as_it_stands(override: str, value: str | None) -> None:
    key = override.split("=")[0]
    assert parse_overrides([override]) == nested(key, value)
    assert load_config(DEMO, [override]).settings().get(key) == value


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        *(("optimizer.args.lr=.05", "write 0.05"), ("optimizer.args.lr=1.", "write 1.0")),
        *(("optimizer.args.lr=1e", "write a number as JSON has it"), ("optimizer.args.lr=False", "write a number as")),
        *(("optimizer.args.lr=None", "write a number as"), ("optimizer.args.momentum=None", "write null")),
        ("trainer.amp=None", "write null"),
        *(("optimizer.args.lr=0x10", "write 16.0"), ("optimizer.args.lr=1_000", "write 1000.0")),
        *(("optimizer.args.lr='0.05'", "write 0.05"), ('optimizer.args.lr="0.05"', "write 0.05")),
        *(
            ("trainer.epochs=1_000", "write 1000"),
            ("trainer.epochs=3.0", "write 3"),
            ("trainer.epochs=1e3", "write 1000"),
        ),
        *(("trainer.epochs=3.5", "write a whole number"), ("trainer.compile=True", "write true")),
        *(("trainer.compile=no", "write false"), ("trainer.compile=maybe", "write true or false")),
        *(("metrics=accuracy", 'write ["accuracy"]'), ('trainer={"save_dir": 5}', 'write "5"')),
        ('lr_scheduler={"type": "MultiStepLR", "args": {"milestones": "40,80"}}', "write [40, 80]"),
        ('optimizer={"type": "Adam", "args": {"betas": "(.9, .99)"}}', "write [0.9, 0.99]"),
    ],
)
def test_70_a_value_of_another_type_gets_a_hint(override: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, [override])
    assert str(caught.value).count("; " + hint) == 1, caught.value


@pytest.mark.parametrize(
    "override",
    [".".join("a" * 10_000) + "=1", "trainer=" + '{"a":' * 200 + "1" + "}" * 200, "name=" + "x" * 5_000_000],
    ids=["keys", "objects", "text"],
)
def test_70_an_override_without_bounds(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, [override])
    assert len(str(caught.value)) < 300


def test_70_a_key_with_control_characters(tmp_path: Path) -> None:
    one_line(launch(tmp_path, "-c", DEMO, "a\n\x1b[2J=1"), 2, "unknown key 'a\\n\\x1b[2J'")
    assert parse_overrides(["a.b=null"]) == {"a": {"b": None}}


# --- 72 ------------------------------------------------------------------------------------------------------------


def test_72_a_diamond_of_bases(tmp_path: Path) -> None:
    """Read as often as it is named, the last of 26 files would be read 33,554,432 times."""
    files = [tmp_path / f"{number}.json" for number in range(26)]
    for path, base in itertools.pairwise(files):
        path.write_text(json.dumps({"_base_": [base.name, base.name], "seed": len(path.name)}))
    files[-1].write_text('{"name": "last", "seed": 99}')
    assert load_config(files[0]).name == "last"


def test_72_a_later_base_still_wins(tmp_path: Path) -> None:
    """Of a shared base, too: what a file inherits counts where it is named last."""
    for name, values in {
        "root": {"name": "root", "seed": 1},
        "left": {"_base_": "root.json", "seed": 2},
        "right": {"_base_": "root.json", "name": "right"},
        "both": {"_base_": ["left.json", "right.json"]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    config = load_config(tmp_path / "both.json")
    assert (config.name, config.seed) == ("right", 1)


def test_72_more_bases_than_a_config_has(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "wide.json").write_text(json.dumps({"name": "x", "_base_": ["a.json"] * 10_000}))
    for number in range(1500):
        (tmp_path / f"{number}.json").write_text(json.dumps({"_base_": f"{number + 1}.json"}))
    for name in ("wide", "0"):
        with pytest.raises(ConfigError, match="inherits more than 100 times"):
            load_config(tmp_path / f"{name}.json")


@pytest.fixture(params=["fifo", "/dev/zero", "link loop", "large", "folder"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """What is no file to read, and what is said of it."""
    path = tmp_path / "no_file.json"
    if request.param == "fifo":
        os.mkfifo(path)
        return path, "it is no regular file"
    if request.param == "/dev/zero":
        path.symlink_to(request.param)
        return path, "it is no regular file"
    if request.param == "link loop":
        path.symlink_to(path)
        return path, "Too many levels of symbolic links"
    if request.param == "folder":
        path.mkdir()
        return path, "Is a directory"
    with open(path, "wb") as file:
        file.truncate(5 << 30)
    return path, "it is larger than 256 KiB"


def test_72_a_config_or_grid_that_is_no_file(no_file: tuple[Path, str], tmp_path: Path) -> None:
    path, says = no_file
    one_line(launch(tmp_path, "-c", path), 2, f"cannot read the config '{path}': {says}")
    (tmp_path / "c.json").write_text(json.dumps({"_base_": path.name, "name": "x"}))
    with pytest.raises(ConfigError, match=says.partition(" 256")[0]):
        load_config(tmp_path / "c.json")
    with pytest.raises(ConfigError, match=f"cannot read the grid '{path}': {says}"):
        load_grid(path)


@pytest.mark.parametrize("braces", ["{arm:>300000000}", "{arm!r}", "{0}", "{arm.x}", "{", "}", "{{arm}", "{ arm }"])
def test_72_only_plain_names_stand_in_braces(coco_dir: Path, tmp_path: Path, braces: str) -> None:
    with pytest.raises(ConfigError, match=r"only \{dataset\}, \{arm\} and \{noise\} may stand in braces"):
        load_grid(write_grid(tmp_path, coco_dir, config=f"configs/{braces}.json"))


def test_72_a_grid_of_millions_of_runs(coco_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which are more than 10,000"):
        load_grid(write_grid(tmp_path, coco_dir, seeds=list(range(20_000)), noise=list(range(101))))


def test_72_thousands_of_unknown_keys(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({f"key{number}": 1 for number in range(15_000)}))
    with pytest.raises(ConfigError, match=r"15001 problems: .*; \.\.\.$") as caught:
        load_config(tmp_path / "c.json")
    assert len(str(caught.value)) < 10_000


def test_72_metrics_that_are_a_pipe(coco_dir: Path, tmp_path: Path) -> None:
    from grids.progress import standing

    (cell, *_) = load_grid(write_grid(tmp_path, coco_dir)).cells
    cell.folder.mkdir(parents=True)
    os.mkfifo(cell.folder / "metrics.csv")
    assert standing(cell).epochs == 0
