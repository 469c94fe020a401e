"""The folder of a run: where it is, what it holds from the start, and how a run to resume is found."""

import contextlib
import json
import re
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

from data_loader.build import RunData
from data_loader.noise import noise_record, transition_table
from logger.log import get_logger
from parse_config import Config
from protocol import departures
from trainer.checkpoint import BEST_NAME, position
from utils.errors import CheckpointError, FileSystemError
from utils.files import temporary_of, user_path, write_atomically
from utils.lock import FolderLock
from utils.run_files import (
    CONFIG_NAME,
    DATA_NAME,
    DIAGNOSTICS_NAME,
    DIVERGED_NAME,
    METRICS_NAME,
    NOISE_NAME,
    TRANSITION_NAME,
)

STAMP = "%Y%m%d_%H%M%S"
_OWN_NAMES = (
    *(CONFIG_NAME, NOISE_NAME, TRANSITION_NAME, DATA_NAME, METRICS_NAME),
    *(DIAGNOSTICS_NAME, DIVERGED_NAME, BEST_NAME),
)


def make_run_folder(config: Config, chosen: Path | None, in_place: bool, lock: FolderLock) -> Path:
    """Create `chosen`, or <save_dir>/<name>/<YYYYmmdd_HHMMSS>[-n] if it is None, and take its lock.

    What a process killed within a save has left there is removed.

    Raises:
        FileSystemError: it cannot be made or written to, another process has its lock, or `chosen` holds the
            checkpoints of another run (it is the run's own if `in_place`).
    """
    folder = _make(chosen, exist_ok=True) if chosen is not None else _make_new(config)
    lock.acquire(folder)
    if lock.left_by:
        get_logger().info("taking over %s from %s, which ended without giving it back", folder, lock.left_by)
    if not in_place and any(folder.glob("*.pth")):
        raise FileSystemError(f"{folder} already holds a run; resume it with -r auto --run-dir, or choose another")
    for path in folder.glob(".*.tmp"):
        if temporary_of(path) in _OWN_NAMES or position(folder / str(temporary_of(path))):
            path.unlink(missing_ok=True)
    return folder


def _make_new(config: Config) -> Path:
    parent = user_path(config.trainer.save_dir) / config.name
    stamp = datetime.now().strftime(STAMP)
    for attempt in range(1000):
        with contextlib.suppress(FileExistsError):
            return _make(parent / (stamp if attempt == 0 else f"{stamp}-{attempt}"), exist_ok=False)
    raise FileSystemError(f"{parent} has a thousand runs of {stamp}")


def write_run_files(folder: Path, config: Config, data: RunData) -> None:
    """config.json, the labels the run is given (noise.npz) and how they came about (noise_transition.csv), and what
    the data are (data.json). What an earlier process said of its loss (diverged.json) goes."""
    write_atomically(folder / CONFIG_NAME, (json.dumps(config.model_dump(), indent=2) + "\n").encode())
    write_atomically(folder / NOISE_NAME, noise_record(data.dataset, data.splits, data.given))
    write_atomically(folder / TRANSITION_NAME, transition_table(data.dataset, data.splits, data.given).encode())
    write_atomically(folder / DATA_NAME, (json.dumps(data_record(config, data), indent=2) + "\n").encode())
    (folder / DIVERGED_NAME).unlink(missing_ok=True)


def data_record(config: Config, data: RunData) -> dict[str, Any]:
    """What a run is trained and judged on: the dataset's digest and classes, images and wrong labels by split, channel
    mean and standard deviation of the training split in [0, 1], and in what the data are as published."""
    parts = data.splits.named()
    wrong = {name: int((given != data.dataset.labels[parts[name]]).sum()) for name, given in data.given.items()}
    return {
        "sha256": data.sha256,
        "classes": list(data.dataset.classes),
        "images": {name: len(part) for name, part in parts.items()},
        "wrong_labels": wrong,
        "mean": data.stats.mean.tolist(),
        "std": data.stats.std.tolist(),
        "as_published": departures(config),
    }


def _make(folder: Path, exist_ok: bool) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok and folder.is_dir():
            raise  # another run of this second
        raise FileSystemError(f"cannot make the run folder {folder}: {error.strerror}; see trainer.save_dir") from error
    return folder


def newest_run(config: Config) -> Path | None:
    """The newest run folder of this name, or None."""
    parent = user_path(config.trainer.save_dir) / config.name
    runs = [path.parent for path in parent.glob(f"*/{CONFIG_NAME}")]
    return max(runs, key=_age, default=None)


def _age(folder: Path) -> tuple[str, int]:
    """Runs sort by the stamp in their name and the number after it; one named by hand by its config's time."""
    stamp = re.fullmatch(r"(\d{8}_\d{6})(?:-(\d+))?", folder.name)
    if stamp:
        return stamp[1], int(stamp[2] or 0)
    made = datetime.fromtimestamp((folder / CONFIG_NAME).stat().st_mtime)
    return made.strftime(STAMP), 0


def folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint file lies in."""
    try:
        if stat.S_ISREG(checkpoint.stat().st_mode):
            return checkpoint.resolve().parent
        kind = "a folder; give a .pth file, or -r auto --run-dir" if checkpoint.is_dir() else "no regular file"
    except OSError as error:
        kind = "not there" if isinstance(error, FileNotFoundError) else f"out of reach ({error.strerror})"
    raise CheckpointError(f"the checkpoint {checkpoint} is {kind}")
