"""The loop around the epochs: monitor, early stop, checkpoints, resume. What an epoch is, a subclass says."""

import signal
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from logger.log import get_logger
from logger.recorder import TensorBoard, write_csv
from parse_config import TrainerConfig
from utils.errors import Stopped

if TYPE_CHECKING:  # the trainer package stands above this one
    from trainer.checkpoint import CheckpointStore


class StopRequest:
    """Remembers a SIGTERM or SIGINT, so that a step or a save is never cut short; a context manager."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number


class BaseTrainer(ABC):
    """Trains from wherever it stands to `config.epochs` and keeps all that a resumed run needs.

    Where it stands is `epoch`, the whole epochs done, and `batch`, the batches done of the one in progress.
    """

    def __init__(self, config: TrainerConfig, store: "CheckpointStore", folder: Path) -> None:
        self.config, self.store, self.folder = config, store, folder
        self.log = get_logger()
        self.epoch = 0
        self.batch = 0
        self.global_step = 0
        self.best: float | None = None
        self.epochs_since_best = 0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0  # spent on the epoch in progress before the last resume
        self._started = 0.0
        self.stop = StopRequest()
        self.board: TensorBoard | None = None
        mode, _, column = config.monitor.partition(" ")
        self.monitored = column or None
        self._sign = -1.0 if mode == "min" else 1.0

    @abstractmethod
    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train and evaluate epoch number `epoch` (from 1) on from `self.batch`; return its row of metrics.csv but for
        `epoch` and `seconds`. Calls `self.check_stop` after each batch. Raises NonFiniteLossError."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if there had been no stop: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], source: str) -> None:
        """Go to where `state` was saved. Raises CheckpointError if it does not fit, and then nothing has changed."""

    def finish(self) -> None:
        """What a run does once, after its last epoch."""

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.epochs or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        return self.config.early_stop is not None and self.epochs_since_best >= self.config.early_stop

    def train(self) -> None:
        """Train to the end.

        Raises:
            Stopped: a signal asked for it; the state at that step is saved.
            NonFiniteLossError: the loss is NaN or infinite; nothing of that epoch is saved.
            FileSystemError: a checkpoint cannot be written.
        """
        self.store.collect_temporary()
        write_csv(self.folder, self.history)
        self.board = TensorBoard(self.folder, self.config.tensorboard, self.epoch + 1)
        try:
            with self.stop:
                while not self.finished:
                    self._one_epoch()
                    if not self.finished:
                        self._stop_if_asked(already_saved=self.epoch % self.config.save_period == 0)
                if self.stopped_early:
                    self.log.info("stopped early: no better %s in %d epochs", self.monitored, self.epochs_since_best)
                self.finish()
        finally:
            self.board.close()

    def check_stop(self) -> None:
        """Save and raise Stopped if a signal has come; to be called between batches."""
        if self.stop.signal is not None:
            self._stop_if_asked(already_saved=False)

    def save(self, *, newest: bool, best: bool) -> Path:
        return self.store.save(self.state_dict(), newest=newest, best=best)

    def _one_epoch(self) -> None:
        self._started = time.perf_counter()
        figures = self.run_epoch(self.epoch + 1)
        row = {"epoch": self.epoch + 1, **figures, "seconds": self._elapsed()}
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self.history.append(row)
        improved = self._is_best(row)
        # Events first: a run killed between the two resumes from the older checkpoint, which purges them.
        assert self.board is not None
        self.board.epoch(row)
        newest = self.epoch % self.config.save_period == 0 or self.finished
        if newest or improved:
            self.save(newest=newest, best=improved)
        write_csv(self.folder, self.history)
        self.log.info(_line(row, self.config.epochs, improved))

    def _is_best(self, row: dict[str, float]) -> bool:
        if self.monitored is None:
            return False
        score = self._sign * row[self.monitored]
        if score == score and (self.best is None or score > self._sign * self.best):  # NaN is never best
            self.best, self.epochs_since_best = row[self.monitored], 0
            return True
        self.epochs_since_best += 1
        return False

    def _stop_if_asked(self, already_saved: bool) -> None:
        if self.stop.signal is None:
            return
        if not already_saved:
            self.seconds = self._elapsed() if self.batch else 0.0
            self.save(newest=True, best=False)
        name = signal.Signals(self.stop.signal).name
        where = f"after epoch {self.epoch}" + (f" and {self.batch} batches" if self.batch else "")
        raise Stopped(
            128 + self.stop.signal,
            f"stopped by {name} {where}; saved. Go on with: python train.py -r auto --run-dir {self.folder}",
        )

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._started


def _line(row: dict[str, float], epochs: int, improved: bool) -> str:
    parts = [f"epoch {int(row['epoch'])}/{epochs}"]
    for split in ("train", "val", "test"):
        parts.append(f"{split} loss {row[f'{split}_loss']:.4f} accuracy {100 * row[f'{split}_accuracy']:.2f}%")
    parts.append(f"lr {row['lr']:.3g}  {row['seconds']:.1f} s" + ("  best" if improved else ""))
    return "  ".join(parts)


def environment(device: torch.device) -> dict[str, Any]:
    """What a bit-exact resume needs to be the same."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"torch": str(torch.__version__), "device": name, "threads": torch.get_num_threads(), "world_size": 1}
