"""What a training process says and writes before its first step and after its last."""

import shutil
import sys

from logger.log import get_logger, set_up_logging
from protocol import announcements, departures
from trainer.resume import Start
from trainer.run_folder import write_run_files
from trainer.trainer import Trainer


def begin(trainer: Trainer, start: Start) -> None:
    """Put `trainer` where `start` says, and write what a run folder holds from the start.

    A checkpoint that does not fit changes nothing in the folder: it is loaded before anything is written.

    Raises:
        CheckpointError: the state does not fit.
        FileSystemError: the folder cannot be written.
    """
    if start.state is not None:
        trainer.load_state_dict(start.state, start.source)
    if trainer.world.first:
        if start.state is not None:
            trainer.store.set_aside_later_than(start.state)
        write_run_files(trainer.folder, trainer.whole_config, trainer.data)
        set_up_logging(trainer.folder)
    log = get_logger()
    log.info("run folder: %s", trainer.folder)
    for line in (*announcements(departures(trainer.whole_config)), *trainer.data.dataset.notes):
        log.info(line)


def log_outcome(trainer: Trainer) -> None:
    """The result, where it lies, and how to see its curves."""
    log = get_logger()
    log.info("test accuracy after epoch %d: %.2f%%", trainer.epoch, 100 * trainer.history[-1]["test_accuracy"])
    log.info("run folder: %s", trainer.folder)
    tensorboard = "tensorboard" if shutil.which("tensorboard") else f"{sys.executable} -m tensorboard.main"
    log.info("to see the curves, type: %s --logdir %s", tensorboard, trainer.folder)
