"""Compares a run's settings with those of a checkpoint: some changes are refused, the others reported."""

from typing import Any

from config_schema import NO_RESULT_DEPENDS_ON, Config
from data_loader.batches import batch_bounds
from trainer.optim import Step, rate_of
from trainer.state import RunState
from utils.errors import CheckpointError, ConfigError
from utils.text import shortened

FUNCTION = "arch."  # prefix of the settings that define the model's function; they may never change
START = "weights."  # prefix of the settings of the weights that a new run starts from
#: Settings that an epoch has from its start: they make the order of the images, or are what is added up over them.
ORDER = ("seed", "data_loader.args.batch_size", "metrics")
WORLD_SIZE = "world_size"  # a key of the checkpoint's environment

#: A setting's dotted key -> (its old value, its new value).
Changes = dict[str, tuple[Any, Any]]


def changes(saved: Config, now: Config) -> Changes:
    """Every setting that differs between the configs. One that a type does not have counts as null, as if unset."""
    before, here = saved.settings(), now.settings()
    return {key: (before.get(key), here.get(key)) for key in before | here if before.get(key) != here.get(key)}


def check_order(state: RunState, since: Changes, now: Config, images: int, processes: int, source: str) -> None:
    """Raise CheckpointError if `state` is within an epoch whose rest would skip images, repeat them, or be measured
    otherwise than its beginning. `images` is the size of the training split."""
    if state["batch"] == 0:
        return
    wrong = {key: since[key] for key in ORDER if key in since}
    before = state["environment"].get(WORLD_SIZE)
    if isinstance(before, int) and 0 < before != processes and not wrong:
        size = now.data_loader.args.batch_size
        if batch_bounds(images, size, before) != batch_bounds(images, size, processes):
            wrong = {WORLD_SIZE: (before, processes)}
    if wrong:
        raise CheckpointError(
            f"{source}: it was saved within epoch {state['epoch'] + 1}, whose parts would not fit together: "
            f"{listed(wrong)}; set it back, or go on from an epoch's end, where it may change"
        )


def check_start(since: Changes, source: str) -> None:
    """Raise ConfigError if the run is to start from other weights than it did: it has started."""
    wrong = {key: both for key, both in since.items() if key.startswith(START) and both[1] is not None}
    if wrong:
        raise ConfigError(
            f"{source}: weights start a new run, and -r goes on with one: {listed(wrong)}; leave them as they were, or "
            "start a new run"
        )


def check_function(since: Changes, classes: int, source: str) -> None:
    """Raise CheckpointError if the model would compute another function with the same weights. `classes` is the number
    of the dataset's classes, which replaces a null `arch.args.num_classes`."""
    wrong = {key: both for key, both in since.items() if key.startswith(FUNCTION) and not _same(key, both, classes)}
    if wrong:
        raise CheckpointError(
            f"{source}: it is of another model, though its weights may fit: {listed(wrong)}; set it back"
        )


def _same(key: str, both: tuple[Any, Any], classes: int) -> bool:
    before, now = (classes if value is None else value for value in both)
    return key == "arch.args.num_classes" and before == now


def that_matter(since: Changes) -> Changes:
    """Those of the changed settings that results may depend on."""
    return {key: both for key, both in since.items() if key not in NO_RESULT_DEPENDS_ON}


def listed(found: Changes) -> str:
    return ", ".join(f"{key} {shortened(before)} -> {shortened(now)}" for key, (before, now) in found.items())


def report_lines(since: Changes, saved: Config, now: Config, state: RunState, batches: int) -> list[str]:
    """Lines that report the changed settings and a changed learning rate of the next step. `batches` are those of an
    epoch."""
    lines = []
    if reported := that_matter(since):
        lines.append(f"changed since: {listed(reported)}")
    epoch, history = state["epoch"], state["history"]
    step = Step(epoch, state["batch"], batches)
    before, here = rate_of(saved)(step), rate_of(now)(step)
    if before != here and epoch < now.trainer.epochs:
        if state["batch"]:
            lines.append(f"lr of the epoch in progress is {here:.6g}, it was {before:.6g}")
        else:
            last = f", and the last epoch's was {history[-1]['lr']:.6g}" if history and "lr" in history[-1] else ""
            lines.append(f"lr of the next epoch is {here:.6g}, it was to be {before:.6g}{last}")
    return lines
