"""What a run leaves for people to look at: metrics.csv, diagnostics.csv, diverged.json and TensorBoard events."""

import contextlib
import csv
import io
import json
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logger.log import get_logger
from utils.drawing import spared
from utils.errors import FileSystemError
from utils.files import write_atomically
from utils.run_files import DIAGNOSTICS_NAME, DIVERGED_NAME, METRICS_NAME
from utils.text import csv_cell

_FIRST = (
    *("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("test_loss", "test_accuracy"),
)
Row = Mapping[str, float]
DIAGNOSTIC_COLUMNS = (
    "epoch",
    "layer",
    "largest_singular_value",
    "smallest_singular_value",
    "gradient_norm",
    "weight_norm",
)
DiagnosticRow = dict[str, Any]  # by DIAGNOSTIC_COLUMNS: a whole number, a module's path and floats


def write_csv(folder: Path, history: Sequence[Row]) -> None:
    """metrics.csv of all epochs so far, whole and in one piece, `seconds` last.

    It is made from the history each time rather than appended to, so that after any crash it agrees with the
    checkpoint that the run resumes from.
    """
    if not history:
        return
    keys = dict.fromkeys(key for row in history for key in row)  # a resumed run may have been given more metrics
    others = [key for key in keys if key not in _FIRST and key != "seconds"]
    text = io.StringIO()
    columns = [*_FIRST, *others, "seconds"]
    csv.writer(text, lineterminator="\n").writerow(map(csv_cell, columns))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    for row in history:
        writer.writerow({key: value if key == "epoch" else f"{value:.8g}" for key, value in row.items()})
    write_atomically(folder / METRICS_NAME, text.getvalue().encode())


def write_divergence(folder: Path, epoch: int, step: int) -> None:
    """diverged.json: where the loss became NaN or infinite. That is graver news than a disk that does not take it."""
    with contextlib.suppress(FileSystemError):
        write_atomically(folder / DIVERGED_NAME, (json.dumps({"epoch": epoch, "step": step}) + "\n").encode())


def write_diagnostics(folder: Path, rows: Sequence[DiagnosticRow]) -> None:
    """diagnostics.csv of all epochs so far, whole, as metrics.csv is."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DIAGNOSTIC_COLUMNS)
    for row in rows:
        writer.writerow([f"{value:.8g}" if isinstance(value, float) else csv_cell(value) for value in row.values()])
    write_atomically(folder / DIAGNOSTICS_NAME, text.getvalue().encode())


class TensorBoard:
    """Scalars, images and hyper-parameters of one run folder; does nothing when switched off.

    Curves are for looking at: what goes wrong with writing them is said once, and then they end while the run goes on.

    Args:
        first_epoch: the first epoch still to be written. Events from it on that an interrupted run left are purged.
    """

    def __init__(self, folder: Path, enabled: bool, first_epoch: int) -> None:
        self._writer: Any = None
        self._folder = folder
        # The writer's thread hands its errors on to whoever writes next; it need not print a traceback as well.
        self._hook, threading.excepthook = threading.excepthook, _quiet_about_files
        if enabled:
            with self._one_warning():
                self._writer = self._open(first_epoch)

    def epoch(self, row: Row) -> None:
        """One epoch's row of metrics.csv, as train/loss, val/accuracy, lr and so on."""
        epoch = int(row["epoch"])
        with self._one_warning():
            if self._writer is None:
                return
            for key, value in row.items():
                if key not in ("epoch", "seconds"):
                    self._writer.add_scalar(tag(key), value, epoch)
            self._writer.flush()

    def diagnostics(self, rows: Sequence[DiagnosticRow]) -> None:
        """One epoch's rows of diagnostics.csv, as diagnostics/<layer>/gradient_norm and so on."""
        with self._one_warning():
            if self._writer is None:
                return
            for row in rows:
                for column in DIAGNOSTIC_COLUMNS[2:]:
                    self._writer.add_scalar(f"diagnostics/{row['layer']}/{column}", row[column], row["epoch"])

    def images(self, name: str, images: Tensor) -> None:
        """A grid of images, float (N, 3, H, W) in [0, 1]."""
        from torchvision.utils import make_grid

        with spared(f"picture {name}", get_logger().warning), self._one_warning():
            if self._writer is not None:
                self._writer.add_image(name, make_grid(images, nrow=8), 0)

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """The bytes of a PNG as they are: SummaryWriter.add_figure would draw with the user's own backend."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])  # of the header that every PNG starts with
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        with self._one_warning():
            if self._writer is not None:
                self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), epoch)

    def hyper_parameters(self, config: Mapping[str, Any], final: Row) -> None:
        """The config and the last epoch's figures, in the HParams tab of this very run.

        SummaryWriter.add_hparams would open a second run in a folder below.
        """
        from torch.utils.tensorboard.summary import hparams

        flat = dict(_flatten(config))
        metrics = {f"hparam/{key}": value for key, value in final.items() if key not in ("epoch", "seconds", "lr")}
        with self._one_warning():
            if self._writer is None:
                return
            for summary in hparams(flat, metrics):
                self._writer.file_writer.add_summary(summary)
            for key, value in metrics.items():
                self._writer.add_scalar(key, value, int(final["epoch"]))

    def close(self) -> None:
        with self._one_warning():
            if self._writer is not None:
                self._writer.close()
        threading.excepthook = self._hook

    def _open(self, first_epoch: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        _wait_to_be_last(self._folder)
        return SummaryWriter(str(self._folder), purge_step=first_epoch)

    @contextlib.contextmanager
    def _one_warning(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            get_logger().warning("cannot write TensorBoard events in %s (%s); training goes on", self._folder, error)


def _quiet_about_files(failure: threading.ExceptHookArgs) -> None:
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _wait_to_be_last(folder: Path) -> None:
    """Let the second of the newest event file pass, so that the next one's name sorts after it.

    TensorBoard reads a run's files in the order of their names, which start with the second they were made in. Within
    one second the order is arbitrary, and a purge read too early would hide what a resumed run wrote.
    """
    made = [file.name.split(".")[3] for file in folder.glob("events.out.tfevents.*")]
    if made and max(made) >= f"{int(time.time()):010d}":
        time.sleep(1.0 - time.time() % 1.0)


def tag(column: str) -> str:
    """TensorBoard's tag of a column of metrics.csv: train_loss is train/loss, lr stays lr."""
    split, _, rest = column.partition("_")
    return f"{split}/{rest}" if rest else column


def _flatten(block: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in block.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            plain = value if isinstance(value, bool | int | float | str) else str(value)
            pairs.append((prefix + key, plain))
    return pairs


def displayable(images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) brought to [0, 1] for looking at, all by the same map."""
    low, high = images.amin(), images.amax()
    return ((images - low) / torch.clamp(high - low, min=1e-6)).float().cpu()
