"""Resolves `-r`: which run resumes, from which checkpoint, under which config."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_loader.access import Access
from logger.log import get_logger
from parse_config import Config, load_config, merge, parse_overrides, validate
from trainer.checkpoint import BEST_NAME, CheckpointStore, read
from trainer.identity import is_own_name, is_run, may_go_on_in, original_of, rows_of_metrics
from trainer.run_folder import folder_of, newest_run, refuse_to_lose_tables
from trainer.state import RunState, config_of
from trainer.weights import Weights, initial_weights
from utils.errors import CheckpointError, ConfigError
from utils.files import user_path
from utils.folder import Folder
from utils.keys import value_at
from utils.limits import out_of_memory
from utils.lock import FolderLock
from utils.run_files import CONFIG_NAME

AUTO = "auto"


@dataclass(frozen=True)
class Start:
    """The start of a run: afresh (`state` is None), or from a checkpoint's state.

    `folder` None means a new run folder. `in_place`: the run continues in its own `folder`. `data_named`: the user
    named the place of the data, rather than the checkpoint or its folder. `chosen`: the user named the checkpoint, or
    there is no other. `weights` are those that a run which starts afresh begins with, instead of random ones.
    """

    config: Config
    folder: Path | None
    state: RunState | None = None
    source: str = ""
    in_place: bool = False
    data_named: bool = False
    chosen: bool = False
    weights: Weights | None = None

    @classmethod
    def afresh(cls, config: Config, folder: Path | None, in_place: bool = False) -> "Start":
        """Raises CheckpointError if the weights to start from cannot be read."""
        config, weights = initial_weights(config)
        return cls(config, folder, weights=weights, in_place=in_place)

    def access(self) -> Access:
        """The access that the run has to the place of its data."""
        return Access() if self.state is None else Access.of_checkpoint(self.data_named, self.in_place)


@dataclass(frozen=True)
class Request:
    """The user's request: -c, -r, --run-dir, overrides of settings and --allow-inexact.

    From Python `config_path` may also be the config itself.
    """

    config_path: str | Path | Mapping[str, Any] | None
    resume: str | None
    run_dir: Path | None
    overrides: Sequence[str] = ()
    allow_inexact: bool = False

    @cached_property
    def named(self) -> Config | None:
        """The config of -c with the overrides; None without -c. Raises ConfigError."""
        return None if self.config_path is None else load_config(self.config_path, self.overrides)

    @property
    def config_name(self) -> str:
        return "the one given" if isinstance(self.config_path, Mapping) else str(self.config_path)

    def names_data_of(self, config: Config) -> bool:
        """Whether the user names the place of `config`'s data: with an override, or with the same place in -c."""
        if names_data(self.overrides):
            return True
        try:
            return self.named is not None and self.named.data_loader.args.data_dir == config.data_loader.args.data_dir
        except ConfigError:  # the run's own config counts, not this one
            return False


def find_start(request: Request, lock: FolderLock | None = None) -> Start:
    """Lock the folder of a run that resumes in place, then read its state.

    Raises:
        ConfigError: the request or the config is wrong.
        CheckpointError: the checkpoint is damaged or missing.
        FileSystemError: another process is writing that run.
    """
    run_dir = None if request.run_dir is None else user_path(str(request.run_dir))
    if request.resume is None:
        if request.named is None:
            raise ConfigError("give a config with -c, or a checkpoint to resume with -r")
        return Start.afresh(request.named, run_dir)
    if request.resume == AUTO:
        return _auto(request, run_dir, lock)
    checkpoint = user_path(request.resume)
    folder = folder_of(checkpoint)
    # A checkpoint that was copied out of its run's folder resumes in a new run folder.
    # realpath, unlike resolve, bears a circle of links; making the folder tells of it.
    own = (run_dir is None or Path(os.path.realpath(run_dir)) == folder) and is_run(Folder(folder))
    if own:
        _enter(folder, lock)
    state = read(checkpoint, request.allow_inexact)
    config = _config(request, folder, state, str(checkpoint))
    named = request.names_data_of(config)
    return Start(config, folder if own else run_dir, state, str(checkpoint), own, named, chosen=True)


