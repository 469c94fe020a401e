"""The checkpoints of a run: written whole or not at all, and checked in full before they are used."""

import contextlib
import re
from pathlib import Path

from logger.log import get_logger
from trainer.checkpoint_file import COMMENT_LENGTH, LARGEST_FILE, comment_on, read_bytes, serialise, unpack
from trainer.state import RunState, checked, stored
from utils.errors import CheckpointError
from utils.folder import Folder
from utils.plain_pickle import malformed
from utils.reading import errors_as
from utils.tensor_file import Outline, read_tensors
from utils.threads import in_thread

_NAME = re.compile(r"checkpoint-epoch(\d+)(?:-batch(\d+))?\.pth")
BEST_NAME = "model_best.pth"


def checkpoint_name(epoch: int, batch: int) -> str:
    """The name of a checkpoint after `epoch` whole epochs, and, if batch > 0, after `batch` batches of the next one."""
    return f"checkpoint-epoch{epoch + 1}-batch{batch}.pth" if batch else f"checkpoint-epoch{epoch}.pth"


def position(path: Path) -> tuple[int, int] | None:
    """(whole epochs, batches) done at a checkpoint of that name, or None for another file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    epoch, batch = int(match[1]), int(match[2] or 0)
    return (epoch - 1, batch) if batch else (epoch, 0)


def read(path: Path, allow_inexact: bool = False) -> RunState:
    """The state in a checkpoint file, on the CPU. Every field has been checked to be as a run writes it.

    With `allow_inexact` the generators' states may be missing, and the format may be newer.

    Raises:
        CheckpointError: the file cannot be read or is damaged, or a field is not as a run writes it.
    """
    return checked(unpack(read_bytes(path), str(path)), str(path), allow_inexact)


class CheckpointStore:
    """The checkpoints of one run folder: the newest few by epoch, and the best."""

    def __init__(self, folder: Path | Folder, keep: int = 2) -> None:
        self.folder, self.keep = Folder.of(folder), keep

    def save(self, state: RunState, *, newest: bool, best: bool) -> Path:
        """Write `state` as the newest checkpoint, as the best, or as both, and remove old ones.

        Raises:
            CheckpointError: `read` would refuse it.
            FileSystemError: it could not be written. Either way earlier checkpoints are unchanged.
        """
        data = serialise(stored(state))
        with errors_as(
            CheckpointError,
            str(self.folder),
            "nothing is saved, since a checkpoint of this run would be too large to be read again",
            "; earlier ones are unchanged; take a smaller network",
        ):
            if len(data) + COMMENT_LENGTH > LARGEST_FILE:
                malformed(f"it would be {len(data):,} bytes")
            read_tensors(data, Outline)
        name, zipped = BEST_NAME, memoryview(data)[:-2]
        with in_thread(comment_on, data) as comment:  # hashing takes as long as writing, and runs at the same time
            if best:
                self.folder.write(name, zipped, comment)
            if newest:
                name = checkpoint_name(state["epoch"], state["batch"])
                self.folder.write(name, zipped, comment)
                self._prune(self.folder.path / name)
        return self.folder.path / name

    def newest_first(self) -> list[Path]:
        """The run's checkpoints without model_best.pth, the furthest one first."""
        paths = [self.folder.path / name for name in self.folder.names()]
        found = [(at, path) for path in paths if (at := position(path))]
        return [path for _, path in sorted(found, reverse=True)]

    def set_aside_later_than(self, state: RunState) -> None:
        """Rename the checkpoints later than `state`: resuming from `state` abandons them, and no later resume may take
        one."""
        here = (state["epoch"], state["batch"])
        later = [path for path in self.newest_first() if (position(path) or here) > here]
        best = self.folder.path / BEST_NAME
        with contextlib.suppress(CheckpointError):  # missing or damaged: the next best replaces it
            if read(best)["epoch"] > state["epoch"]:
                later.append(best)
        for path in later:
            aside = self.folder.set_aside(path.name, "abandoned")
            get_logger().warning("going back to an earlier checkpoint; a later one is now %s", aside)

    def _prune(self, newest: Path) -> None:
        """Keep `newest` and the `keep - 1` whole epochs before it; remove older checkpoints within epochs."""
        at = position(newest)
        kept = 1
        for path in self.newest_first():
            if path == newest or (found := position(path)) is None or at is None or found > at:
                continue  # later ones belong to a branch from before the resume
            if kept < self.keep and found[1] == 0:
                kept += 1
            else:
                self.folder.remove(path.name)
