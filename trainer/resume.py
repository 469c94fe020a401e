"""What `-r` means: which run goes on, from which checkpoint, under which config."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logger.log import get_logger
from parse_config import Config, load_config, parse_overrides, validate
from parse_config import merge as merge_layers
from trainer.checkpoint import BEST_NAME, CheckpointStore, position, read
from trainer.run_folder import CONFIG_NAME, folder_of, newest_run
from utils.errors import CheckpointError, ConfigError

AUTO = "auto"


@dataclass(frozen=True)
class Start:
    """Where a run starts: afresh (no state), or from a checkpoint's state. `folder` None is a new run folder."""

    config: Config
    folder: Path | None
    state: dict[str, Any] | None = None
    source: str = ""


def find_start(config_path: str | None, resume: str | None, run_dir: Path | None, overrides: Sequence[str]) -> Start:
    """Raises ConfigError, or CheckpointError where what is to be resumed is damaged or not there."""
    if resume is None:
        if config_path is None:
            raise ConfigError("give a config with -c, or a checkpoint to resume with -r")
        return Start(load_config(config_path, overrides), run_dir)
    if resume == AUTO:
        return _auto(config_path, run_dir, overrides)
    checkpoint = Path(resume)
    folder = folder_of(checkpoint)
    state = read(checkpoint)
    later = [
        path.name for path in CheckpointStore(folder).newest_first() if (position(path) or (0, 0)) > _reached(state)
    ]
    if later:
        get_logger().warning("%s is not the newest; this run will overwrite %s", checkpoint.name, ", ".join(later))
    return Start(_config(config_path, folder, state, overrides), run_dir or folder, state, str(checkpoint))


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
        return Start(_config(None, folder, state, overrides), folder, state, str(candidate))
    if candidates:
        raise CheckpointError(f"{folder}: none of its {len(candidates)} checkpoints can be read; not starting over")
    get_logger().info("nothing to resume in %s; starting it afresh", folder)
    return Start(load_config(folder / CONFIG_NAME, overrides), folder)


def _config(config_path: str | None, folder: Path, state: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The config named with -c, else the run folder's, else the one in the checkpoint; overrides on top."""
    if config_path is not None:
        return load_config(config_path, overrides)
    if (folder / CONFIG_NAME).is_file():
        return load_config(folder / CONFIG_NAME, overrides)
    return validate(merge_layers(state["config"], parse_overrides(overrides)), "the checkpoint's config")


def _reached(state: dict[str, Any]) -> tuple[int, int]:
    return state["epoch"], state["batch"]