def _auto(request: Request, run_dir: Path | None, lock: FolderLock | None) -> Start:
    if request.config_path is None and run_dir is None:
        raise ConfigError("-r auto needs -c to know which runs to look among, or --run-dir")
    folder = run_dir
    if folder is None:
        assert request.named is not None
        folder = newest_run(request.named)
    if folder is None or not may_go_on_in(Folder(folder)):
        if request.named is None:
            raise ConfigError(f"-r auto: there is no run in {folder}; give -c to start one there")
        get_logger().info("nothing to resume; starting afresh")
        return Start.afresh(request.named, run_dir)
    _enter(folder, lock)
    candidates = [*CheckpointStore(folder).newest_first(), *(p for p in [folder / BEST_NAME] if p.is_file())]
    for candidate in candidates:
        try:
            state = read(candidate, request.allow_inexact)
        except CheckpointError as error:
            if error.__cause__ is not None and out_of_memory(error.__cause__):  # the file is not to blame
                raise
            get_logger().warning("%s; trying an older one", error)
            continue
        only_best = candidates == [folder / BEST_NAME]
        if only_best and rows_of_metrics(Folder(folder)) > state["epoch"] and not _ended_before_a_save(Folder(folder)):
            raise CheckpointError(
                f"{folder}: of its checkpoints only {BEST_NAME} is left, after epoch {state['epoch']}, and metrics.csv "
                f"has more; -r {candidate} goes back to it and keeps that table aside"
            )
        config = _config(request, folder, state, str(candidate))
        return Start(config, folder, state, str(candidate), True, request.names_data_of(config), chosen=only_best)
    if candidates:
        raise CheckpointError(f"{folder}: none of its {len(candidates)} checkpoints can be read; not starting over")
    if not _ended_before_a_save(Folder(folder)):
        refuse_to_lose_tables(Folder(folder))
    get_logger().info("nothing to resume in %s; starting it afresh", folder)
    return Start.afresh(_config(request, folder, None, ""), folder, in_place=True)


def _ended_before_a_save(folder: Folder) -> bool:
    """Whether a run has rows, and too few for a first checkpoint by its own settings: it was killed before that."""
    try:
        loop = load_config(folder.path / CONFIG_NAME).trainer
    except ConfigError:
        return False
    return 0 < rows_of_metrics(folder) < min(loop.save_period, loop.epochs)


def _enter(folder: Path, lock: FolderLock | None) -> None:
    """Lock a run's folder; `lock` is None if the process will write nothing there."""
    if lock is None:
        return
    held = lock.acquire(folder)
    held.refuse_links(is_own_name)
    original = original_of(held)
    if original is not None:
        get_logger().warning("%s is a copy of %s; the copy goes on as a run of its own", held, original)


def saved_config(state: RunState, source: str, overrides: Sequence[str] = ()) -> Config:
    """The config in a checkpoint with `overrides` applied. Raises CheckpointError for a wrong config, ConfigError for
    wrong overrides."""
    config = config_of(state, source)
    if not overrides:
        return config
    return validate(merge(state["config"], parse_overrides(overrides)), f"the config in {source}")


def names_data(overrides: Sequence[str]) -> bool:
    """Whether an override names the place of the data."""
    return value_at(parse_overrides(overrides), "data_loader.args.data_dir") is not None


def _config(request: Request, folder: Path, state: RunState | None, source: str) -> Config:
    """The run folder's own config; if that is damaged, the checkpoint's; if it is missing, the one named with -c.
    The overrides are applied to it. Raises ConfigError or CheckpointError."""
    own = folder / CONFIG_NAME
    if own.is_file():
        found = _own_config(own, request.overrides)
        if isinstance(found, Config):
            if request.config_path is not None:
                get_logger().info("resuming with the config of %s, not with %s", folder, request.config_name)
            return found
        if state is None and request.named is None:
            raise found
        get_logger().warning("%s; using the config of %s", found, request.config_name if state is None else source)
    elif request.named is not None:
        return request.named
    if state is not None:
        return saved_config(state, source, request.overrides)
    assert request.named is not None, "without a checkpoint there is a run's config, or one named"
    return request.named


def _own_config(path: Path, overrides: Sequence[str]) -> Config | ConfigError:
    """A run's config with the overrides, or the error in the file. Raises ConfigError if the overrides are wrong."""
    try:
        return load_config(path, overrides)
    except ConfigError:
        try:
            load_config(path)
        except ConfigError as error:
            return error
        raise
