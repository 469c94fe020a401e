"""`RunState` defines what a checkpoint holds. Saving, loading and checking derive from it."""

import math
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, NotRequired, TypedDict, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from config_schema import MetricName
from data_loader.preprocess import Preprocess
from logger.tables import DiagnosticRow
from models.metric import METRICS
from parse_config import Config, validate
from trainer.rows import to_rows, to_table
from utils.columns import CLEAN, DIAGNOSTIC_COLUMNS, FIRST_COLUMNS, GIVEN, LAST_COLUMN, SPLITS, TRUE, columns_of
from utils.errors import CheckpointError, ConfigError
from utils.reading import errors_as
from utils.seeding import check_rng_state

FORMAT_VERSION = 2
_GENERATORS = {"python", "numpy", "torch", "cuda"}  # the keys of `rng`
_LARGEST_COUNT = 1 << 53
_FIGURES = {"loss", *get_args(MetricName), CLEAN, GIVEN, TRUE}
_ALWAYS = {*FIRST_COLUMNS, LAST_COLUMN}
_COLUMNS = _ALWAYS | {*columns_of(_FIGURES)}
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_PATH = re.compile(r"[A-Za-z0-9_.]{1,200}")  # of a module in a network


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < _LARGEST_COUNT


def _is_number(value: Any) -> bool:
    """NaN counts too: it is a mean over no samples."""
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST_COUNT)


def _is_text(value: Any, longest: int) -> bool:
    return type(value) is str and len(value) <= longest


