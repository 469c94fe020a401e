"""What a run leaves for people to look at: metrics.csv, diagnostics.csv, diverged.json and TensorBoard events."""

import contextlib
import csv
import io
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logger.log import get_logger
from utils.drawing import spared
from utils.errors import FileSystemError
from utils.folder import Folder
from utils.run_files import DIAGNOSTICS_NAME, DIVERGED_NAME, METRICS_NAME
from utils.text import csv_cell

FIRST_COLUMNS = (
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


def write_csv(folder: Folder, history: Sequence[Row]) -> None:
    """metrics.csv of all epochs so far, whole and in one piece, `seconds` last.

    It is made from the history each time rather than appended to, so that after any crash it agrees with the
    checkpoint that the run resumes from.
    """
    if not history:
        return
    keys = dict.fromkeys(key for row in history for key in row)  # a resumed run may have been given more metrics
    others = [key for key in keys if key not in FIRST_COLUMNS and key != "seconds"]
    text = io.StringIO()
    columns = [*FIRST_COLUMNS, *others, "seconds"]
    csv.writer(text, lineterminator="\n").writerow(map(csv_cell, columns))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    for row in history:
        writer.writerow({key: value if key == "epoch" else f"{value:.8g}" for key, value in row.items()})
    folder.write(METRICS_NAME, text.getvalue().encode())


def write_divergence(folder: Folder, epoch: int, step: int) -> None:
    """diverged.json: where the loss became NaN or infinite. That is graver news than a disk that does not take it."""
    with contextlib.suppress(FileSystemError):
        folder.write(DIVERGED_NAME, (json.dumps({"epoch": epoch, "step": step}) + "\n").encode())


def write_diagnostics(folder: Folder, rows: Sequence[DiagnosticRow]) -> None:
    """diagnostics.csv of all epochs so far, whole, as metrics.csv is."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DIAGNOSTIC_COLUMNS)
    for row in rows:
        writer.writerow([f"{value:.8g}" if isinstance(value, float) else csv_cell(value) for value in row.values()])
    folder.write(DIAGNOSTICS_NAME, text.getvalue().encode())


class TensorBoard:
    """Scalars, images and hyper-parameters of one run folder; does nothing when switched off.

    Curves are for looking at: what goes wrong with writing them is said once, and then they end while the run goes on.
    They are written here, and not by TensorBoard's own writer: that one writes by path, wherever it leads by then, and
    from a thread, which may not be had.

    Args:
        first_epoch: the first epoch still to be written. Events from it on that an interrupted run left are purged.
    """

    def __init__(self, folder: Path | Folder, enabled: bool, first_epoch: int) -> None:
        self._folder = Folder.of(folder)
        self._name: str | None = None  # of the file, while there is something to write to it
        self._waiting = io.BytesIO()  # records that are not in the file yet
        if enabled:
            with self._one_warning():
                self._name = self._begin(first_epoch)

    def epoch(self, row: Row) -> None:
        """One epoch's row of metrics.csv, as train/loss, val/accuracy, lr and so on."""
        epoch = int(row["epoch"])
        for key, value in row.items():
            if key not in ("epoch", "seconds"):
                self._scalar(tag(key), value, epoch)
        self._flush()

    def diagnostics(self, rows: Sequence[DiagnosticRow]) -> None:
        """One epoch's rows of diagnostics.csv, as diagnostics/<layer>/gradient_norm and so on."""
        for row in rows:
            for column in DIAGNOSTIC_COLUMNS[2:]:
                self._scalar(f"diagnostics/{row['layer']}/{column}", row[column], row["epoch"])

    def images(self, name: str, images: Tensor) -> None:
        """A grid of images, float (N, 3, H, W) in [0, 1]."""
        from torch.utils.tensorboard.summary import image
        from torchvision.utils import make_grid

        with spared(f"picture {name}", get_logger().warning):
            self._add(step=0, summary=image(name, make_grid(images, nrow=8), dataformats="CHW"))
            self._flush()

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """The bytes of a PNG as they are: SummaryWriter.add_figure would draw with the user's own backend."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])  # of the header that every PNG starts with
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(step=epoch, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def hyper_parameters(self, config: Mapping[str, Any], final: Row) -> None:
        """The config and the last epoch's figures, in the HParams tab of this very run.

        SummaryWriter.add_hparams would open a second run in a folder below.
        """
        from torch.utils.tensorboard.summary import hparams

        flat = dict(_flatten(config))
        metrics = {f"hparam/{key}": value for key, value in final.items() if key not in ("epoch", "seconds", "lr")}
        for summary in hparams(flat, metrics):
            self._add(summary=summary)
        for key, value in metrics.items():
            self._scalar(key, value, int(final["epoch"]))

    def close(self) -> None:
        self._flush()
        self._name = None

    def _begin(self, first_epoch: int) -> str:
        """Make the file, under a name that sorts after all that there are: TensorBoard reads a run's files in the order
        of their names, which start with the second they were made in, and a purge read too early would hide what a
        resumed run wrote."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        made = [name.split(".")[3] for name in self._folder.names() if name.startswith("events.out.tfevents.")]
        newest = max((int(second) for second in made if second.isdecimal() and len(second) == 10), default=0)
        name = f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._folder.create(name).close()
        self._add(step=first_epoch, file_version="brain.Event:2")
        self._add(step=first_epoch, session_log=SessionLog(status=SessionLog.START))
        return name

    def _scalar(self, name: str, value: float, epoch: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._add(step=epoch, summary=scalar(name, value))

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._waiting).write(Event(wall_time=time.time(), **event).SerializeToString())

    def _flush(self) -> None:
        data, self._waiting = memoryview(self._waiting.getvalue()), io.BytesIO()
        with self._one_warning():
            if self._name is not None and data:
                with self._folder.append(self._name) as file:
                    while data:
                        data = data[file.write(data) :]

    @contextlib.contextmanager
    def _one_warning(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FileSystemError) as error:
            self._name = None
            get_logger().warning("cannot write TensorBoard events in %s (%s); training goes on", self._folder, error)


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
