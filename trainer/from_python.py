"""What a run that Python code starts leaves behind: its result, and a process whose own state is as it was."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from base.base_model import BaseModel
from logger.log import NAME
from logger.tables import columns
from trainer.trainer import Trainer
from utils.errors import EXIT_INTERRUPTED, Stopped, UserError
from utils.limits import as_user_error
from utils.memory import give_back_freed_memory
from utils.seeding import rng_state, set_rng_state

#: The variables that a run, or what it imports, sets.
VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "GLOO_SOCKET_IFNAME", "TORCHINDUCTOR_CACHE_DIR", "TQDM_DISABLE")

#: Runs take turns: generators and log are the process's own. A run within another's `on_epoch` need not wait.
_turn = threading.RLock()


@dataclass(frozen=True)
class Result:
    """A run's outcome.

    `history` has a dict for each epoch, with the columns of metrics.csv as keys, and `metrics` is the last of them,
    test_accuracy among its figures. `folder` is the run folder. `model` is the network after the last epoch, in
    evaluation mode on the run's device; the best epoch's is in model_best.pth.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    folder: Path
    model: BaseModel

    @classmethod
    def of(cls, trainer: Trainer) -> "Result":
        names = columns(trainer.history)
        history = [_as_table(row, names) for row in trainer.history]
        return cls(dict(history[-1]), history, trainer.folder.path, trainer.model.eval())


class Callback:
    """The user's function of an epoch, and the error that it raised."""

    def __init__(self, function: Callable[[dict[str, float]], object] | None) -> None:
        self._function = function
        self.error: BaseException | None = None

    def __call__(self, row: dict[str, float]) -> None:
        if self._function is None:
            return
        try:
            self._function(_as_table(row, columns([row])))
        except BaseException as error:
            self.error = error
            raise


@contextlib.contextmanager
def in_this_process(called: Callback) -> Iterator[None]:
    """Wait for the run of another thread, raise errors of torch and Python as the UserErrors that they amount to, and
    put back the state of the process that a run changes.

    Raises:
        KeyboardInterrupt: Ctrl-C; the run is saved.
        Stopped: another signal; the run is saved.
    """
    with _turn, _own_state():
        Stopped.forget()
        try:
            yield
        except Stopped as stop:
            if stop.exit_code == EXIT_INTERRUPTED:
                raise KeyboardInterrupt(str(stop)) from stop
            raise
        except Exception as error:
            found = None if error is called.error or isinstance(error, UserError) else as_user_error(error)
            if found is None:
                raise
            raise found from error


@contextlib.contextmanager
def _own_state() -> Iterator[None]:
    with contextlib.ExitStack() as after:
        after.callback(give_back_freed_memory)
        after.callback(set_rng_state, rng_state())
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        after.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
        for name in VARIABLES:
            after.callback(_set_variable, name, os.environ.get(name))
        dynamo = torch._dynamo.config  # whose import sets a variable
        after.callback(setattr, dynamo, "recompile_limit", dynamo.recompile_limit)
        after.enter_context(_own_log())
        yield


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    """Take the handlers of the log off, which a run replaces and closes, and put them on again."""
    log = logging.getLogger(NAME)
    handlers, level, propagate = log.handlers, log.level, log.propagate
    log.handlers = []
    try:
        yield
    finally:
        for handler in log.handlers:
            with contextlib.suppress(OSError):
                handler.close()
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _as_table(row: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: row[name] for name in names if name in row}
