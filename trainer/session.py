"""The log lines and files of a training process before its first step and after its last."""

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

from logger.log import get_logger, set_up_logging
from protocol import announcements, departures
from trainer.best import best_epoch, make_best
from trainer.environment import code_version, environment
from trainer.identity import set_tables_aside
from trainer.resume import Start
from trainer.run_folder import write_run_files, write_settings
from trainer.trainer import Trainer
from trainer.weights import start_from
from utils.run_files import CONFIG_NAME


def load(trainer: Trainer, start: Start) -> None:
    """Load the state of `start`, or the weights that it begins with, into `trainer`.

    Raises:
        CheckpointError: they do not fit.
    """
    if start.state is not None:
        trainer.load_state_dict(start.state, start.source)
    elif start.weights is not None:
        trainer.remarks += start_from(start.weights, trainer.model, trainer.config, trainer.data)


def begin(trainer: Trainer, start: Start) -> None:
    """Write the first files of a run folder, and set aside those that a resume replaces.

    A run's own config.json and data.json stay until a step was done with the settings of the resume: they count at the
    next one.

    Raises:
        FileSystemError: the folder cannot be written.
    """
    config = trainer.config
    if trainer.world.first:
        if start.state is not None:
            trainer.store.set_aside_later_than(start.state)
            _make_best(trainer, start)
        # A killed run has rows beyond its last checkpoint, and makes them again as they were.
        goes_on = start.state is not None and not start.chosen
        tolerance = trainer.store.keep * trainer.loop.save_period if goes_on else 0
        set_tables_aside(trainer.folder, trainer.epoch, tolerance)
        write_run_files(trainer.folder, trainer.data, new=start.state is None)
        here = {**environment(trainer.device, trainer.world.size), "code": code_version()}
        here |= {"changed": trainer.changed} if trainer.changed else {}
        before = start.state and start.state["environment"]
        write = partial(write_settings, trainer.folder, config, trainer.data, here, before)
        if start.in_place and trainer.folder.size(CONFIG_NAME):
            trainer.on_accepted = write
        else:
            write()
        set_up_logging(trainer.folder)
    log = get_logger()
    log.info("run folder: %s", trainer.folder)
    for line in (*announcements(departures(config)), *trainer.data.dataset.notes, *config.remarks, *trainer.remarks):
        log.info("%s", line)


def _make_best(trainer: Trainer, start: Start) -> None:
    """Make model_best.pth that of the best epoch: the monitor may have changed, or a later best been set aside."""
    column, best = trainer.monitor.column, trainer.monitor.best
    if column is not None and best is not None:
        epoch = best_epoch(trainer.history, column, best)
        line = make_best(trainer.folder, epoch, trainer.loop.monitor, Path(start.source))
        trainer.remarks += [line] if line else []


def log_outcome(trainer: Trainer) -> None:
    """Log the result, the run folder, and the command that shows the curves, if there are any."""
    log = get_logger()
    log.info("test accuracy after epoch %d: %.2f%%", trainer.epoch, 100 * trainer.history[-1]["test_accuracy"])
    log.info("run folder: %s", trainer.folder)
    if not trainer.loop.tensorboard:
        return
    tensorboard = ["tensorboard"] if shutil.which("tensorboard") else [sys.executable, "-m", "tensorboard.main"]
    log.info("to see the curves, type: %s", shlex.join([*tensorboard, "--logdir", str(trainer.folder)]))