def _is_indices(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() == 1


def _is_environment(state: "RunState") -> bool:
    items = state["environment"].items()
    return all(_is_text(key, 100) and (_is_count(value) or _is_text(value, 200)) for key, value in items)


def _is_splits(state: "RunState") -> bool:
    return state["splits"].keys() == set(SPLITS) and all(map(_is_indices, state["splits"].values()))


def _is_given_labels(state: "RunState") -> bool:
    given = state["given_labels"]
    return _is_indices(given) and len(given) == sum(map(len, state["splits"].values()))


def _is_model(state: "RunState") -> bool:
    versions = getattr(state["model"], "_metadata", {})
    of_text = all(type(key) is str for key in state["model"])
    return of_text and isinstance(versions, dict) and all(isinstance(entry, dict) for entry in versions.values())


def _is_optimizer(state: "RunState") -> bool:
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


def _is_scaler(state: "RunState") -> bool:
    scaler = state["scaler"]
    if not scaler:
        return True
    if scaler.keys() != _SCALER or not all(_is_number(value) and 0 <= value < math.inf for value in scaler.values()):
        return False
    counts = _is_count(scaler["growth_interval"], 1) and _is_count(scaler["_growth_tracker"])
    return counts and scaler["scale"] > 0 and scaler["growth_factor"] > 1 and 0 < scaler["backoff_factor"] < 1


def _is_sums(sums: Any, is_name: Callable[[Any], bool], sizes: Mapping[str, int]) -> bool:
    """Whether `sums` maps process and figure to a state, which ends in a number of samples. A state has as many numbers
    as `sizes` says, or two."""
    for rank, part in sums.items():
        if not _is_text(rank, 10) or not isinstance(part, dict) or not all(map(is_name, part)):
            return False
        for name, numbers in part.items():
            if not isinstance(numbers, list) or len(numbers) != sizes.get(name, 2):
                return False
            if not all(type(n) is float and math.isfinite(n) for n in numbers) or not 0 <= numbers[-1] < _LARGEST_COUNT:
                return False
    return True


def _is_partial_sums(state: "RunState") -> bool:
    """Within an epoch there must be sums of all that the run measures: the epoch's row is made from them."""
    sums, outputs = state["partial_sums"], state["config"]["arch"]["args"]["num_classes"] or len(state["classes"])
    if not _is_sums(sums, lambda name: name in _FIGURES, {name: each.size(outputs) for name, each in METRICS.items()}):
        return False
    counted = {name for part in sums.values() for name, numbers in part.items() if any(numbers[1:])}
    return state["batch"] == 0 or counted >= {"loss", *state["config"]["metrics"]}


def _is_gradient_norms(state: "RunState") -> bool:
    sums = state["gradient_norms"]
    return isinstance(sums, dict) and _is_sums(sums, lambda name: type(name) is str and bool(_PATH.fullmatch(name)), {})


def _is_history(state: "RunState") -> bool:
    """Whether there is a row for each epoch, in order."""
    rows = state["history"]
    return len(rows) == state["epoch"] and all(
        isinstance(row, dict)
        and _ALWAYS <= row.keys() <= _COLUMNS
        and type(row["epoch"]) is int
        and row["epoch"] == epoch
        and all(map(_is_number, row.values()))
        for epoch, row in enumerate(rows, 1)
    )


def _is_rng(state: "RunState") -> bool:
    if state["rng"]:
        check_rng_state(state["rng"])
    return True


def _is_preprocessing(state: "RunState") -> bool:
    Preprocess.from_record(state["preprocessing"])
    return True


def _is_scheduler(state: "RunState") -> bool:
    return all(type(key) is str and _is_number(value) for key, value in state["scheduler"].items())


def _is_diagnostic_row(row: Any, epochs: int) -> bool:
    if not isinstance(row, dict) or tuple(row) != DIAGNOSTIC_COLUMNS:
        return False
    epoch, layer, *figures = row.values()
    return (
        _is_count(epoch, 1)
        and epoch <= epochs
        and isinstance(layer, str)
        and bool(_PATH.fullmatch(layer))
        and all(type(figure) is float for figure in figures)
    )


class RunState(TypedDict):
    """All that a run needs for an exact resume: tensors and plain values.

    A checkpoint has these fields. A stranger can make one with a valid digest, so fields are annotated with a check of
    their form.
    """

    format_version: int
    environment: Annotated[dict[str, Any], _is_environment]  # trainer.environment
    config: dict[str, Any]  # Config.model_dump
    dataset_sha256: Annotated[str, lambda state: bool(re.fullmatch(r"[0-9a-f]{64}", state["dataset_sha256"]))]
    classes: Annotated[list[str], lambda state: all(_is_text(name, 10_000) for name in state["classes"])]
    splits: Annotated[dict[str, Tensor], _is_splits]  # int64 indices into the dataset
    given_labels: Annotated[Tensor, _is_given_labels]  # int64, of the splits one after another
    epoch: Annotated[int, lambda state: _is_count(state["epoch"])]  # whole epochs done
    batch: Annotated[int, lambda state: _is_count(state["batch"])]  # batches done of the epoch in progress
    global_step: Annotated[int, lambda state: _is_count(state["global_step"])]
    model: Annotated[dict[str, Any], _is_model]  # Module.state_dict
    optimizer_type: Annotated[str, lambda state: _is_text(state["optimizer_type"], 100)]
    optimizer: Annotated[dict[str, Any], _is_optimizer]  # Optimizer.state_dict
    scheduler: Annotated[dict[str, Any], _is_scheduler]
    scaler: Annotated[dict[str, Any], _is_scaler]  # GradScaler.state_dict
    best: Annotated[float | None, lambda state: state["best"] is None or math.isfinite(state["best"])]
    epochs_since_best: Annotated[int, lambda state: _is_count(state["epochs_since_best"])]
    partial_sums: Annotated[dict[str, Any], _is_partial_sums]  # Meter.state_dict
    history: Annotated[list[dict[str, float]], _is_history]  # the rows of metrics.csv
    seconds: Annotated[float, lambda state: 0 <= state["seconds"] < math.inf]  # spent on the epoch in progress
    rng: Annotated[dict[str, Any], _is_rng]  # utils.seeding.rng_state
    # Earlier checkpoints lack these three.
    preprocessing: NotRequired[Annotated[dict[str, Any], _is_preprocessing]]  # Preprocess.record
    diagnostics: NotRequired[list[DiagnosticRow]]  # the rows of diagnostics.csv
    gradient_norms: NotRequired[Annotated[dict[str, Any], _is_gradient_norms]]  # Meter.state_dict


_HINTS = {
    name: get_args(hint)[0] if get_origin(hint) is NotRequired else hint
    for name, hint in get_type_hints(RunState, include_extras=True).items()
}
#: Of fields: whether a value of the right type is as a run writes it, given the whole state.
_FORMS = {name: note for name, hint in _HINTS.items() for note in getattr(hint, "__metadata__", ())}


def stored(state: RunState) -> dict[str, Any]:
    """`state` as a file holds it, with the rows of diagnostics.csv as a table."""
    values: dict[str, Any] = dict(state)
    return values | ({"diagnostics": to_table(rows)} if (rows := state.get("diagnostics")) else {})


def _types(name: str) -> tuple[type, ...]:
    """The types of a field, for isinstance."""
    hint = get_args(_HINTS[name])[0] if name in _FORMS else _HINTS[name]
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


def checked(values: Mapping[str, Any], source: str, allow_inexact: bool = False) -> RunState:
    """`values` as a RunState, after a check that every field is as a run writes it. The rows of diagnostics.csv may be
    as `stored` made them, or, as in earlier checkpoints, as they are.

    With `allow_inexact` the generators' states may be missing, and the format may be newer. `trainer.restore` checks
    whether the state fits the data, the network and the run.

    Raises:
        CheckpointError: the format is another, or a field is missing or not as a run writes it; it names the field.
    """
    values = dict(values)
    check_version(values, source, allow_inexact)
    rng = values.get("rng")
    if not isinstance(rng, dict) or not rng.keys() >= _GENERATORS:
        if not allow_inexact:
            raise CheckpointError(
                f"{source}: it lacks the state of random generators (rng); --allow-inexact goes on without"
            )
        values["rng"] = {}
    with errors_as(CheckpointError, source, "malformed: diagnostics is not as a run writes it"):
        if isinstance(table := values.get("diagnostics"), dict) and "bits" in table:
            values["diagnostics"] = to_rows(table)
    needed = [name for name in _HINTS if name in RunState.__required_keys__]
    wrong = [name for name in needed if not isinstance(values.get(name, ...), _types(name))]
    if wrong:
        raise CheckpointError(f"{source}: missing or of another type: {', '.join(wrong)}")
    state = cast(RunState, values)
    for name, form in _FORMS.items():
        with errors_as(CheckpointError, source, f"malformed: {name} is not as a run writes it"):
            if name in values and not form(state):
                raise CheckpointError(f"{source}: malformed: {name} is not as a run writes it")
    config_of(state, source)
    rows = values.get("diagnostics", [])
    if not isinstance(rows, list) or not all(_is_diagnostic_row(row, state["epoch"]) for row in rows):
        raise CheckpointError(f"{source}: malformed: its diagnostics are no rows of {', '.join(DIAGNOSTIC_COLUMNS)}")
    return state


def check_version(values: Mapping[str, Any], source: str, allow_inexact: bool = False) -> None:
    """Raise CheckpointError unless `values` are of this program's format, or, with `allow_inexact`, of a newer one."""
    version = values.get("format_version")
    if type(version) is not int:
        raise CheckpointError(f"{source}: not a checkpoint of this program: it has no format_version")
    if version != FORMAT_VERSION and not (allow_inexact and version > FORMAT_VERSION):
        way_out = "; --allow-inexact reads what it can of it" if version > FORMAT_VERSION else ""
        raise CheckpointError(f"{source}: format version {version}, but this program reads {FORMAT_VERSION}{way_out}")


def config_of(state: RunState, source: str) -> Config:
    """The config that a checkpoint holds. Raises CheckpointError if it is not a valid config."""
    with errors_as(CheckpointError, source, "malformed: its config is none"):
        try:
            return validate(state["config"], f"the config in {source}")
        except ConfigError as error:
            raise CheckpointError(f"{source}: malformed: {error}") from error
