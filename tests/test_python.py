"""train.run: runs from Python, in the process of the tests."""

import asyncio
import csv
import json
import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from data_loader.dataset import ImageDataset
from data_loader.python_dataset import as_image_dataset
from logger.log import NAME
from models.compiled import MOST_GRAPHS, compiled
from parse_config import as_overrides, load_config
from tests.conftest import ROOT, same_tree
from train import StopTraining, run
from trainer.from_python import Callback, in_this_process
from utils.errors import CheckpointError, ConfigError, DataError, FileSystemError, NonFiniteLossError, Stopped

CONFIG = ROOT / "configs" / "demo.json"


class Stripes:
    """40 images of 8x8: label 1 is bright."""

    classes: tuple[str, ...] = ("dark", "bright")

    def __init__(self, kind: Callable[[torch.Tensor], Any] = lambda image: image, count: int = 40) -> None:
        noise = torch.randint(0, 100, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.kind, self.images = kind, noise + (100 * (torch.arange(count) % 2)).view(-1, 1, 1, 1).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.kind(self.images[i]), i % 2


def settings(place: Path, **more: object) -> dict[str, object]:
    small = {"arch.args.width": 2, "arch.args.norm": "bn", "data_loader.args.batch_size": 16, "trainer.epochs": 3}
    shares = {"data_loader.args.validation_split": 0.2, "data_loader.args.test_split": 0.2}
    return {**small, **shares, "trainer.save_dir": place, "trainer.device": "cpu", **more}


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def as_before() -> list[object]:
    """What of the process a run must leave as it was."""
    log = logging.getLogger(NAME)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    modes = [torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), dict(os.environ)]
    draws = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    return [list(log.handlers), log.level, log.propagate, threading.active_count(), *handlers, *modes, *draws]


def test_a_run_has_the_results_of_its_folder_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    own = logging.NullHandler()
    logging.getLogger(NAME).addHandler(own)
    before, seen = as_before(), []
    result = run(CONFIG, settings(tmp_path, **{"trainer.deterministic": True}), dataset=Stripes(), on_epoch=seen.append)
    assert as_before() == before
    logging.getLogger(NAME).removeHandler(own)
    with open(result.folder / "metrics.csv") as file:
        reader = csv.DictReader(file)
        table = list(reader)
        assert [list(row) for row in result.history] == [reader.fieldnames] * 3
    assert [[f"{value:.8g}" for value in row.values()] for row in result.history] == [[*row.values()] for row in table]
    assert seen == result.history
    assert result.metrics == result.history[-1]
    state = torch.load(result.folder / "checkpoint-epoch3.pth", weights_only=True)
    assert same_tree(dict(result.model.state_dict()), dict(state["model"])) == []
    assert not result.model.training


def test_a_compiled_run_leaves_torch_s_limit_of_graphs_as_it_was() -> None:
    with torch._dynamo.config.patch(recompile_limit=8):
        with in_this_process(Callback(None)):
            compiled(torch.nn.Linear(2, 2), True, torch.device("cpu"))
            assert torch._dynamo.config.recompile_limit == MOST_GRAPHS
        assert torch._dynamo.config.recompile_limit == 8


def test_a_run_on_a_dataset_from_python_says_so_and_is_not_begun_again_on_the_config_s(tmp_path: Path) -> None:
    result = run(CONFIG, settings(tmp_path), dataset=Stripes())
    assert json.loads((result.folder / "data.json").read_text())["from_python"] is True
    for left in ("*.pth", "*.csv"):  # as if it had been killed in its first epoch
        for path in result.folder.glob(left):
            path.unlink()
    with pytest.raises(CheckpointError, match="a run was begun there on other data"):
        run(CONFIG, settings(tmp_path), resume="auto", run_dir=result.folder)
    assert run(CONFIG, settings(tmp_path), dataset=Stripes(), resume="auto", run_dir=result.folder).history


