"""What each field of a checkpoint looks like as a run writes it. One with a true digest may still be a stranger's."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from config_schema import MetricName
from parse_config import Config, validate
from trainer.checkpoint import read
from trainer.diagnostics import PATH, saved_rows
from utils.columns import CLEAN, FIRST_COLUMNS, GIVEN, LAST_COLUMN, SPLITS, TRUE, columns_of
from utils.errors import CheckpointError, ConfigError
from utils.reading import told_as
from utils.seeding import check_rng_state

_LARGEST_COUNT = 1 << 53
_FIGURES = {"loss", *get_args(MetricName), CLEAN, GIVEN, TRUE}
_ALWAYS = {*FIRST_COLUMNS, LAST_COLUMN}
_COLUMNS = _ALWAYS | {*columns_of(_FIGURES)}
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def read_run(path: Path, allow_inexact: bool = False) -> dict[str, Any]:
    """The state in a checkpoint file, every field of which has the form that a run gives it.

    Whether it fits the data, the network and the rest of the run is for `trainer.restore` to say.

    Raises:
        CheckpointError: the file cannot be read or is damaged, or a field is of another form.
    """
    state = read(path, allow_inexact)
    check_form(state, str(path))
    return state


def check_form(state: dict[str, Any], source: str) -> None:
    """Raise CheckpointError, which names the field, unless every field has the form that a run gives it."""
    for name, is_right in _CHECKS.items():
        with told_as(CheckpointError, source, f"malformed: {name} is not as a run writes it"):
            if name in state and not is_right(state):
                raise CheckpointError(f"{source}: malformed: {name} is not as a run writes it")
    config_of(state, source)
    saved_rows(state, source)


def config_of(state: dict[str, Any], source: str) -> Config:
    """The config that a checkpoint holds. Raises CheckpointError if it is none."""
    with told_as(CheckpointError, source, "malformed: its config is none"):
        try:
            return validate(state["config"], f"the config in {source}")
        except ConfigError as error:
            raise CheckpointError(f"{source}: malformed: {error}") from error


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < _LARGEST_COUNT


def _is_number(value: Any) -> bool:
    """NaN too, which stands for a mean over nothing."""
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST_COUNT)


def _is_text(value: Any, longest: int) -> bool:
    return type(value) is str and len(value) <= longest


def _is_indices(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() == 1


def _is_environment(state: dict[str, Any]) -> bool:
    items = state["environment"].items()
    return all(_is_text(key, 100) and (_is_count(value) or _is_text(value, 200)) for key, value in items)


def _is_splits(state: dict[str, Any]) -> bool:
    return state["splits"].keys() == set(SPLITS) and all(map(_is_indices, state["splits"].values()))


def _is_given_labels(state: dict[str, Any]) -> bool:
    given = state["given_labels"]
    return _is_indices(given) and len(given) == sum(map(len, state["splits"].values()))


def _is_model(state: dict[str, Any]) -> bool:
    versions = getattr(state["model"], "_metadata", {})
    of_text = all(type(key) is str for key in state["model"])
    return of_text and isinstance(versions, dict) and all(isinstance(entry, dict) for entry in versions.values())


def _is_optimizer(state: dict[str, Any]) -> bool:
    optimizer = state["optimizer"]
    if optimizer.keys() != {"state", "param_groups"}:
        return False
    buffers, groups = optimizer["state"], optimizer["param_groups"]
    if not isinstance(buffers, dict) or not isinstance(groups, list):
        return False
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups):
        return False
    numbered = all(_is_count(number) for group in groups for number in group["params"])
    return numbered and all(_is_count(key) and isinstance(value, dict) for key, value in buffers.items())


def _is_scaler(state: dict[str, Any]) -> bool:
    scaler = state["scaler"]
    if not scaler:
        return True
    if scaler.keys() != _SCALER or not all(_is_number(value) and 0 <= value < math.inf for value in scaler.values()):
        return False
    counts = _is_count(scaler["growth_interval"], 1) and _is_count(scaler["_growth_tracker"])
    return counts and scaler["scale"] > 0 and scaler["growth_factor"] > 1 and 0 < scaler["backoff_factor"] < 1


def _is_sums(sums: Any, is_name: Callable[[Any], bool]) -> bool:
    """By process and figure, a sum and how many samples it is of."""
    for rank, part in sums.items():
        if not _is_text(rank, 10) or not isinstance(part, dict) or not all(map(is_name, part)):
            return False
        for pair in part.values():
            if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is float for n in pair):
                return False
            if not math.isfinite(pair[0]) or not 0 <= pair[1] < _LARGEST_COUNT:
                return False
    return True


def _is_partial_sums(state: dict[str, Any]) -> bool:
    """There are some within an epoch, of all that the run measures, or the epoch's row could not be written."""
    sums = state["partial_sums"]
    if not _is_sums(sums, lambda name: name in _FIGURES):
        return False
    counted = {name for part in sums.values() for name, (_, count) in part.items() if count > 0}
    return state["batch"] == 0 or counted >= {"loss", *state["config"]["metrics"]}


def _is_gradient_norms(state: dict[str, Any]) -> bool:
    sums = state["gradient_norms"]
    return isinstance(sums, dict) and _is_sums(sums, lambda name: type(name) is str and bool(PATH.fullmatch(name)))


def _is_history(state: dict[str, Any]) -> bool:
    """A row for each epoch, in order."""
    rows = state["history"]
    return len(rows) == state["epoch"] and all(
        isinstance(row, dict)
        and _ALWAYS <= row.keys() <= _COLUMNS
        and type(row["epoch"]) is int
        and row["epoch"] == epoch
        and all(map(_is_number, row.values()))
        for epoch, row in enumerate(rows, 1)
    )


def _is_rng(state: dict[str, Any]) -> bool:
    if state["rng"]:
        check_rng_state(state["rng"])
    return True


_CHECKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "environment": _is_environment,
    "dataset_sha256": lambda state: bool(re.fullmatch(r"[0-9a-f]{64}", state["dataset_sha256"])),
    "classes": lambda state: all(_is_text(name, 10_000) for name in state["classes"]),
    "splits": _is_splits,
    "given_labels": _is_given_labels,
    "epoch": lambda state: _is_count(state["epoch"]),
    "batch": lambda state: _is_count(state["batch"]),
    "global_step": lambda state: _is_count(state["global_step"]),
    "model": _is_model,
    "optimizer_type": lambda state: _is_text(state["optimizer_type"], 100),
    "optimizer": _is_optimizer,
    "scheduler": lambda state: all(type(key) is str and _is_number(value) for key, value in state["scheduler"].items()),
    "scaler": _is_scaler,
    "best": lambda state: state["best"] is None or math.isfinite(state["best"]),
    "epochs_since_best": lambda state: _is_count(state["epochs_since_best"]),
    "partial_sums": _is_partial_sums,
    "gradient_norms": _is_gradient_norms,
    "history": _is_history,
    "seconds": lambda state: 0 <= state["seconds"] < math.inf,
    "rng": _is_rng,
}
