"""The identity of a run (run.json), and the recognition of its folder.

Names prove nothing: any program may write a config.json, data.json or metrics.csv. The contents of the files decide.
"""

import csv
import io
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from logger.log import get_logger
from trainer.checkpoint import BEST_NAME, position
from trainer.checkpoint_file import is_signed
from utils import strict_json
from utils.columns import DIAGNOSTIC_COLUMNS, FIRST_COLUMNS, SPLITS
from utils.errors import FileSystemError
from utils.files import temporary_of
from utils.folder import Folder
from utils.lock import NAMES as LOCK_NAMES
from utils.run_files import (
    CONFIG_NAME,
    DATA_NAME,
    DIAGNOSTICS_NAME,
    DIVERGED_NAME,
    LARGEST_JSON,
    LOG_NAME,
    METRICS_NAME,
    NOISE_NAME,
    RUN_NAME,
    TRANSITION_NAME,
)

STAMP = "%Y%m%d_%H%M%S"  # name of a run folder, in UTC
STAMPED = re.compile(r"\d{8}_\d{6}(-\d+)?")
_PROGRAM = "train.py"
_LARGEST = 1 << 26  # bytes read of a file
_TESTED = re.compile(r".+-(test\.json|confusion\.png)")  # files of test.py


@dataclass(frozen=True)
class Identity:
    """`key` identifies the run; a copy of its folder has the same key. `folder` is the folder's name when the run last
    wrote run.json. `saved` is the time of its last save, or of its start, in UTC."""

    key: str
    folder: str
    saved: datetime

    def dump(self) -> bytes:
        record = {"program": _PROGRAM, "run": self.key, "folder": self.folder, "saved": self.saved.isoformat()}
        return (json.dumps(record, indent=2) + "\n").encode()


def read_identity(folder: Folder) -> Identity | None:
    """The identity in run.json; None if there is none, or if it is damaged or another program's."""
    found = _object(_contents(folder, RUN_NAME))
    try:
        key, name, saved = found["run"], found["folder"], datetime.fromisoformat(found["saved"])
        own = found["program"] == _PROGRAM and re.fullmatch(r"[0-9a-f]{16,64}", key)
        return Identity(key, str(name), saved.astimezone(UTC)) if own else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def keep_identity(folder: Folder) -> None:
    """Write run.json at the start of a process, for a new or a resumed run. A copy gets a new key. Raises
    FileSystemError."""
    found = read_identity(folder)
    key = found.key if found is not None and original_of(folder) is None else secrets.token_hex(16)
    saved = _now() if found is None else found.saved
    folder.write(RUN_NAME, Identity(key, folder.path.name, saved).dump())


def note_save(folder: Folder) -> None:
    """Write the time of a save into run.json. A failure is a warning: the next save writes it again."""
    found = read_identity(folder)
    if found is not None:
        try:
            folder.write(RUN_NAME, replace(found, saved=_now()).dump())
        except FileSystemError as error:
            get_logger().warning("%s; the time of this save is not noted", error)


def original_of(folder: Folder) -> Folder | None:
    """The run beside `folder` that `folder` is a copy of, or None: run.json of both has the same key and its name."""
    own = read_identity(folder)
    if own is None or own.folder in ("", ".", "..", folder.path.name) or not re.fullmatch(r"[^/\\\0]+", own.folder):
        return None
    beside = Folder(folder.path.with_name(own.folder))
    other = read_identity(beside)
    return beside if other is not None and (other.key, other.folder) == (own.key, own.folder) else None


def is_run(folder: Folder) -> bool:
    """Whether a run wrote the contents of `folder`: it has a run.json, or (older runs) two files whose contents only a
    run writes. A single such file may have been copied there."""
    if read_identity(folder) is not None:
        return True
    kinds = [name for name, ours in _CONTENT_CHECKS.items() if (data := _contents(folder, name)) and ours(data)]
    return len(kinds) + bool(signed_checkpoints(folder)) > 1


def may_go_on_in(folder: Folder) -> bool:
    """Whether a run can resume in `folder`: it is a run's, or it holds checkpoints and nothing else."""
    return is_run(folder) or (bool(signed_checkpoints(folder)) and not strangers(folder))


def signed_checkpoints(folder: Folder) -> list[str]:
    return [name for name in folder.names() if _is_checkpoint(name) and is_signed(folder, name)]


def tables(folder: Folder) -> list[str]:
    """The names of the tables with a run's results that `folder` holds."""
    return [name for name in (METRICS_NAME, DIAGNOSTICS_NAME) if folder.size(name)]


