"""The figures of a checkpoint on its test split, as a table, JSON and a picture."""

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from logger.figures import confusion_figure
from protocol import announcements
from trainer.evaluation import confusion
from utils import strict_json
from utils.errors import FileSystemError
from utils.folder import Folder


@dataclass(frozen=True)
class TestReport:
    """`figures` as Evaluator.figures has them; `predicted` and `true` classes int64 (N,)."""

    __test__ = False  # not a test, whatever its name says to pytest

    checkpoint: str
    epoch: int
    classes: tuple[str, ...]
    figures: dict[str, float]
    predicted: Tensor
    true: Tensor
    as_published: dict[str, str]  # protocol.departures: what of this run is not as is right, by key

    @cached_property
    def confusion(self) -> Tensor:
        """Counts (C, C), true class by row."""
        return confusion(self.predicted, self.true, len(self.classes))

    def per_class(self) -> dict[str, float | None]:
        """Share of each class's test images that are recognised; None for a class without any."""
        shares = {}
        for label, name in enumerate(self.classes):
            row = self.confusion[label]
            shares[name] = row[label].item() / row.sum().item() if row.sum() else None
        return shares

    def as_json(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "images": len(self.true),
            "as_published": self.as_published,
            **{f"test_{name}": value for name, value in self.figures.items()},
            "per_class_accuracy": self.per_class(),
            "classes": list(self.classes),
            "confusion_matrix": self.confusion.tolist(),
        }

    def table(self) -> str:
        width = max(len(name) for name in (*self.classes, "top5_accuracy"))
        lines = [f"{self.checkpoint}, after epoch {self.epoch}, {len(self.true):,} test images"]
        lines += [f"  {line}" for line in announcements(self.as_published)]
        lines.append(f"  {'loss':<{width}}  {self.figures['loss']:.4f}")
        lines += [f"  {name:<{width}}  {share:.2%}" for name, share in self.figures.items() if name != "loss"]
        lines += ["", f"  {'class':<{width}}  accuracy   predicted as"]
        for label, (name, share) in enumerate(self.per_class().items()):
            counts = " ".join(f"{count:>5}" for count in self.confusion[label].tolist())
            lines.append(f"  {name:<{width}}  {'none' if share is None else format(share, '.2%'):>8}  {counts}")
        return "\n".join(lines)


def save_report(report: TestReport, checkpoint: Path) -> list[Path]:
    """Write <checkpoint>-test.json and <checkpoint>-confusion.png beside the checkpoint; returns their paths.

    Raises:
        FileSystemError: they cannot be written, or files of these names are there which no report wrote.
    """
    json_name, png_name = f"{checkpoint.stem}-test.json", f"{checkpoint.stem}-confusion.png"
    picture = io.BytesIO()
    title = f"{checkpoint.parent.name}: {report.figures['accuracy']:.2%} of {len(report.true):,} test images"
    confusion_figure(report.confusion, report.classes, title).savefig(picture, format="png", dpi=120)
    folder = Folder(checkpoint.parent)
    _refuse_to_replace_others(folder, json_name, png_name)
    folder.write(json_name, (json.dumps(report.as_json(), indent=2) + "\n").encode())
    folder.write(png_name, picture.getvalue())
    return [checkpoint.with_name(json_name), checkpoint.with_name(png_name)]


def _refuse_to_replace_others(folder: Folder, json_name: str, png_name: str) -> None:
    """A picture says nothing of where it is from: it goes with its table."""
    there = [name for name in (json_name, png_name) if folder.size(name)]
    data = folder.read(json_name, 1 << 28) or b""
    try:
        found = strict_json.loads(data.decode())
    except ValueError:
        found = None
    if there and not (isinstance(found, dict) and found.keys() >= {"checkpoint", "confusion_matrix"}):
        raise FileSystemError(f"{folder.path / there[0]} is not of test.py; move it away, or copy the checkpoint")
