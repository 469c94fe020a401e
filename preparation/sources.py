"""What the folders and .zip files of the commands have in common."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image, ImageOps

from data_loader.picture_files import Files, Parts, everything
from data_loader.pictures import SIZE, Picture, crop_to_size, decode
from preparation.plan import Candidate, Plan
from utils.errors import DataError
from utils.files import sha256_of_file
from utils.progress import Bar

#: How an image that is not square becomes one. `crop` is what ImageFolder does.
Square = Literal["crop", "pad"]

VERSIONS = {"numpy": np.__version__, "Pillow": PIL.__version__}


def pad_to_size(image: Image.Image) -> Image.Image:
    """32x32: the long side scaled to 32, black on both sides of the short one."""
    return ImageOps.pad(image, (SIZE, SIZE), Image.Resampling.BICUBIC)


def open_files(source: Path, splits: bool = False, needed: Parts = everything) -> Files:
    """The files of a folder or .zip. Raises DataError where there is none."""
    if not source.exists():
        raise DataError(f"there is no {source}; name a folder or .zip")
    return Files(source, splits, needed)


def describe(source: Path) -> dict[str, Any]:
    """A source for the manifest: its name and, if it is one file, its SHA-256."""
    if source.is_dir():
        return {"name": source.resolve().name, "kind": "folder"}
    size, name = source.stat().st_size, source.name
    with Bar(total=size, desc=f"checksum of {name}", unit="B", unit_scale=True, leave=False) as bar:
        return {"name": name, "kind": "file", "sha256": sha256_of_file(source, bar.update)}


def plan_of_pictures(
    command: str,
    source: Path,
    files: Files,
    candidates: list[Candidate],
    classes: Sequence[str],
    options: dict[str, Any],
) -> Plan:
    """A plan in which each candidate is a whole picture; `options["square"]` says how it becomes square."""
    to_size = {"crop": crop_to_size, "pad": pad_to_size}[options["square"]]

    def pixels(data: bytes, candidate: Candidate) -> Picture:
        return decode(data, f"{source}: {candidate.name}", to_size)

    labels = {candidate.label for candidate in candidates}
    return Plan(
        command=command,
        options=options,
        classes=tuple(classes),
        candidates=sorted(candidates, key=lambda candidate: (candidate.label, candidate.name)),
        sources=[describe(source)],
        versions=VERSIONS,
        place=str(source),
        read=lambda candidate: files.read(candidate.name),
        decode=pixels,
        stamp=cache(lambda candidate: files.stamp(candidate.name)),
        left_out=frozenset(range(len(classes))) - labels,
        notes=(*files.left_out.lines(), *files.notes),
    )
