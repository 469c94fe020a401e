"""What `-r` means: which run goes on, from which checkpoint, under which config."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logger.log import get_logger
from parse_config import Config, load_config, merge, parse_overrides, validate
from trainer.checkpoint import BEST_NAME, CheckpointStore, read
from trainer.run_folder import CONFIG_NAME, folder_of, newest_run
from utils.errors import CheckpointError, ConfigError
from utils.files import user_path

AUTO = "auto"


@dataclass(frozen=True)
class Start:
    """Where a run starts: afresh (no state), or from a checkpoint's state.

    `folder` None is a new run folder; `in_place` says that `folder` is the run's own and goes on being written.
    """

    config: Config
    folder: Path | None
    state: dict[str, Any] | None = None
    source: str = ""
    in_place: bool = False


def find_start(config_path: str | None, resume: str | None, run_dir: Path | None, overrides: Sequence[str]) -> Start:
    """Raises ConfigError, or CheckpointError where what is to be resumed is damaged or not there."""
    if resume is None:
        if config_path is None:
            raise ConfigError("give a config with -c, or a checkpoint to resume with -r")
        return Start(load_config(config_path, overrides), run_dir)
    if resume == AUTO:
        return _auto(config_path, run_dir, overrides)
    checkpoint = user_path(resume)
    folder = folder_of(checkpoint)
    state = read(checkpoint)
    config = _config(config_path, folder, state, overrides)
    if run_dir is not None and run_dir.resolve() != folder:
        return Start(config, run_dir, state, str(checkpoint))
    # A checkpoint that was copied away from its run goes on in a new run folder.
    own = (folder / CONFIG_NAME).is_file()
    return Start(config, folder if own else None, state, str(checkpoint), in_place=own)


def _auto(config_path: str | None, run_dir: Path | None, overrides: Sequence[str]) -> Start:
    if config_path is None and run_dir is None:
        raise ConfigError("-r auto needs -c to know which runs to look among, or --run-dir")
    folder = run_dir or newest_run(load_config(str(config_path), overrides))
    if folder is None or not (folder / CONFIG_NAME).is_file():
        if config_path is None:
            raise ConfigError(f"-r auto: there is no run in {folder}; give -c to start one there")
        get_logger().info("nothing to resume; starting afresh")
        return Start(load_config(config_path, overrides), run_dir)
    store = CheckpointStore(folder)
    candidates = [*store.newest_first(), *(path for path in [folder / BEST_NAME] if path.is_file())]
    for candidate in candidates:
        try:
            state = read(candidate)
        except CheckpointError as error:
            get_logger().warning("%s; trying an older one", error)
            continue
        return Start(_config(None, folder, state, overrides), folder, state, str(candidate), in_place=True)
    if candidates:
        raise CheckpointError(f"{folder}: none of its {len(candidates)} checkpoints can be read; not starting over")
    get_logger().info("nothing to resume in %s; starting it afresh", folder)
    return Start(load_config(folder / CONFIG_NAME, overrides), folder, in_place=True)


def _config(config_path: str | None, folder: Path, state: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The run folder's config, else the one named with -c, else the one in the checkpoint; overrides on top."""
    if (folder / CONFIG_NAME).is_file():
        if config_path is not None:
            get_logger().info("resuming with the config of %s, not with %s", folder, config_path)
        return load_config(folder / CONFIG_NAME, overrides)
    if config_path is not None:
        return load_config(config_path, overrides)
    return validate(merge(state["config"], parse_overrides(overrides)), "the checkpoint's config")
