"""The figures of the paper (paper.json), and the datasets and arms here that they correspond to."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reporting.runs.run import SYMMETRIC, THE_PAPERS, Run

PATH = Path(__file__).with_name("paper.json")
#: The arm's name in the paper, by ours.
ARMS = {"bn": "bn", "conv": "conv", "bncn": "bncn", "conv_published": "conv", "bncn_published": "bncn"}
CIFAR10, COCO = "cifar10", "coco"


@dataclass(frozen=True)
class Scale:
    """The scale of the paper's training. Steps are those of batches of 128."""

    images: int
    epochs: int
    width: int
    steps: int


# 50,000 images make 391 batches. Of TinyCOCO's 3,400 the authors' code trains on nine tenths, 24 batches.
SCALES = {CIFAR10: Scale(50_000, 100, 64, 39_100), COCO: Scale(3_400, 200, 64, 4_800)}


@dataclass(frozen=True)
class Logged:
    """The last epoch of one of the authors' logs, in percent; `val` and `test` are the names in their code."""

    train: float
    val: float
    test: float
    best_test: float


def dataset_of(run: Run) -> str | None:
    """The dataset of the paper that a run uses, in full or reduced; None if it uses another, another network or another
    kind of noise than the paper's."""
    if run.network != THE_PAPERS or run.noise_type != SYMMETRIC or (run.data and run.data.from_python):
        return None
    by_type = {"CIFAR10": CIFAR10, "TinyCOCO": COCO}.get(run.config["data_loader"]["type"])
    name = run.dataset.lower()
    return by_type or (CIFAR10 if named_cifar10(name) else COCO if re.search("coco(?![a-z])", name) else None)


def named_cifar10(name: str) -> bool:
    """Whether a dataset's name is that of CIFAR10, and not of CIFAR100."""
    return re.search("cifar10(?!0)", name.lower()) is not None


def has_its_scale(run: Run) -> bool:
    """Whether a run has at least the width, the epochs and the images of the paper's."""
    original = dataset_of(run)
    if original is None:
        return False
    theirs, args = SCALES[original], run.config["data_loader"].get("args", {})
    if run.data:
        whole = run.data.images[0] >= 0.8 * theirs.images  # the rest is held out
    else:
        whole = args.get("subset") is None or args["subset"] >= theirs.images
    return whole and run.planned >= theirs.epochs and run.config["arch"]["args"].get("width", 64) >= theirs.width


def is_published_coco(run: Run) -> bool:
    """Whether a run uses TinyCOCO with the data as published."""
    return run.as_published and dataset_of(run) == COCO


def stated(dataset: str, arm: str, noise: float) -> float | None:
    """The test accuracy in percent that the paper's text states for an arm, by the arm's name here."""
    figures: dict[str, float] = _file()["text"].get(dataset, {}).get(ARMS.get(arm, ""), {})
    return figures.get(f"{100 * noise:g}")


def logged(dataset: str, arm: str, noise: float) -> Logged | None:
    for row in _file()["logs"]:
        if (row["dataset"], row["arm"]) == (dataset, ARMS.get(arm)) and abs(row["noise"] - noise) < 1e-9:
            return Logged(row["train_accuracy"], row["val_accuracy"], row["test_accuracy"], row["best_test_accuracy"])
    return None


def logged_validation(dataset: str) -> tuple[float, float]:
    """The lowest and the highest final validation accuracy, in percent, of the authors' runs of a dataset."""
    values = [row["val_accuracy"] for row in _file()["logs"] if row["dataset"] == dataset]
    return min(values), max(values)


def source() -> str:
    return str(_file()["source"])


@cache
def _file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return content