def rows_of_metrics(folder: Folder) -> int:
    """The number of epochs in metrics.csv."""
    return max(0, len((folder.read(METRICS_NAME, _LARGEST) or b"").splitlines()) - 1)


def set_tables_aside(folder: Folder, epoch: int, tolerance: int) -> None:
    """Rename the tables if they have more than `epoch` + `tolerance` epochs: those are results that a resume would
    overwrite. The resume makes up to `tolerance` epochs again as they were."""
    if rows_of_metrics(folder) > epoch + tolerance:
        for name in tables(folder):
            aside = folder.set_aside(name, "abandoned")
            get_logger().warning("going back to epoch %d; the table of later epochs is now %s", epoch, aside)


def is_own_name(name: str) -> bool:
    """Whether a run writes files of that name."""
    return (
        name in (*_CONTENT_CHECKS, RUN_NAME, LOG_NAME, *LOCK_NAMES)
        or _is_checkpoint(name)
        or "events.out.tfevents." in name
    )


def is_temporary(name: str) -> bool:
    """Whether `name` is that of the temporary file of a run's file."""
    final = temporary_of(Path(name))
    return final is not None and (final in (*_CONTENT_CHECKS, RUN_NAME) or _is_checkpoint(final))


def strangers(folder: Folder) -> list[str]:
    """The visible files in `folder` that no run wrote, by their names or their contents."""
    return [
        name
        for name in folder.names()
        if not name.startswith(".")
        and name != "lost+found"
        and not _TESTED.fullmatch(name)
        and not _is_board(folder, name)
        and not _is_own(folder, name)
    ]


def _is_board(folder: Folder, name: str) -> bool:
    """Whether `name` is a subfolder with nothing but TensorBoard's events of a split."""
    path = folder.path / name
    return name in SPLITS and path.is_dir() and all("events.out.tfevents." in each for each in Folder(path).names())


def set_strangers_aside(folder: Folder) -> None:
    """Rename files that have the name of a run's file but not its contents: they are damaged or not ours."""
    for name, ours in _CONTENT_CHECKS.items():
        data = _contents(folder, name)
        if data and not ours(data):
            aside = folder.set_aside(name, "aside")
            get_logger().warning("%s is not as a run writes it; it is now %s", folder.path / name, aside)


def _is_own(folder: Folder, name: str) -> bool:
    if name in _CONTENT_CHECKS:
        data = _contents(folder, name)
        return not data or _CONTENT_CHECKS[name](data)
    return is_own_name(name) and (not _is_checkpoint(name) or is_signed(folder, name))


def _contents(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name, _LARGEST)
    except OSError:
        return b"\0"  # the file exists and cannot be read


def _is_checkpoint(name: str) -> bool:
    return name == BEST_NAME or position(Path(name)) is not None


def _object(data: bytes | None) -> Mapping[str, Any]:
    if not data or len(data) > LARGEST_JSON:
        return {}
    try:
        found = strict_json.loads(data.decode("utf-8-sig"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _has(*keys: str) -> Callable[[bytes], bool]:
    return lambda data: _object(data).keys() >= set(keys)


def _begins(columns: tuple[str, ...]) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(",".join(columns).encode())


def _is_config(data: bytes) -> bool:
    """Whether it is a resolved config, which has all blocks. A config that people write has only a few."""
    found = _object(data)
    blocks = [
        found.get(name) for name in ("arch", "data_loader", "label_noise", "optimizer", "lr_scheduler", "trainer")
    ]
    whole = all(isinstance(block, dict) for block in blocks) and found.keys() >= {"name", "seed", "loss", "metrics"}
    return whole and found["trainer"].keys() >= {"epochs", "save_dir", "monitor"} and "_base_" not in found


def _is_transition(data: bytes) -> bool:
    try:
        head, *rows = csv.reader(io.StringIO(data.decode()))
    except (ValueError, csv.Error):
        return False
    return head[:1] == ["true"] and [row[:1] for row in rows] == [[name] for name in head[1:]]


#: A run's files of fixed names, except run.json, and for each a test that a run wrote its contents.
_CONTENT_CHECKS: dict[str, Callable[[bytes], bool]] = {
    CONFIG_NAME: _is_config,
    DATA_NAME: _has("sha256", "classes", "images"),
    METRICS_NAME: _begins(FIRST_COLUMNS),
    DIAGNOSTICS_NAME: _begins(DIAGNOSTIC_COLUMNS),
    NOISE_NAME: lambda data: data.startswith(b"PK") and b"given_label.npy" in data,
    TRANSITION_NAME: _is_transition,
    DIVERGED_NAME: _has("epoch", "step"),
}


def _now() -> datetime:
    return datetime.now(UTC)
