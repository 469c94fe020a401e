"""The loop over epochs: monitor, early stop, checkpoints, resume. A subclass defines an epoch."""

import shlex
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, NoReturn, Protocol, TypeVar

from config_schema import TrainerConfig
from logger.log import get_logger
from logger.tables import write_csv, write_divergence
from logger.tensorboard import TensorBoard, has_last
from utils.columns import SPLITS
from utils.errors import FileSystemError, NonFiniteLossError, ProcessError, Stopped, StopTraining
from utils.folder import Folder
from utils.monitor import Monitor
from utils.stopping import StopRequest, exit_code
from utils.world import World

SAVE, STOP = 1, 2  # a process's request between two batches; STOP is sent with the signal's number added
GO_ON, END, FAILED = 0, 1, 2  # what came of `on_epoch`


State = TypeVar("State")  # all that a run needs to resume
_State = TypeVar("_State", contravariant=True)


class Store(Protocol[_State]):
    """Where a trainer keeps its state."""

    def save(self, state: _State, *, newest: bool, best: bool) -> object:
        """Save `state`, from `state_dict`, as the newest, as the best, or as both. Raises FileSystemError."""


class BaseTrainer(ABC, Generic[State]):
    """Trains up to epoch `loop.epochs` and saves all that a resumed run needs.

    The position is `epoch`, the number of whole epochs done, and `batch`, the number of batches done of the epoch in
    progress. If several processes train together, only the first writes files.
    """

    def __init__(self, loop: TrainerConfig, store: Store[State], folder: Folder, world: World) -> None:
        self.loop, self.store, self.folder, self.world = loop, store, folder, world
        self.log = get_logger()
        self.epoch = 0
        self.batch = 0
        self.global_step = 0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0  # spent on the epoch in progress before the last resume
        self.remarks: list[str] = []  # changes since the checkpoint, logged once the log is open
        self._started = 0.0
        self._saved = (-1, time.monotonic())  # step and time of the newest save
        self._csv_is_whole = True
        self.stop = StopRequest()
        self.board: TensorBoard | None = None
        self.monitor = self.new_monitor()
        #: Called once the first step, which memory or a compiler may be lacking for, is done, or if none is left to do.
        self.on_accepted: Callable[[], object] = lambda: None
        #: Called with each epoch's row, once that is saved; it may raise StopTraining.
        self.on_epoch: Callable[[dict[str, float]], object] | None = None
        self.told_to_stop = False

    @abstractmethod
    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train and evaluate epoch number `epoch` (from 1), starting at batch `self.batch`. Returns its row of
        metrics.csv without `epoch` and `seconds`. Calls `self.between_batches` after each batch. Raises
        NonFiniteLossError."""

    @abstractmethod
    def check_finite(self) -> None:
        """Raise NonFiniteLossError if the loss of any step so far was NaN or infinite; such a state is not saved."""

    @abstractmethod
    def state_dict(self) -> State:
        """All that `load_state_dict` needs for an exact resume: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: State, source: str) -> None:
        """Restore `state`, read from `source`. Raises CheckpointError if it does not fit."""

    def write_tables(self) -> None:
        """Write the tables of all epochs so far, whole. Raises FileSystemError."""
        write_csv(self.folder, self.history)

    def note_save(self) -> None:
        """Write what follows a checkpoint; called after each save."""

    def finish(self) -> None:
        """Called once, after the last epoch."""

    def new_monitor(self) -> Monitor:
        """A monitor that has seen no epoch."""
        return Monitor(self.loop.monitor, self.loop.early_stop)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.loop.epochs or self.stopped_early or self.told_to_stop

    @property
    def stopped_early(self) -> bool:
        return self.monitor.has_had_enough

    def train(self) -> None:
        """Train to the end. For a finished run, only write its tables, and what is missing of its last events.

        Raises:
            Stopped: a signal came; the state at that step is saved.
            NonFiniteLossError: the loss is NaN or infinite; that state is not saved, and diverged.json is written.
            FileSystemError: a checkpoint, or in the end a table, cannot be written.
        """
        if self.finished:
            self._accept()
            if self.world.first:
                self.write_tables()  # the run may have ended because it could not write them
            if not self.world.largest(self._lacks_events()):
                self.log.info("nothing to do: the run has %s", self._how_it_ended())
                return
            self.log.info("the run was stopped before the last of its TensorBoard events, which follow now")
        self._write_csv()
        self.board = TensorBoard(self.folder, self.loop.tensorboard and self.world.first, self.epoch + 1)
        self._saved = (self.global_step, time.monotonic())
        with self.stop:
            try:
                while not self.finished:
                    self._one_epoch()
                    if not self.finished:
                        self.between_batches()
                if self.stopped_early or self.told_to_stop:
                    self.log.info(self._how_it_ended())
                self.finish()
            except NonFiniteLossError as error:
                if self.world.first:
                    write_divergence(self.folder, error.epoch, error.step)
                self.world.common(error)  # the loss is that of all processes together
                raise
            finally:
                self.board.close()
            self.between_batches()  # a signal since the last epoch's evaluation
        if not self._csv_is_whole:  # the last chance: now a failure is an error
            self.write_tables()

    def between_batches(self) -> None:
        """Save if `save_every_minutes` have passed. Save and raise Stopped if any process got a signal."""
        self._accept()
        wish = self.world.largest(STOP + self.stop.signal if self.stop.signal else SAVE * self._save_is_due())
        if wish:
            self.check_finite()
            if self._saved[0] != self.global_step:
                self.seconds = self._elapsed() if self.batch else 0.0
                self._started = time.perf_counter()
                self.save(newest=True, best=False)
            if wish > STOP:
                self._stop(wish - STOP)

    def save(self, *, newest: bool, best: bool) -> None:
        state = self.state_dict()
        if self.world.first:
            self.store.save(state, newest=newest, best=best)
            self.note_save()
        if newest:
            self._saved = (self.global_step, time.monotonic())

    def _accept(self) -> None:
        accepted, self.on_accepted = self.on_accepted, lambda: None
        accepted()

    def _one_epoch(self) -> None:
        self._started = time.perf_counter()
        figures = self.run_epoch(self.epoch + 1)
        row = {"epoch": self.epoch + 1, **figures, "seconds": self._elapsed()}
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self.history.append(row)
        improved = self.monitor.add(row.get(self.monitor.column or ""))
        # Events before the checkpoint: a run killed between the two resumes from the older checkpoint and purges them.
        assert self.board is not None
        self.board.epoch(row)
        newest = self.epoch % self.loop.save_period == 0 or self.finished
        if newest or improved:
            self.save(newest=newest, best=improved)
        self._write_csv()
        self.log.info(_line(row, self.loop.epochs, improved))
        if self.on_epoch is not None:
            self._call(self.on_epoch, row)

    def _call(self, on_epoch: Callable[[dict[str, float]], object], row: dict[str, float]) -> None:
        """Call `on_epoch` in the first process. Whatever it raises, the epoch is saved."""
        try:
            if self.world.first:
                on_epoch(dict(row))
        except StopTraining:
            self._agree(END)
        except BaseException as error:
            self._agree(FAILED)
            self.world.common(error)
            raise
        else:
            self._agree(GO_ON)

    def _agree(self, own: int) -> None:
        """Save the epoch in all processes, whose states only together make a checkpoint, if the first does not go on.

        Raises:
            ProcessError: the first process failed, and this is another.
        """
        outcome = self.world.largest(own)
        self.told_to_stop = outcome == END
        if outcome != GO_ON and self._saved[0] != self.global_step:
            self.save(newest=True, best=False)
        if outcome == FAILED != own:
            said = f"process {self.world.rank} of {self.world.size}: on_epoch failed in process 0, which says why"
            raise self.world.common(ProcessError(f"{said}; the epoch is saved. Go on with -r auto"))

    def _lacks_events(self) -> bool:
        return self.world.first and self.loop.tensorboard and bool(self.history) and not has_last(self.folder)

    def _how_it_ended(self) -> str:
        if self.told_to_stop:
            return f"stopped after epoch {self.epoch}, as asked"
        if self.stopped_early:
            return f"stopped early: no better {self.monitor.column} in {self.monitor.epochs_since_best} epochs"
        return f"had its {self.epoch} epochs"

    def _save_is_due(self) -> bool:
        step, when = self._saved
        minutes = self.loop.save_every_minutes
        return minutes is not None and step != self.global_step and time.monotonic() - when >= 60.0 * minutes

    def _stop(self, number: int) -> NoReturn:
        where = f"after epoch {self.epoch}" + (f" and {self.batch} batches" if self.batch else "")
        said = f"stopped by {signal.Signals(number).name} {where}; saved"
        again = f"python train.py -r auto --run-dir {shlex.quote(str(self.folder))}"
        raise self.world.common(Stopped(exit_code(number), f"{said}. Go on with: {again}"))

    def _write_csv(self) -> None:
        """Write the tables. A failure is a warning: checkpoints hold the history, and the next epoch tries again."""
        if not self.world.first:
            return
        try:
            self.write_tables()
            self._csv_is_whole = True
        except FileSystemError as error:
            if self._csv_is_whole:
                self.log.warning("%s; training goes on, and tries again after each epoch", error)
            self._csv_is_whole = False

    def seconds_left(self, share: float) -> float:
        """An estimate of the seconds to the run's end, when this `share` of the epoch's batches is trained on.

        An epoch counts as long as the one before, or, in the first, as long as this share lets expect.
        """
        elapsed = self._elapsed()
        whole = self.history[-1]["seconds"] if self.history else elapsed / share
        return whole * (self.loop.epochs - self.epoch) - elapsed

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._started


def _line(row: dict[str, float], epochs: int, improved: bool) -> str:
    parts = [f"epoch {int(row['epoch'])}/{epochs}"]
    for split in SPLITS:
        parts.append(f"{split} loss {row[f'{split}_loss']:.4f} accuracy {100 * row[f'{split}_accuracy']:.2f}%")
    parts.append(f"lr {row['lr']:.3g}  {row['seconds']:.1f} s" + ("  best" if improved else ""))
    return "  ".join(parts)
