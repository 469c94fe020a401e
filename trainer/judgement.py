"""The report of test.py: a checkpoint's figures on its test split, as a table, JSON and a picture."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_loader.class_names import MOST_IN_MATRIX
from logger.confusion import Confusion, confusion_picture
from logger.log import get_logger
from protocol import announcements
from utils.drawing import warn_on_failure
from utils.errors import FileSystemError
from utils.folder import Folder
from utils.text import CELL, visible

MOST_LISTED = 40  # classes; with more, the table lists the worst and the best
WORST, BEST, MISTAKES = 20, 10, 20
_BEGINNING = re.compile(rb'\{\n  "checkpoint": "[^\n]*",\n  "epoch": \d+,\n  "images": ')  # of the JSON


@dataclass(frozen=True)
class TestReport:
    """`figures` are those of Evaluator.figures; `predicted` and `true` classes are int64 (N,)."""

    __test__ = False  # pytest would take it for a test by its name

    checkpoint: str
    epoch: int
    classes: tuple[str, ...]
    figures: dict[str, float]
    predicted: Tensor
    true: Tensor
    as_published: dict[str, str]  # protocol.departures
    overrides: tuple[str, ...]  # KEY=VALUE, as the user gave them
    device: str

    @cached_property
    def confusion(self) -> Confusion:
        return Confusion.of(self.predicted, self.true, self.classes)

    def per_class(self) -> dict[str, float | None]:
        """The accuracy on each class's test images; None for a class without any."""
        counts = zip(self.classes, self.confusion.right.tolist(), self.confusion.images.tolist(), strict=True)
        return {name: right / images if images else None for name, right, images in counts}

    def as_json(self) -> str:
        """A JSON object. Its confusion matrix has one line for each true class."""
        facts: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "images": len(self.true),
            "as_published": self.as_published,
            "overrides": list(self.overrides),
            "device": self.device,
            **{f"test_{name}": value for name, value in self.figures.items()},
            "per_class_accuracy": self.per_class(),
            "classes": list(self.classes),
            "worst_confusions": [mistake._asdict() for mistake in self.confusion.worst(MISTAKES)],
        }
        if len(self.classes) <= MOST_IN_MATRIX:
            name, lines = "confusion_matrix", self.confusion.matrix().tolist()
        else:
            name = "confusion_pairs"  # of those that occur, rows of true class, predicted class, number of images
            lines = torch.stack([self.confusion.true, self.confusion.predicted, self.confusion.counts], 1).tolist()
        rows = ",\n    ".join(json.dumps(line) for line in lines)
        return f'{json.dumps(facts, indent=2)[:-2]},\n  "{name}": [\n    {rows}\n  ]\n}}\n'

    def table(self) -> list[str]:
        names = [visible(name, CELL) for name in self.classes]
        width = max(len(name) for name in (*names, *self.figures))
        lines = [f"{self.checkpoint}, after epoch {self.epoch}, {len(self.true):,} test images"]
        lines += [f"  {line}" for line in announcements(self.as_published)]
        lines.append(f"  {'loss':<{width}}  {self.figures['loss']:.4f}")
        lines += [f"  {name:<{width}}  {share:.2%}" for name, share in self.figures.items() if name != "loss"]
        shares = list(self.per_class().values())
        if len(names) > MOST_LISTED:
            return [*lines, "", *self._extremes(names, shares, width)]
        lines += ["", f"  {'class':<{width}}  accuracy   predicted as"]
        for name, share, row in zip(names, shares, self.confusion.matrix().tolist(), strict=True):
            counts = " ".join(f"{count:>5}" for count in row)
            lines.append(f"  {name:<{width}}  {'none' if share is None else format(share, '.2%'):>8}  {counts}")
        return lines

    def _extremes(self, names: list[str], shares: list[float | None], width: int) -> list[str]:
        """Lines for the worst and the best classes and the most frequent mistakes."""
        known = [(share, name) for share, name in zip(shares, names, strict=True) if share is not None]
        known.sort(key=itemgetter(0))
        lines = []
        for what, some in (("the worst", known[:WORST]), ("the best", known[WORST:][-BEST:])):
            if some:
                lines.append(f"  {what} {len(some)} of {len(names):,} classes (the JSON has all)")
            lines += [f"  {name:<{width}}  {share:>8.2%}" for share, name in some]
        return [*lines, "  the most frequent mistakes", *(f"  {line}" for line in self.confusion.worst(MISTAKES))]


def save_report(report: TestReport, checkpoint: Path) -> list[Path]:
    """Write <checkpoint>-test.json and, if it can be drawn, <checkpoint>-confusion.png beside the checkpoint.

    Returns their paths.

    Raises:
        FileSystemError: the JSON cannot be written, or a file of one of these names exists that test.py did not write.
    """
    json_name, png_name = f"{checkpoint.stem}-test.json", f"{checkpoint.stem}-confusion.png"
    folder = Folder(checkpoint.parent)
    _refuse_to_replace_others(folder, json_name, png_name)
    folder.write(json_name, report.as_json().encode())
    written = [checkpoint.with_name(json_name)]
    title = f"{checkpoint.parent.name}: {report.figures['accuracy']:.2%} of {len(report.true):,} test images"
    with warn_on_failure("picture of the confusion matrix", get_logger().warning):
        folder.write(png_name, confusion_picture(report.confusion, title))
        written.append(checkpoint.with_name(png_name))
    return written


def _refuse_to_replace_others(folder: Folder, json_name: str, png_name: str) -> None:
    """Raise FileSystemError if test.py did not write the files. The JSON's beginning decides: it may be large, and a
    picture has no mark."""
    there = [name for name in (json_name, png_name) if folder.size(name)]
    if there and not _BEGINNING.match(folder.read(json_name, 1 << 16) or b""):
        raise FileSystemError(f"{folder.path / there[0]} is not of test.py; move it away, or copy the checkpoint")