def test_no_file_of_a_run_of_thousands_of_classes_is_set_aside(tmp_path: Path) -> None:
    """Their matrix would be 150 MB, and their names make a data.json of more than a MiB."""
    data = Stripes()
    data.classes = tuple(f"{number:0120}" for number in range(8700))
    plain = settings(tmp_path, **{"trainer.tensorboard": False, "trainer.epochs": 1})
    folder = run(CONFIG, plain, dataset=data).folder
    before = {path.name for path in folder.iterdir()}
    run(None, {"trainer.epochs": 2}, dataset=data, resume="auto", run_dir=folder)
    assert {path.name for path in folder.iterdir()} == {*before, "checkpoint-epoch2.pth"}
    assert "noise_transition.csv" not in before
    assert (folder / "train.log").read_text().count("no noise_transition.csv for 8,700 classes") == 2
    with np.load(folder / "noise.npz") as noise:
        assert "transition_matrix" not in noise


def test_one_seed_is_one_history_in_a_thread_in_a_loop_and_after_an_error(tmp_path: Path) -> None:
    def history(number: int) -> list[dict[str, float]]:
        return untimed(run(CONFIG, settings(tmp_path / str(number)), dataset=Stripes()).history)

    async def within_a_loop() -> list[dict[str, float]]:
        return history(1)

    async def in_two_threads() -> list[list[dict[str, float]]]:
        return await asyncio.gather(asyncio.to_thread(history, 2), asyncio.to_thread(history, 3))

    first = history(0)
    with pytest.raises(NonFiniteLossError, match="lower optimizer"):
        run(CONFIG, settings(tmp_path, **{"optimizer.args.lr": 1e30}), dataset=Stripes())
    assert asyncio.run(within_a_loop()) == first
    assert asyncio.run(in_two_threads()) == [first, first]


def test_a_dict_is_a_config_and_a_run_resumes(tmp_path: Path) -> None:
    config = {"_base_": str(CONFIG), "trainer": {"epochs": 1}, "optimizer": {"args": {"lr": np.float32(0.5)}}}
    more = {key: value for key, value in settings(tmp_path).items() if key != "trainer.epochs"}
    straight = run(CONFIG, settings(tmp_path, **{"optimizer.args.lr": 0.5}), dataset=Stripes())
    first = run(
        config, {**more, "lr_scheduler.args.T_max": 3}, dataset=Stripes(), run_dir=tmp_path / "r", resume="auto"
    )
    assert len(first.history) == 1
    whole = run(None, {"trainer.epochs": 3}, dataset=Stripes(), run_dir=tmp_path / "r", resume="auto")
    assert untimed(whole.history) == untimed(straight.history)
    with pytest.raises(CheckpointError, match="other data"):
        run(None, {"trainer.epochs": 4}, dataset=Stripes(count=44), run_dir=tmp_path / "r", resume="auto")


def test_a_run_starts_from_the_weights_of_another_and_not_from_two_places(tmp_path: Path) -> None:
    one = settings(tmp_path, **{"trainer.epochs": 1})
    first = run(CONFIG, one, dataset=Stripes())
    weights = first.folder / "checkpoint-epoch1.pth"
    still = run(CONFIG, {**one, "optimizer.args.lr": 1e-30}, dataset=Stripes(), weights=weights)
    assert [row["epoch"] for row in still.history] == [1]
    for (name, here), there in zip(still.model.named_parameters(), first.model.parameters(), strict=True):
        assert torch.equal(here, there), name
    with pytest.raises(ConfigError, match="give one of the two"):
        run(CONFIG, one, dataset=Stripes(), weights=weights, resume="auto")


