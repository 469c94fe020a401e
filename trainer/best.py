"""Updates model_best.pth after a change of the monitor."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.checkpoint import BEST_NAME, checkpoint_name, read
from utils.errors import CheckpointError
from utils.folder import Folder


def make_best(folder: Folder, epoch: int, monitor: str, source: Path) -> str | None:
    """Make model_best.pth a copy of the checkpoint after `epoch`, the best by `monitor`.

    The copy comes from the run's own checkpoints or from `source`, the checkpoint that is resumed. A model_best.pth of
    another epoch is renamed. Returns a line for the user, or None if nothing changed.

    Raises:
        FileSystemError: model_best.pth cannot be written.
    """
    best = folder.path / BEST_NAME
    if BEST_NAME in folder.names():
        try:
            if _whole_epoch(best) == epoch:
                return None
        except CheckpointError as error:
            return f"{error}; it stays as it is until a better epoch replaces it"
    found = _first_of([folder.path / checkpoint_name(epoch, 0), source], epoch)
    data = None if found is None else found.read_bytes()
    aside = folder.set_aside(BEST_NAME, "abandoned") if BEST_NAME in folder.names() else None
    earlier = f"; the one that was best before is now {aside}" if aside else ""
    if data is None:
        return f"epoch {epoch} is best by {monitor}, and no checkpoint holds it{earlier}"
    folder.write(BEST_NAME, data)
    return f"epoch {epoch} is best by {monitor}: {best} is a copy of {found}{earlier}"


def best_epoch(history: Iterable[dict[str, Any]], column: str, best: float) -> int:
    """The first epoch (from 1) whose `column` is `best`."""
    return next(int(row["epoch"]) for row in history if row.get(column) == best)


def _first_of(paths: Iterable[Path], epoch: int) -> Path | None:
    for path in paths:
        with contextlib.suppress(CheckpointError):
            if _whole_epoch(path) == epoch:
                return path
    return None


def _whole_epoch(path: Path) -> int | None:
    """The epoch after which a checkpoint was saved; None if it is from within an epoch.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    state = read(path, allow_inexact=True)
    return None if state["batch"] else state["epoch"]
