"""The report of `--check`: everything about a run except its result."""

import json
import time
from operator import itemgetter

import torch

from data_loader.build import RunData
from protocol import announcements, departures
from trainer.judgement import BEST, MOST_LISTED, WORST
from trainer.trainer import Trainer
from utils.output import say
from utils.text import CELL, visible


def show(trainer: Trainer) -> None:
    """Print the resolved config, the dataset, the model's size, and the time of a step, once for all processes. No
    training is kept."""
    config, data, model = trainer.config, trainer.data, trainer.model
    lines = [*json.dumps(config.model_dump(), indent=2).split("\n"), "", *dataset_facts(data), ""]
    lines += [*announcements(departures(config)), *config.remarks, *trainer.remarks]
    lines.append(f"model: {config.arch.type}, norm {config.arch.args.norm}, {model.parameter_count():,} parameters")
    lines += _timed_step(trainer)
    if trainer.world.first:
        say(*lines)


def dataset_facts(data: RunData) -> list[str]:
    """Lines with sizes of the splits, class counts, channel statistics and realised noise."""
    dataset, splits = data.dataset, data.splits.named()
    sizes = ", ".join(f"{name} {len(part):,}" for name, part in splits.items())
    lines = [f"dataset: {dataset.source}, {len(dataset):,} images, SHA-256 {data.sha256[:16]}"]
    lines += [*dataset.notes, f"splits: {sizes}", *_class_counts(data)]
    given = data.given["train"].bincount(minlength=len(dataset.classes))[dataset.labels.unique()]
    lines.append(f"training labels of a class, wrong ones included: {int(given.min()):,} to {int(given.max()):,}")
    for what, values in (("mean", data.stats.mean), ("std", data.stats.std)):
        lines.append(f"channel {what} of the training split: " + ", ".join(f"{value:.4f}" for value in values.tolist()))
    for name in ("train", "val"):
        part = splits[name]
        wrong = int((data.given[name] != dataset.labels[part]).sum())
        lines.append(f"label noise on {name}: {wrong:,} of {len(part):,} labels are wrong ({wrong / len(part):.2%})")
    return lines


def _class_counts(data: RunData) -> list[str]:
    """Images of each class in each split. Of many classes, those with the fewest and the most training images."""
    dataset, splits = data.dataset, data.splits.named()
    names = [visible(name, CELL) for name in dataset.classes]
    counts = [torch.bincount(dataset.labels[part], minlength=len(names)).tolist() for part in splits.values()]
    rows = list(zip(names, *counts, strict=True))
    width = max(len(name) for name in (*names, "class"))
    lines = [f"  {'class':<{width}}" + "".join(f"{name:>8}" for name in splits)]
    if len(rows) > MOST_LISTED:
        rows.sort(key=itemgetter(1))
        lines[0] += f"  the {WORST} smallest and the {BEST} largest of {len(rows):,} classes"
        rows = rows[:WORST] + rows[WORST:][-BEST:]
    return lines + [f"  {name:<{width}}" + "".join(f"{count:>8,}" for count in row) for name, *row in rows]


def _timed_step(trainer: Trainer) -> list[str]:
    """The time of one forward and backward pass of a batch, after a first pass that includes the start-up."""
    data, device = trainer.data, trainer.device
    batch = next(data.train.batches(epoch=1))
    trainer.model.train()
    for _ in range(2):
        _wait(device)
        start = time.perf_counter()
        with trainer.evaluator.autocast():
            loss = trainer.loss(trainer.network(batch.images).float(), batch.given)
        loss.backward()
        _wait(device)
        step = time.perf_counter() - start
    start = time.perf_counter()
    with torch.no_grad(), trainer.evaluator.autocast():
        trainer.network.eval()(batch.images)
    _wait(device)
    forward = time.perf_counter() - start
    epoch = step * len(data.train) + forward * (len(data.val) + len(data.test))
    return [
        f"one batch of {len(batch.given)} on {device}: loss {loss.item():.4f}, forward and backward {step:.3f} s, "
        f"evaluation {forward:.3f} s",
        f"estimated time: {epoch:.0f} s an epoch, {epoch * trainer.loop.epochs / 3600:.1f} h for all "
        f"{trainer.loop.epochs}",
    ]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