def test_the_callback_ends_a_run_well_and_its_errors_lose_nothing(tmp_path: Path) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise StopTraining

    def fail(row: dict[str, float]) -> None:
        raise RuntimeError("out of memory")  # which would be a ConfigError, were it torch's

    rare = settings(tmp_path, **{"trainer.save_period": 3, "trainer.monitor": "off"})
    result = run(CONFIG, rare, dataset=Stripes(), on_epoch=stop, run_dir=tmp_path / "a")
    assert len(result.history) == 2
    assert (result.folder / "checkpoint-epoch2.pth").is_file()
    before = as_before()
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        run(CONFIG, rare, dataset=Stripes(), on_epoch=fail, run_dir=tmp_path / "b")
    assert as_before() == before
    ends = [run(None, dataset=Stripes(), run_dir=tmp_path / name, resume="auto") for name in "ab"]
    straight = run(CONFIG, rare, dataset=Stripes())
    assert [untimed(end.history) for end in ends] == [untimed(straight.history)] * 2


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_a_signal_saves_and_then_interrupts(number: int, raised: type[BaseException], tmp_path: Path) -> None:
    before, options = signal.getsignal(number), {"dataset": Stripes(), "run_dir": tmp_path / "r"}
    with pytest.raises(raised, match="saved"):
        run(CONFIG, settings(tmp_path), **options, on_epoch=lambda row: signal.raise_signal(number))
    assert signal.getsignal(number) is before
    assert len(run(None, **options, resume="auto").history) == 3


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_signal_in_the_last_epoch_interrupts_too(tensorboard: bool, tmp_path: Path) -> None:
    """Or a loop over runs would go on."""
    options, one = {"dataset": Stripes(), "run_dir": tmp_path / "r"}, {"trainer.epochs": 1}
    with pytest.raises(KeyboardInterrupt, match="after epoch 1; saved"):
        run(
            CONFIG,
            settings(tmp_path, **one, **{"trainer.tensorboard": tensorboard}),
            **options,
            on_epoch=lambda row: signal.raise_signal(signal.SIGINT),
        )
    assert len(run(None, **options, resume="auto").history) == 1


def test_errors_are_those_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimizer.args.rate"):
        run(CONFIG, {"optimizer.args.rate": 1})
    with pytest.raises(ConfigError, match="cannot read the config"):
        run("none.json")
    with pytest.raises(ConfigError, match="list of KEY=VALUE"):
        run(CONFIG, "optimizer.args.lr=1")
    with pytest.raises(ConfigError, match="a file's name or a dict"):
        run(5)
    with pytest.raises(TypeError, match="on_epoch"):
        run(CONFIG, on_epoch=5)
    with pytest.raises(ConfigError, match="a=b"):
        run(CONFIG, {"a=b": 1})
    with pytest.raises(ConfigError, match="no value of a setting"):
        run({"name": "a", "seed": object()})
    with pytest.raises(CheckpointError, match="not there"):
        run(resume=tmp_path / "none.pth")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(FileSystemError, match="thesis"):
        run(CONFIG, settings(tmp_path), dataset=Stripes(), run_dir=tmp_path / "full")


def test_overrides_of_a_dict_are_those_of_the_command_line() -> None:
    given = {"optimizer.args.lr": np.float64(0.5), "data_loader.args.data_dir": Path("null"), "seed": np.int64(3)}
    given |= {"lr_scheduler": {"type": "StepLR", "args": {"step_size": 2}}, "trainer.early_stop": None, "name": "2024"}
    config = load_config(CONFIG, as_overrides(given))
    assert (config.optimizer.args.lr, config.seed, config.name) == (0.5, 3, "2024")
    assert (config.data_loader.args.data_dir, config.trainer.early_stop) == ("null", None)
    assert config.lr_scheduler.args.step_size == 2
    assert as_overrides(["seed=3"]) == ["seed=3"]


@pytest.mark.parametrize(
    "kind",
    [
        lambda image: image,
        lambda image: image.float() / 255.0,
        lambda image: image.half() / 255.0,
        lambda image: Image.fromarray(image.permute(1, 2, 0).numpy()),
    ],
)
def test_images_of_every_kind_become_the_same_bytes(kind: Callable[[torch.Tensor], Any]) -> None:
    assert torch.equal(as_image_dataset(Stripes(kind)).images, Stripes().images)


