"""Predicts the classes of pictures: finds and decodes them, and makes a table of the answers."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config_schema import Config
from data_loader.picture_files import NO_FORMAT, Files, is_picture, read_picture
from data_loader.pictures import BrokenImageError, UnreadableFileError
from inference.loading import Trained
from trainer.evaluation import AMP_TYPES
from utils.errors import DataError
from utils.progress import Bar
from utils.text import csv_cell, encodable, visible

COLUMNS = ("image", "class", "probability")
_LONGEST = 1500  # characters of the line that names all broken pictures
_LARGEST_BATCH = 1 << 20  # pixels: 1,024 images of 32x32


class Found(NamedTuple):
    """A picture, and the function that reads its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass
class Pictures:
    """`broken` are names and reasons of what cannot be read. `notes` are lines for the user."""

    found: list[Found] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Answer(NamedTuple):
    """The classes of a picture, the most probable first, and their probabilities."""

    picture: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def line(self) -> str:
        pairs = zip(self.classes, self.probabilities, strict=True)
        return "  ".join((self.picture, *(f"{name} {probability:.2%}" for name, probability in pairs)))


@contextmanager
def find_pictures(places: Sequence[str]) -> Iterator[Pictures]:
    """The pictures at `places`: files, and folders and zips, where they are found as for an ImageFolder.

    Raises:
        DataError: there are none, or a folder or zip cannot be opened.
    """
    pictures = Pictures()
    with ExitStack() as stack:
        for place in places:
            path = Path(place)
            if not (path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file())):
                pictures.found.append(Found(place, partial(read_picture, path)))
                continue
            files = stack.enter_context(Files(path, splits=False))
            names = [name for name in files.names if is_picture(name)]
            pictures.found += [Found(str(path / name), partial(files.read, name)) for name in names]
            for name in files.names:
                if not is_picture(name):
                    files.left_out.add(NO_FORMAT, name)
            pictures.notes += [f"{place}: {line}" for line in files.left_out.lines()]
            if not names:
                pictures.broken.append((place, "there is no picture in it"))
        if not pictures.found:
            raise DataError("; ".join([f"no picture was found in {', '.join(places)}", *pictures.notes]))
        yield pictures


def answers_to(
    network: Trained, pictures: Pictures, config: Config, device: torch.device, top: int
) -> Iterator[Answer]:
    """The `top` classes of each picture in turn. It decodes and evaluates a batch at a time, as test.py does.

    What cannot be read is added to `pictures.broken`.
    """
    height, width = network.preprocess.image_size
    size = max(1, min(config.data_loader.args.batch_size, _LARGEST_BATCH // (height * width)))
    asked, amp = config.trainer.channels_last, AMP_TYPES[config.trainer.amp]
    channels_last = device.type == "cpu" if asked is None else asked
    for names, pixels in _batches(network, pictures, size):
        images = network.preprocess.batch(pixels, device, channels_last)
        with torch.no_grad(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            logits = network.model(images).float().cpu()
        yield from _answers(names, logits, network.classes, top)


def _batches(network: Trained, pictures: Pictures, size: int) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    names: list[str] = []
    pixels: list[np.ndarray] = []
    for found in Bar(pictures.found, desc="predicting", unit="image"):
        try:
            pixels.append(network.preprocess.decode(found.read(), found.name))
        except (BrokenImageError, UnreadableFileError) as error:
            pictures.broken.append((found.name, error.reason))
            continue
        names.append(found.name)
        if len(names) == size:
            yield names, pixels
            names, pixels = [], []
    if names:
        yield names, pixels


def _answers(names: list[str], logits: Tensor, classes: Sequence[str], top: int) -> Iterator[Answer]:
    # A stable order takes the first of equal logits, as argmax does.
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
    probabilities = logits.softmax(1).gather(1, order)
    for name, best, shares in zip(names, order.tolist(), probabilities.tolist(), strict=True):
        # A network may have more outputs than there are classes.
        named = tuple(classes[at] if at < len(classes) else f"output {at}" for at in best)
        yield Answer(name, named, tuple(shares))


def of_broken(broken: Sequence[tuple[str, str]]) -> list[str]:
    """Lines that name all pictures that cannot be read, the last one for the end; it is empty if there are none."""
    named = [visible(f"{name} ({reason})") for name, reason in broken]
    count = f"{len(named):,} pictures cannot be read" if len(named) > 1 else "a picture cannot be read"
    line = f"{count}: {', '.join(named)}"
    if len(line) <= _LONGEST:
        return [line if named else ""]
    return [*(f"cannot be read: {name}" for name in named), f"{count}; they are named above"]


def as_csv(answers: Sequence[Answer], top: int) -> bytes:
    """A row for each picture: its name, then class and probability of each of the `top` classes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [f"{column}_{rank}" for rank in range(2, top + 1) for column in COLUMNS[1:]]
    writer.writerow([*COLUMNS, *more])
    for answer in answers:
        row: list[object] = [csv_cell(answer.picture)]
        for name, probability in zip(answer.classes, answer.probabilities, strict=True):
            row += [csv_cell(name), f"{probability:.8g}"]
        writer.writerow(row)
    return encodable(text.getvalue()).encode()  # a file's name need not be UTF-8


def is_ours(data: bytes) -> bool:
    """Whether a file that begins with `data` is a table of predictions."""
    return data.startswith(",".join(COLUMNS).encode())
