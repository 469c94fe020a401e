"""Plain log lines: progress on stdout, warnings and errors on stderr, and both in the run folder's train.log."""

import contextlib
import io
import logging
import sys

from utils.folder import Folder
from utils.run_files import LOG_NAME
from utils.text import as_line

NAME = "convnorm"


def get_logger() -> logging.Logger:
    return logging.getLogger(NAME)


class _OneLine(logging.Formatter):
    """Escapes control characters in quoted text, such as the name of a class, so that a message stays one line."""

    def format(self, record: logging.LogRecord) -> str:
        return as_line(super().format(record), 2000)


class _LogFile(logging.StreamHandler[io.TextIOWrapper]):
    """The log in a file, as long as the file can be written: a full disk must not stop a run."""

    def __init__(self, folder: Folder) -> None:
        self._place = folder.path / LOG_NAME
        super().__init__(io.TextIOWrapper(folder.append(LOG_NAME), encoding="utf-8", write_through=True))

    def handleError(self, record: logging.LogRecord) -> None:
        logger, error = get_logger(), sys.exc_info()[1]
        logger.removeHandler(self)
        self.close()  # or Python 3.13 prints, whenever it collects the file, that what it still holds cannot be written
        logger.warning("cannot write %s (%s); the log goes on in the terminal only", self._place, error)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.close()
        super().close()


def set_up_logging(folder: Folder | None = None, quiet: bool = False) -> None:
    """Log to the terminal and, given a folder, to its train.log as well. It replaces the handlers of an earlier call.

    `quiet` logs critical messages only, for all but the first of several processes.

    Raises:
        FileSystemError: train.log is a link.
    """
    logger = get_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
    logger.setLevel(logging.CRITICAL if quiet else logging.INFO)
    logger.propagate = False
    out = logging.StreamHandler(sys.stdout)
    out.setFormatter(_OneLine())
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    problems = logging.StreamHandler(sys.stderr)
    problems.setLevel(logging.WARNING)
    problems.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logger.addHandler(out)
    logger.addHandler(problems)
    if folder is not None:
        try:
            file = _LogFile(folder)
        except OSError as error:
            logger.warning("cannot write %s (%s); the log is on the terminal only", folder.path / LOG_NAME, error)
            return
        file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)
