"""A small state of a run, of the form that a run gives it."""

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from parse_config import load_config
from trainer.state import FORMAT_VERSION, RunState
from utils.columns import FIRST_COLUMNS, LAST_COLUMN
from utils.seeding import rng_state

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.json"


@cache
def _config() -> dict[str, Any]:
    return load_config(DEMO).model_dump()


def made_state(epoch: int = 1, batch: int = 0, **changes: object) -> RunState:
    """After `epoch` whole epochs and `batch` batches; `changes` take the place of fields, whatever their form."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.eye(4)).square().sum().backward()
    optimizer.step()
    sums = {name: [1.0, 1.0] for name in ("loss", "accuracy", "top5_accuracy")}
    state: RunState = {
        "format_version": FORMAT_VERSION,
        "environment": {"torch": "2", "world_size": 1},
        "config": _config(),
        "dataset_sha256": "ab" * 32,
        "classes": ["a", "b"],
        "splits": {"train": torch.arange(3), "val": torch.arange(3, 4), "test": torch.arange(4, 5)},
        "given_labels": torch.zeros(5, dtype=torch.int64),
        "epoch": epoch,
        "batch": batch,
        "global_step": 7 * epoch + batch,
        "model": model.state_dict(),
        "optimizer_type": "SGD",
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": epoch},
        "scaler": {},
        "best": 0.5,
        "epochs_since_best": 0,
        "partial_sums": {"0": sums} if batch else {},
        "history": [
            {**dict.fromkeys((*FIRST_COLUMNS, LAST_COLUMN), 0.5), "epoch": number} for number in range(1, epoch + 1)
        ],
        "seconds": 1.5,
        "rng": {**rng_state(), "cuda": []},
    }
    return cast(RunState, {**state, **changes})
