"""The folder of a run: its creation, its first files, and the search for the run to resume."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from data_loader.build import RunData
from data_loader.noise import noise_record, transition_table
from logger.log import get_logger
from parse_config import Config
from protocol import departures
from trainer.identity import (
    STAMP,
    STAMPED,
    Identity,
    is_own_name,
    is_run,
    is_temporary,
    keep_identity,
    may_go_on_in,
    read_identity,
    set_strangers_aside,
    strangers,
    tables,
)
from utils import strict_json
from utils.errors import CheckpointError, FileSystemError
from utils.files import user_path
from utils.folder import Folder
from utils.lock import FolderLock
from utils.run_files import (
    CONFIG_NAME,
    DATA_NAME,
    DIVERGED_NAME,
    LARGEST_JSON,
    METRICS_NAME,
    NOISE_NAME,
    TRANSITION_NAME,
)
from utils.text import first_of

MOST_ENVIRONMENTS = 100  # that are kept of a run which is resumed again and again on other machines
CLOCK_TOLERANCE = timedelta(minutes=5)  # tolerance for times ahead of this machine's clock


def make_run_folder(config: Config, chosen: Path | None, in_place: bool, lock: FolderLock) -> Path:
    """Create and lock `chosen`, or, if it is None, <save_dir>/<name>/<YYYYmmdd_HHMMSS>[-n] in UTC.

    It removes the temporary files of a process that was killed during a save. `in_place`: `chosen` is the run's own.

    Raises:
        FileSystemError: the folder cannot be made or written to, another process has its lock, or, unless `in_place`,
            `chosen` holds the checkpoints of another run or files that no run wrote.
        CheckpointError: `chosen` holds the results of a run whose checkpoints are gone.
    """
    path = _make(chosen, exist_ok=True) if chosen is not None else _make_new(config)
    if not in_place and not may_go_on_in(Folder(path)):
        refuse_what_is_there(Folder(path))  # before the lock: not even that is written into others' folders
    folder = lock.acquire(path)
    folder.refuse_links(is_own_name)
    if lock.left_by:
        get_logger().info("taking over %s from %s, which ended without giving it back", folder, lock.left_by)
    if not in_place:
        refuse_what_is_there(folder)
    for name in folder.names():
        if is_temporary(name):
            folder.remove(name)
    return path


def refuse_what_is_there(folder: Folder) -> None:
    """Raise unless a new run may be written into `folder`: it is empty, or holds a run without checkpoints or results.

    Raises:
        FileSystemError: it holds a run, or files that no run wrote.
        CheckpointError: it holds the results of a run whose checkpoints are gone.
    """
    folder.refuse_links(is_own_name)
    if may_go_on_in(folder):
        if any(name.endswith(".pth") for name in folder.names()):
            raise FileSystemError(f"{folder} already holds a run; resume it with -r auto --run-dir, or choose another")
        refuse_to_lose_tables(folder)
        return
    others = [name for name in strangers(folder) if not _is_our_output(folder.path / name)]
    others = others or [name for name in folder.names() if is_own_name(name) and folder.size(name) and name[0] != "."]
    if others:
        raise FileSystemError(
            f"{folder} holds what is not a run's ({first_of(others, 3)}); choose another, or an empty folder"
        )


def refuse_to_lose_tables(folder: Folder) -> None:
    """Raise CheckpointError if a new run in `folder` would overwrite the results of an earlier one."""
    found = tables(folder)
    if found:
        raise CheckpointError(
            f"{folder} holds the results of a run ({', '.join(found)}) whose checkpoints are gone; a run that started "
            "there would write over them: choose another --run-dir, or move the folder away"
        )


def _is_our_output(path: Path) -> bool:
    """Whether this process prints into that file, as in `train.py ... --run-dir x > x/out.txt`."""
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(stream), path.stat()):
                return True
    return False


def _make_new(config: Config) -> Path:
    parent = user_path(config.trainer.save_dir) / config.name
    stamp = datetime.now(UTC).strftime(STAMP)
    for attempt in range(1000):
        with contextlib.suppress(FileExistsError):
            return _make(parent / (stamp if attempt == 0 else f"{stamp}-{attempt}"), exist_ok=False)
    raise FileSystemError(f"{parent} has a thousand runs of {stamp}")


def write_run_files(folder: Folder, data: RunData, new: bool) -> None:
    """Write run.json, the given labels (noise.npz) and the realised noise (noise_transition.csv). Remove an earlier
    process's diverged.json. `new`: the run does not go on from a checkpoint.

    Raises:
        FileSystemError: a file cannot be written.
        CheckpointError: a run that had no checkpoint yet was begun there on other data.
    """
    if new and _record(folder).get("sha256", data.sha256) != data.sha256:
        raise CheckpointError(
            f"{folder}: a run was begun there on other data; choose another --run-dir, or move it away"
        )
    set_strangers_aside(folder)
    keep_identity(folder)  # first: it marks the other files as a run's
    folder.write(NOISE_NAME, noise_record(data.dataset, data.splits, data.given))
    table = transition_table(data.dataset, data.splits, data.given)
    if table is not None:
        folder.write(TRANSITION_NAME, table.encode())
    folder.remove(DIVERGED_NAME)


def write_settings(
    folder: Folder, config: Config, data: RunData, here: Mapping[str, Any], before: Mapping[str, Any] | None
) -> None:
    """Write the settings (config.json), which count at the next resume, and facts about data and machine (data.json).

    `here` is the environment of this process and what it changed; `before` is the environment of the checkpoint from
    which the run goes on. Raises FileSystemError.
    """
    folder.write(CONFIG_NAME, (json.dumps(config.model_dump(), indent=2) + "\n").encode())
    record = {**data_record(config, data), "environments": _environments(folder, here, before)}
    folder.write(DATA_NAME, (json.dumps(record, indent=2) + "\n").encode())


def _environments(folder: Folder, here: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[Any]:
    """The environments of all processes of a run, in order; of neighbours that are equal, one."""
    found: list[Any] = []
    if before is not None:
        earlier = _record(folder).get("environments")
        found = earlier if isinstance(earlier, list) and earlier else [before]
    return found[-MOST_ENVIRONMENTS:] + [here] * (found[-1:] != [here])


def _record(folder: Folder) -> dict[str, Any]:
    """The data.json of an earlier process; empty if there is none that can be read."""
    with contextlib.suppress(ValueError, RecursionError, FileSystemError):
        record = strict_json.loads((folder.read(DATA_NAME, LARGEST_JSON) or b"{}").decode())
        return record if isinstance(record, dict) else {}
    return {}


def data_record(config: Config, data: RunData) -> dict[str, Any]:
    """The facts about a run's data: the dataset's digest and classes, images and wrong labels by split, channel mean
    and standard deviation of the training split in [0, 1], and what is as published."""
    parts = data.splits.named()
    wrong = {name: int((given != data.dataset.labels[parts[name]]).sum()) for name, given in data.given.items()}
    return {
        "sha256": data.sha256,
        **({"from_python": True} if data.dataset.from_python else {}),
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
    """The run of this name that was saved last, by the times in the runs' run.json; None if there is none.

    Times ahead of this machine's clock count as older than all others, and a run is preferred to its copies. If either
    occurs, one warning says so.
    """
    parent = user_path(config.trainer.save_dir) / config.name
    places = {path.resolve() for path in parent.glob("*") if path.is_dir()}
    runs = [(folder, _identity(folder)) for folder in map(Folder, sorted(places)) if is_run(folder)]
    if not runs:
        return None
    families: dict[str, list[tuple[Folder, Identity]]] = {}
    for folder, identity in runs:
        families.setdefault(identity.key, []).append((folder, identity))
    notes, originals = [], []
    for family in families.values():
        named = [(folder, identity) for folder, identity in family if identity.folder == folder.path.name]
        best = max(named or family, key=lambda run: run[1].saved)
        originals.append(best)
        if len(family) > 1:
            copies = [folder.path.name for folder, _ in family if folder is not best[0]]
            notes.append(f"{', '.join(copies)} is a copy of {best[0].path.name}")
    limit = datetime.now(UTC) + CLOCK_TOLERANCE
    ahead = [folder.path.name for folder, identity in originals if identity.saved > limit]
    if ahead:
        notes.append(f"{', '.join(ahead)} was saved at a time that has not come yet, so it counts as old")
    chosen, _ = max(originals, key=lambda run: (run[1].saved <= limit, run[1].saved))
    if notes:
        notes_text = "; ".join(notes)
        get_logger().warning("-r auto: %s; going on with %s; --run-dir names another", notes_text, chosen)
    return chosen.path


def _identity(folder: Folder) -> Identity:
    """The identity in run.json, or, for an older run without one, an identity derived from its files: the key is a hash
    of the first epoch's row, and the folder's name counts if it is a stamp, which a copy's is not."""
    found = read_identity(folder)
    if found is not None:
        return found
    head = (folder.read(METRICS_NAME, 1 << 16) or os.fsencode(folder.path)).splitlines()[:2]
    name = folder.path.name if STAMPED.fullmatch(folder.path.name) else ""
    saved = max((folder.path / file).stat().st_mtime for file in folder.names() if is_own_name(file) and file[0] != ".")
    try:
        when = datetime.fromtimestamp(saved, UTC)
    except (ValueError, OverflowError):  # of no year that Python knows, so a clock's mistake, as one ahead is
        when = datetime.max.replace(tzinfo=UTC)
    return Identity(hashlib.sha256(b"".join(head)).hexdigest(), name, when)


def folder_of(checkpoint: Path) -> Path:
    """The folder that a checkpoint file lies in."""
    if checkpoint.is_symlink() and is_own_name(checkpoint.name):
        raise FileSystemError(f"{checkpoint} is a link; give the checkpoint that it leads to")
    try:
        if stat.S_ISREG(checkpoint.stat().st_mode):
            return checkpoint.resolve().parent
        kind = "a folder; give a .pth file, or -r auto --run-dir" if checkpoint.is_dir() else "no regular file"
    except OSError as error:
        kind = "not there" if isinstance(error, FileNotFoundError) else f"out of reach ({error.strerror})"
    raise CheckpointError(f"the checkpoint {checkpoint} is {kind}")
