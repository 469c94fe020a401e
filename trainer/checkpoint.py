"""The checkpoints of a run: written whole or not at all, read only after all that they hold has been checked."""

import contextlib
import re
from pathlib import Path

from logger.log import get_logger
from trainer.checkpoint_file import comment_on, read_file_of_state, serialise
from trainer.state import RunState, checked
from utils.beside import beside
from utils.errors import CheckpointError
from utils.folder import Folder

_NAME = re.compile(r"checkpoint-epoch(\d+)(?:-batch(\d+))?\.pth")
BEST_NAME = "model_best.pth"


def checkpoint_name(epoch: int, batch: int) -> str:
    """Of a checkpoint after `epoch` whole epochs, or (batch > 0) after `batch` batches of the epoch that follows."""
    return f"checkpoint-epoch{epoch + 1}-batch{batch}.pth" if batch else f"checkpoint-epoch{epoch}.pth"


def position(path: Path) -> tuple[int, int] | None:
    """(whole epochs, batches) that a checkpoint of that name follows, or None for another file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    epoch, batch = int(match[1]), int(match[2] or 0)
    return (epoch - 1, batch) if batch else (epoch, 0)


def read(path: Path, allow_inexact: bool = False) -> RunState:
    """The state in a checkpoint file, every field of which has the form that a run gives it; on the CPU.

    With `allow_inexact` it may lack the generators' states, or be of a newer format.

    Raises:
        CheckpointError: the file cannot be read or is damaged, or a field is of another form.
    """
    return checked(read_file_of_state(path), str(path), allow_inexact)


class CheckpointStore:
    """The checkpoints of one run folder: the newest few by epoch, and the best."""

    def __init__(self, folder: Path | Folder, keep: int = 2) -> None:
        self.folder, self.keep = Folder.of(folder), keep

    def save(self, state: RunState, *, newest: bool, best: bool) -> Path:
        """Write `state` as the newest checkpoint, as the best, or as both, and drop those no longer kept.

        Raises:
            FileSystemError: it could not be written; earlier checkpoints are as they were.
        """
        data = serialise(state)
        name = BEST_NAME
        with beside(comment_on, data) as comment:  # hashing takes as long as writing, and goes on beside it
            if best:
                self.folder.write(name, data[:-2], comment)
            if newest:
                name = checkpoint_name(state["epoch"], state["batch"])
                self.folder.write(name, data[:-2], comment)
                self._prune(self.folder.path / name)
        return self.folder.path / name

    def newest_first(self) -> list[Path]:
        """The run's checkpoints, the one furthest into the run first; model_best.pth is not among them."""
        paths = [self.folder.path / name for name in self.folder.names()]
        found = [(at, path) for path in paths if (at := position(path))]
        return [path for _, path in sorted(found, reverse=True)]

    def set_aside_later_than(self, state: RunState) -> None:
        """Rename the checkpoints of a branch that is abandoned by going on from `state`, so that none is taken for the
        run's own later."""
        here = (state["epoch"], state["batch"])
        later = [path for path in self.newest_first() if (position(path) or here) > here]
        best = self.folder.path / BEST_NAME
        with contextlib.suppress(CheckpointError):  # not there, or damaged: the next best will replace it
            if read(best)["epoch"] > state["epoch"]:
                later.append(best)
        for path in later:
            aside = self.folder.set_aside(path.name, "abandoned")
            get_logger().warning("going back to an earlier checkpoint; a later one is now %s", aside)

    def _prune(self, newest: Path) -> None:
        """Keep `newest` and the `keep - 1` whole epochs before it; a checkpoint within an epoch has served its turn."""
        at = position(newest)
        kept = 1
        for path in self.newest_first():
            if path == newest or (found := position(path)) is None or at is None or found > at:
                continue  # ones further on belong to a run that was resumed from before them
            if kept < self.keep and found[1] == 0:
                kept += 1
            else:
                self.folder.remove(path.name)
