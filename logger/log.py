"""Plain log lines: progress on stdout, warnings and errors on stderr, both in the run folder's train.log."""

import logging
import sys
from pathlib import Path

NAME = "convnorm"


def get_logger() -> logging.Logger:
    return logging.getLogger(NAME)


def set_up_logging(folder: Path | None = None) -> None:
    """Log to the terminal and, given a folder, to its train.log as well; replaces what an earlier call set up."""
    logger = get_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    out = logging.StreamHandler(sys.stdout)
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    problems = logging.StreamHandler(sys.stderr)
    problems.setLevel(logging.WARNING)
    problems.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handlers: list[logging.Handler] = [out, problems]
    if folder is not None:
        handlers.append(logging.FileHandler(folder / "train.log", encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in handlers:
        logger.addHandler(handler)
