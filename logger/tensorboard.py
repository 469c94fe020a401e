"""Writes TensorBoard's events of a run."""

import contextlib
import io
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
from logger.tables import DiagnosticRow, Row
from utils.columns import DIAGNOSTIC_COLUMNS, LAST_COLUMN, tag
from utils.drawing import warn_on_failure
from utils.errors import FileSystemError
from utils.folder import Folder
from utils.keys import flat


class TensorBoard:
    """Writes scalars, images and hyper-parameters into a run folder; does nothing when switched off.

    The first failure is one warning and ends the events, but not the run. TensorBoard's own writer is not used: it
    writes by path, which may lead elsewhere by then, and from a thread, which the system may refuse.

    Args:
        first_epoch: the first epoch still to be written. Events of this and later epochs that an interrupted run left
            are purged.
    """

    def __init__(self, folder: Path | Folder, enabled: bool, first_epoch: int) -> None:
        self._folder = Folder.of(folder)
        self._name: str | None = None  # the file's name, as long as it can be written
        self._waiting = io.BytesIO()  # records that are not in the file yet
        if enabled:
            with self._one_warning():
                self._name = self._begin(first_epoch)

    def epoch(self, row: Row) -> None:
        """Write one epoch's row of metrics.csv, as train/loss, val/accuracy, lr and so on."""
        epoch = int(row["epoch"])
        for key, value in row.items():
            if key not in ("epoch", LAST_COLUMN):
                self._scalar(tag(key), value, epoch)
        self._flush()

    def diagnostics(self, rows: Sequence[DiagnosticRow]) -> None:
        """Write one epoch's rows of diagnostics.csv, as diagnostics/<layer>/gradient_norm and so on."""
        for row in rows:
            for column in DIAGNOSTIC_COLUMNS[2:]:
                self._scalar(f"diagnostics/{row['layer']}/{column}", row[column], row["epoch"])

    def images(self, name: str, images: Tensor) -> None:
        """Write a grid of images, float (N, 3, H, W) in [0, 1]."""
        from torch.utils.tensorboard.summary import image
        from torchvision.utils import make_grid

        with warn_on_failure(f"picture {name}", get_logger().warning):
            self._add(step=0, summary=image(name, make_grid(images, nrow=8), dataformats="CHW"))
            self._flush()

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """Write the bytes of a PNG. SummaryWriter.add_figure would draw with the user's own backend."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])  # from the header of a PNG
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(step=epoch, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def hyper_parameters(self, config: Mapping[str, Any], final: Row) -> None:
        """Write the config and the last epoch's figures into the HParams tab of this run.

        SummaryWriter.add_hparams would make a second run in a subfolder.
        """
        from torch.utils.tensorboard.summary import hparams

        plain = {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in flat(config)}
        metrics = {f"hparam/{key}": value for key, value in final.items() if key not in ("epoch", LAST_COLUMN, "lr")}
        for summary in hparams(plain, metrics):
            self._add(summary=summary)
        for key, value in metrics.items():
            self._scalar(key, value, int(final["epoch"]))

    def close(self) -> None:
        self._flush()
        self._name = None

    def _begin(self, first_epoch: int) -> str:
        """Create the file, with a name that sorts after all existing ones. TensorBoard reads a run's files in the order
        of their names, which start with the second of creation. A purge that it reads too early would hide what a
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


def displayable(images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) rescaled to [0, 1] for display, all by the same map."""
    low, high = images.amin(), images.amax()
    return ((images - low) / torch.clamp(high - low, min=1e-6)).float().cpu()
