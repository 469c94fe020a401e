"""Writes TensorBoard's events of a run.

The run's own file has every figure by its name in metrics.csv: train/loss, val/loss. TensorBoard overlays only what has
one tag in several runs, so the figures of each split are also in a run of their own, in the subfolder of its name, as
loss and accuracy.
"""

import contextlib
import io
import json
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logger.log import get_logger
from logger.tables import DiagnosticRow, Row
from utils.columns import DIAGNOSTIC_COLUMNS, LAST_COLUMN, SPLITS, tag
from utils.drawing import warn_on_failure
from utils.errors import FileSystemError
from utils.folder import Folder
from utils.keys import flat
from utils.owner import host_name
from utils.text import encodable

#: The settings in TensorBoard's table of runs, and the figure that comes first behind them.
MAIN_SETTINGS = ("arch.args.norm", "label_noise.rate", "optimizer.args.lr", "seed")
MAIN_FIGURE = "test_accuracy"

#: The text that a run writes last.
LAST_TEXT = "test/worst_confusions"
_LAST = 1 << 20  # bytes of a file among which that text would be

_PREFIX = "events.out.tfevents."


@dataclass
class _File:
    """An event file in `folder`, and the records that are not in it yet."""

    folder: Folder
    name: str
    waiting: io.BytesIO = field(default_factory=io.BytesIO)

    def add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self.waiting).write(Event(wall_time=time.time(), **event).SerializeToString())

    def flush(self) -> None:
        data, self.waiting = memoryview(self.waiting.getvalue()), io.BytesIO()
        if data:
            with self.folder.append(self.name) as file:
                while data:
                    data = data[file.write(data) :]


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
        self._own: _File | None = None  # as long as it can be written
        self._splits: dict[str, _File] = {}
        self._closing = contextlib.ExitStack()
        if enabled:
            with self._one_warning():
                self._own = _begin(self._folder, first_epoch)
                for split in SPLITS:
                    below = self._folder.below(split)
                    self._closing.callback(below.release)
                    self._splits[split] = _begin(below, first_epoch)

    def epoch(self, row: Row) -> None:
        """Write one epoch's row of metrics.csv, as train/loss, val/accuracy, lr and so on."""
        epoch = int(row["epoch"])
        for key, value in row.items():
            if key not in ("epoch", LAST_COLUMN):
                self._scalar(tag(key), value, epoch)
                split, _, figure = key.partition("_")
                if split in self._splits and all(f"{each}_{figure}" in row for each in SPLITS):
                    self._splits[split].add(step=epoch, summary=_scalar(figure, value))
        self._flush()

    def diagnostics(self, rows: Sequence[DiagnosticRow]) -> None:
        """Write one epoch's rows of diagnostics.csv, as diagnostics/<layer>/gradient_norm and so on."""
        for row in rows:
            for column in DIAGNOSTIC_COLUMNS[2:]:
                self._scalar(f"diagnostics/{row['layer']}/{column}", row[column], row["epoch"])

    def images(self, name: str, images: Tensor, named: Tensor, true: Tensor, classes: Sequence[str], step: int) -> None:
        """Write images uint8 (N, 3, H, W) with their classes, as `thumbnails` draws them."""
        if self._own is None:
            return
        from logger.thumbnails import thumbnails

        with warn_on_failure(f"picture {name}", get_logger().warning):
            self.picture(name, thumbnails(images, named, true, classes), step)
            self._flush()

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """Write the bytes of a PNG. SummaryWriter.add_figure would draw with the user's own backend."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])  # from the header of a PNG
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(step=epoch, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def text(self, name: str, markdown: str, epoch: int) -> None:
        from torch.utils.tensorboard.summary import text

        summary = text(name, encodable(markdown))
        summary.value[0].tag = name  # which torch lengthens
        self._add(step=epoch, summary=summary)

    def hyper_parameters(self, config: Mapping[str, Any], final: Row) -> None:
        """Write the config into the HParams tab, whose table shows MAIN_SETTINGS and the curves' last points, and whole
        as a text.

        SummaryWriter.add_hparams would make a second run in a subfolder, and a curve of one point for each figure.
        """
        from torch.utils.tensorboard.summary import hparams

        settings = {encodable(key): value for key, value in flat(config)}
        plain = {key: v if isinstance(v, bool | int | float) else encodable(str(v)) for key, v in settings.items()}
        figures = {MAIN_FIGURE: 0.0} | {k: v for k, v in final.items() if k not in ("epoch", LAST_COLUMN, "lr")}
        tags = {tag(key): value for key, value in figures.items()}
        # With all settings in the table, which TensorBoard sorts by name, the accuracy would be its sixtieth column.
        table, _, _ = hparams({key: plain[key] for key in MAIN_SETTINGS if key in plain}, tags)
        _, start, end = hparams(plain, tags)
        for summary in (table, start, end):
            self._add(summary=summary)
        self.text("config", f"```json\n{json.dumps(config, indent=2)}\n```", int(final["epoch"]))

    def close(self) -> None:
        self._flush()
        self._own, self._splits = None, {}
        self._closing.close()

    def _scalar(self, name: str, value: float, epoch: int) -> None:
        self._add(step=epoch, summary=_scalar(name, value))

    def _add(self, **event: Any) -> None:
        if self._own is not None:
            self._own.add(**event)

    def _flush(self) -> None:
        with self._one_warning():
            if self._own is not None:
                self._own.flush()
            for file in self._splits.values():
                file.flush()

    @contextlib.contextmanager
    def _one_warning(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FileSystemError) as error:
            self._own, self._splits = None, {}
            get_logger().warning("cannot write TensorBoard events in %s (%s); training goes on", self._folder, error)


def has_last(folder: Folder) -> bool:
    """Whether the newest events have LAST_TEXT, without which the run was stopped before it had written all."""
    newest = max((name for name in folder.names() if name.startswith(_PREFIX)), default=None)
    try:
        return newest is not None and LAST_TEXT.encode() in folder.tail(newest, _LAST)
    except (OSError, FileSystemError):
        return False


def _begin(folder: Folder, first_epoch: int) -> _File:
    """Create the file, with a name that sorts after all existing ones. TensorBoard reads a run's files in the order of
    their names, which start with the second of creation. A purge that it reads too early would hide what a resumed run
    wrote."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    made = [name.split(".")[3] for name in folder.names() if name.startswith(_PREFIX)]
    newest = max((int(second) for second in made if second.isdecimal() and len(second) == 10), default=0)
    name = f"{_PREFIX}{max(int(time.time()), newest + 1):010d}.{host_name()}.{os.getpid()}.0"
    folder.create(name).close()
    file = _File(folder, name)
    file.add(step=first_epoch, file_version="brain.Event:2")
    file.add(step=first_epoch, session_log=SessionLog(status=SessionLog.START))
    return file


def _scalar(name: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value)])


def displayable(images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) rescaled to uint8 for display, all by the same map."""
    low, high = images.amin(), images.amax()
    return (255.0 * (images - low) / torch.clamp(high - low, min=1e-6)).byte().cpu()
