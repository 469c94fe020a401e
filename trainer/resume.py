"""Resolves `-r`: which run resumes, from which checkpoint, under which config."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loader.access import Access
from logger.log import get_logger
from parse_config import Config, load_config, merge, parse_overrides, validate
from trainer.checkpoint import BEST_NAME, CheckpointStore, read
from trainer.identity import is_own_name, is_run, may_go_on_in, original_of, rows_of_metrics
from trainer.run_folder import folder_of, newest_run, refuse_to_lose_tables
from trainer.state import RunState, config_of
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
    named the place of the data, rather than the checkpoint or its folder. `chosen`: the user named the checkpoint.
    """

    config: Config
    folder: Path | None
    state: RunState | None = None
    source: str = ""
    in_place: bool = False
    data_named: bool = False
    chosen: bool = False

    def access(self) -> Access:
        """The access that the run has to the place of its data."""
        return Access() if self.state is None else Access.of_checkpoint(self.data_named, self.in_place)


def find_start(
    config_path: str | None,
    resume: str | None,
    run_dir: Path | None,
    overrides: Sequence[str],
    lock: FolderLock | None = None,
    allow_inexact: bool = False,
) -> Start:
    """Lock the folder of a run that resumes in place, then read its state.

    Raises:
        ConfigError: the request or the config is wrong.
        CheckpointError: the checkpoint is damaged or missing.
        FileSystemError: another process is writing that run.
    """
    run_dir = None if run_dir is None else user_path(str(run_dir))
    if resume is None:
        if config_path is None:
            raise ConfigError("give a config with -c, or a checkpoint to resume with -r")
        return Start(load_config(config_path, overrides), run_dir)
    if resume == AUTO:
        return _auto(config_path, run_dir, overrides, lock, allow_inexact)
    checkpoint = user_path(resume)
    folder = folder_of(checkpoint)
    # A checkpoint that was copied out of its run's folder resumes in a new run folder.
    own = (run_dir is None or run_dir.resolve() == folder) and is_run(Folder(folder))
    if own:
        _enter(folder, lock)
    state = read(checkpoint, allow_inexact)
    config = _config(config_path, folder, state, str(checkpoint), overrides)
    named = names_data(overrides) or _same_place(config_path, overrides, config)
    return Start(config, folder if own else run_dir, state, str(checkpoint), own, named, chosen=True)


def _auto(
    config_path: str | None,
    run_dir: Path | None,
    overrides: Sequence[str],
    lock: FolderLock | None,
    allow_inexact: bool,
) -> Start:
    if config_path is None and run_dir is None:
        raise ConfigError("-r auto needs -c to know which runs to look among, or --run-dir")
    folder = run_dir or newest_run(load_config(str(config_path), overrides))
    if folder is None or not may_go_on_in(Folder(folder)):
        if config_path is None:
            raise ConfigError(f"-r auto: there is no run in {folder}; give -c to start one there")
        get_logger().info("nothing to resume; starting afresh")
        return Start(load_config(config_path, overrides), run_dir)
    _enter(folder, lock)
    candidates = [*CheckpointStore(folder).newest_first(), *(p for p in [folder / BEST_NAME] if p.is_file())]
    for candidate in candidates:
        try:
            state = read(candidate, allow_inexact)
        except CheckpointError as error:
            if error.__cause__ is not None and out_of_memory(error.__cause__):  # the file is not to blame
                raise
            get_logger().warning("%s; trying an older one", error)
            continue
        if candidates == [folder / BEST_NAME] and rows_of_metrics(Folder(folder)) > state["epoch"]:
            raise CheckpointError(
                f"{folder}: of its checkpoints only {BEST_NAME} is left, after epoch {state['epoch']}, and metrics.csv "
                f"has more; -r {candidate} goes back to it and keeps that table aside"
            )
        config = _config(config_path, folder, state, str(candidate), overrides)
        named = names_data(overrides) or _same_place(config_path, overrides, config)
        return Start(config, folder, state, str(candidate), True, named)
    if candidates:
        raise CheckpointError(f"{folder}: none of its {len(candidates)} checkpoints can be read; not starting over")
    refuse_to_lose_tables(Folder(folder))
    get_logger().info("nothing to resume in %s; starting it afresh", folder)
    return Start(_config(config_path, folder, None, "", overrides), folder, in_place=True)


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


def _same_place(config_path: str | None, overrides: Sequence[str], config: Config) -> bool:
    """Whether the config that the user named has the same place of the data as `config`."""
    if config_path is None:
        return False
    try:
        return load_config(config_path, overrides).data_loader.args.data_dir == config.data_loader.args.data_dir
    except ConfigError:  # the run's own config counts, not this one
        return False


def _config(
    config_path: str | None, folder: Path, state: RunState | None, source: str, overrides: Sequence[str]
) -> Config:
    """The run folder's own config; if that is damaged, the checkpoint's; if it is missing, the one named with -c.
    `overrides` are applied to it. Raises ConfigError or CheckpointError."""
    own = folder / CONFIG_NAME
    if own.is_file():
        try:
            load_config(own)
        except ConfigError as error:
            if state is None and config_path is None:
                raise
            instead = config_path if state is None else source
            get_logger().warning("%s; using the config of %s", error, instead)
            config_path = None if state is not None else config_path
        else:
            if config_path is not None:
                get_logger().info("resuming with the config of %s, not with %s", folder, config_path)
            return load_config(own, overrides)
    if config_path is not None:
        return load_config(config_path, overrides)
    assert state is not None, "without a checkpoint there is a run's config, or one named"
    return saved_config(state, source, overrides)
