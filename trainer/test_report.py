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
from utils.files import write_atomically
from utils.text import CELL, visible


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

    def table(self) -> list[str]:
        names = [visible(name, CELL) for name in self.classes]
        width = max(len(name) for name in (*names, "top5_accuracy"))
        lines = [f"{self.checkpoint}, after epoch {self.epoch}, {len(self.true):,} test images"]
        lines += [f"  {line}" for line in announcements(self.as_published)]
        lines.append(f"  {'loss':<{width}}  {self.figures['loss']:.4f}")
        lines += [f"  {name:<{width}}  {share:.2%}" for name, share in self.figures.items() if name != "loss"]
        lines += ["", f"  {'class':<{width}}  accuracy   predicted as"]
        for label, (name, share) in enumerate(zip(names, self.per_class().values(), strict=True)):
            counts = " ".join(f"{count:>5}" for count in self.confusion[label].tolist())
            lines.append(f"  {name:<{width}}  {'none' if share is None else format(share, '.2%'):>8}  {counts}")
        return lines


def save_report(report: TestReport, checkpoint: Path) -> list[Path]:
    """Write <checkpoint>-test.json and <checkpoint>-confusion.png beside the checkpoint; returns their paths."""
    json_path = checkpoint.with_name(f"{checkpoint.stem}-test.json")
    write_atomically(json_path, (json.dumps(report.as_json(), indent=2) + "\n").encode())
    picture = io.BytesIO()
    title = f"{checkpoint.parent.name}: {report.figures['accuracy']:.2%} of {len(report.true):,} test images"
    confusion_figure(report.confusion, report.classes, title).savefig(picture, format="png", dpi=120)
    png_path = checkpoint.with_name(f"{checkpoint.stem}-confusion.png")
    write_atomically(png_path, picture.getvalue())
    return [json_path, png_path]
