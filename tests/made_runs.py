"""Run folders made up for the report: config.json and metrics.csv with curves that a test knows by construction."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.csv"


def config(
    name: str,
    arm: str,
    noise: float,
    seed: int,
    epochs: int,
    kind: str = "CIFAR10",
    **trainer: Any,
) -> dict[str, Any]:
    """As train.py writes it, as far as the report looks."""
    return {
        "name": name,
        "seed": seed,
        "arch": {"type": "resnet18", "args": {"norm": arm, "num_classes": None, "width": 16}},
        "data_loader": {"type": kind, "args": {"data_dir": "data/x", "batch_size": 128, "subset": 5000.0}},
        "label_noise": {"type": "symmetric", "rate": noise, "include_true_class": None},
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "trainer": {
            "epochs": epochs,
            "early_stop": None,
            "monitor": "max val_accuracy",
            "save_dir": "saved",
            **trainer,
        },
    }


def write_run(folder: Path, settings: Mapping[str, Any], columns: Mapping[str, Sequence[object]]) -> Path:
    """A run folder with the columns given; those required and not given are made up of them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    test = [float(str(value)) for value in columns["test_accuracy"]]
    made: dict[str, Sequence[object]] = {
        "epoch": range(1, len(test) + 1),
        "lr": [0.1] * len(test),
        **{f"{split}_loss": [2.0 * (1.0 - value) for value in test] for split in ("train", "val", "test")},
        "train_accuracy": test,
        "val_accuracy": test,
        **columns,
        "seconds": [10.0] * len(test),
    }
    write_table(folder / METRICS, made)
    return folder


def write_table(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_cell(
    root: Path,
    arm: str,
    noise: float,
    last: Mapping[int, float],
    dataset: str = "cifar10",
    epochs: int = 4,
    **changes: Any,
) -> None:
    """A run for each seed of `last`, rising in a straight line to that test accuracy at its last epoch."""
    for seed, accuracy in last.items():
        name = f"{dataset}_{arm}_{100 * noise:g}noise"
        settings = {**config(name, arm, noise, seed, epochs), **changes}
        columns: dict[str, Sequence[object]] = {"test_accuracy": [accuracy * (e + 1) / epochs for e in range(epochs)]}
        if noise:
            columns |= {
                "train_clean_accuracy": [0.5] * epochs,
                "train_mislabelled_given_accuracy": [0.0625] * epochs,
                "train_mislabelled_true_accuracy": [0.4] * epochs,
            }
        write_run(root / name / f"seed{seed}", settings, columns)