def test_a_picture_is_turned_as_its_file_says_as_a_trained_network_will_see_it() -> None:
    file, upright = BytesIO(), Image.new("RGB", (8, 8), (0, 0, 200))
    upright.paste((200, 0, 0), (0, 0, 8, 4))
    tag = Image.Exif()
    tag[0x112] = 3  # upside down
    upright.rotate(180).save(file, "PNG", exif=tag)
    item = (Image.open(file).convert("RGB"), 0)
    assert torch.equal(as_image_dataset([item]).images[0], torch.from_numpy(np.array(upright)).permute(2, 0, 1))


def test_classes_and_grey_images() -> None:
    assert as_image_dataset(Stripes()).classes == ("dark", "bright")
    assert as_image_dataset(Subset(Stripes(), [0, 3])).classes == ("dark", "bright")
    grey = TensorDataset(torch.rand(6, 8, 9), torch.tensor([0, 1, 2, 0, 1, 2]))
    found = as_image_dataset(grey)
    assert found.images.shape == (6, 3, 8, 9)
    assert found.classes == ("0", "1", "2")
    own = ImageDataset(found.images, found.labels, found.classes, "mine")
    assert as_image_dataset(own).images is own.images


class Broken(Stripes):
    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item

    def __getitem__(self, i: int) -> Any:
        if isinstance(self.item, Exception):
            raise self.item
        return self.item if i == 3 else super().__getitem__(i)


_GOOD = torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        (5, "has no length"),
        ("text", "not a str"),
        ([], "holds no images"),
        (DataLoader(TensorDataset(_GOOD, _GOOD)), r"its \.dataset"),
        (Broken(KeyError("gone")), r"dataset\[0\] raised KeyError: 'gone'"),
        (Broken(7), "not a pair"),
        (Broken((np.zeros((8, 8, 3)), 0)), r"dataset\[3\]\[0\] is a ndarray of shape \(8, 8, 3\), not a PIL image"),
        (Broken((Image.new("RGB", (0, 5)), 0)), r"dataset\[3\]\[0\] is not an image .*\(it has no pixels\)"),
        (Broken((_GOOD[:2], 0)), r"shape \(2, 8, 8\)"),
        (Broken((_GOOD[:, :5], 0)), r"is 5 x 8 and dataset\[0\]\[0\] 8 x 8 pixels"),
        (Broken((_GOOD - 2, 0)), "floats from -2 to -2; give them from 0 to 1"),
        (Broken((_GOOD / 0, 0)), "floats from nan"),
        (Broken((_GOOD.int(), 0)), "torch.int32"),
        (Broken((_GOOD, 0.5)), "an integer"),
        (Broken((_GOOD, torch.eye(3)[0])), "an integer"),
        (Broken((_GOOD, -1)), "labels count from 0"),
        (Broken((_GOOD, 2)), "label 2 at index 3 is outside 0 to 1"),
    ],
)
def test_a_wrong_dataset_is_one_line_that_says_what_is_wrong(dataset: Any, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        as_image_dataset(dataset)
    assert "\n" not in str(caught.value)


def test_optuna_prunes_runs(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: Any) -> float:
        def report(row: dict[str, float]) -> None:
            trial.report(-row["val_loss"] if trial.number < 2 else -1e9, int(row["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned

        chosen = {"optimizer.args.lr": trial.suggest_float("lr", 1e-3, 0.1, log=True)}
        config = settings(tmp_path / str(trial.number), **chosen)
        return run(CONFIG, config, dataset=Stripes(), on_epoch=report).metrics["val_accuracy"]

    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=4)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert list((tmp_path / "3").glob("demo/*/checkpoint-epoch1.pth"))  # a pruned run could be taken up again
