"""Checkpoints: written whole or not at all, and read only after their digest has been checked.

A checkpoint is what torch.save writes (a zip) with its own SHA-256 in the zip's comment, so that it is one file that
torch.load also reads as it is. It holds tensors and plain values only: reading it runs no code.
"""

import contextlib
import hashlib
import io
import itertools
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logger.log import get_logger
from utils.beside import beside
from utils.errors import CheckpointError
from utils.files import read_end, read_file
from utils.folder import Folder
from utils.memory_zip import open_zip
from utils.reading import told_as
from utils.tensor_file import LARGEST_PICKLE, MOST_PARTS, OddTensor, fits_its_storage, read_tensors
from utils.text import visible

FORMAT_VERSION = 2
_LABEL = b"sha256:"
_COMMENT_LENGTH = len(_LABEL) + 64
_NAME = re.compile(r"checkpoint-epoch(\d+)(?:-batch(\d+))?\.pth")
BEST_NAME = "model_best.pth"
LARGEST_FILE = 16 << 30  # bytes; a ResNet50 with AdamW's state takes 0.3 GiB
_LOOKED_THROUGH = 64 << 20  # bytes of a file that is no checkpoint, and is still looked through for what it is
_DEEPEST = 12  # a state of our own has six dicts and lists in one another

#: What every checkpoint holds, and the type of each.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format_version": int,
    "environment": dict,
    "config": dict,
    "dataset_sha256": str,
    "classes": list,
    "splits": dict,
    "given_labels": Tensor,
    "epoch": int,
    "batch": int,
    "global_step": int,
    "model": dict,
    "optimizer_type": str,
    "optimizer": dict,
    "scheduler": dict,
    "scaler": dict,
    "best": (float, type(None)),
    "epochs_since_best": int,
    "partial_sums": dict,
    "history": list,
    "seconds": float,
    "rng": dict,
}
_GENERATORS = {"python", "numpy", "torch", "cuda"}  # whose states `rng` has


def checkpoint_name(epoch: int, batch: int) -> str:
    """Of a checkpoint after `epoch` whole epochs, or (batch > 0) after `batch` batches of the epoch that follows."""
    return f"checkpoint-epoch{epoch + 1}-batch{batch}.pth" if batch else f"checkpoint-epoch{epoch}.pth"


def position(path: Path) -> tuple[int, int] | None:
    """(whole epochs, batches) that a checkpoint of that name follows, or None for another file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    epoch, batch = int(match[1]), int(match[2] or 0)
    return (epoch - 1, batch) if batch else (epoch, 0)


def is_signed(folder: Folder, name: str) -> bool:
    """Whether a file ends as a checkpoint of this program does, by its last bytes alone."""
    try:
        return folder.tail(name, _COMMENT_LENGTH).startswith(_LABEL)
    except OSError:
        return False


def pack(state: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint file: `state` as torch.save writes it, and the digest in the zip's comment."""
    data = _serialise(state)
    return b"".join((data[:-2], _comment(data)))


def _serialise(state: dict[str, Any]) -> memoryview:
    """A zip without a comment, which ends with the comment's length, 0 in two bytes; not copied, for it is large."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    assert bytes(data[-2:]) == b"\0\0", "torch.save has begun to write a comment of its own"
    return data


def _comment(data: memoryview) -> bytes:
    """What takes the place of the last two bytes: the length of a comment, and the digest of `data` as the comment."""
    return struct.pack("<H", _COMMENT_LENGTH) + _LABEL + hashlib.sha256(data).hexdigest().encode()


def unpack(data: bytes, source: str, allow_inexact: bool = False) -> dict[str, Any]:
    """What `pack` was given, on the CPU, once its digest and its form have been checked.

    With `allow_inexact` it may lack the generators' states, or be of a newer format.

    Raises:
        CheckpointError: not a checkpoint of this program, damaged, of a newer format, or not of the expected form.
    """
    body, comment = data[:-_COMMENT_LENGTH], data[-_COMMENT_LENGTH:]
    length = struct.pack("<H", _COMMENT_LENGTH)
    if not _may_be_ours(data):
        found = foreign_global(data)
        reason = f"it names {found}, which was not run" if found else "it does not end with its checksum"
        raise CheckpointError(
            f"{source}: not a checkpoint of this program, or truncated ({len(data):,} bytes): {reason}"
        )
    digest = hashlib.sha256(memoryview(body)[:-2])
    digest.update(b"\0\0")
    if comment != _LABEL + digest.hexdigest().encode() or body[-2:] != length:
        raise CheckpointError(f"{source}: checksum mismatch: the file is damaged; resume from another checkpoint")
    # Damage is ruled out; from here on a file that is wrong was made so.
    with told_as(CheckpointError, source, "not a checkpoint of tensors and plain values"):
        state = read_tensors(data)
        _check_form(state, source, allow_inexact)
    return dict(state)


def _may_be_ours(end: bytes) -> bool:
    """Whether a file with this end is a checkpoint, or one damaged bit away from being one."""
    comment = end[-_COMMENT_LENGTH:]
    return comment.startswith(_LABEL) or end[:-_COMMENT_LENGTH][-2:] == struct.pack("<H", _COMMENT_LENGTH)


def foreign_global(data: bytes) -> str | None:
    """The first global outside torch and collections that a pickle, raw or inside a zip, would import; None if there
    is none to be found in so much of it as a checkpoint's could be. Nothing is imported or run to find out."""
    try:
        if data.startswith(b"PK"):
            with open_zip(data) as archive:
                entry = next(entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
                if entry.compress_type == zipfile.ZIP_STORED:  # zipfile would hold it against its CRC-32
                    names = sum(struct.unpack_from("<HH", data, entry.header_offset + 26))
                    start = entry.header_offset + 30 + names
                    data = data[start : start + min(entry.file_size, LARGEST_PICKLE)]
                else:
                    with archive.open(entry) as file:
                        data = file.read(LARGEST_PICKLE)
        strings: list[str] = []
        for opcode, argument, _ in itertools.islice(_opcodes(data[:LARGEST_PICKLE]), MOST_PARTS // 4):
            if opcode.name == "STACK_GLOBAL":
                name = ".".join(strings[-2:])
            elif opcode.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            else:
                if isinstance(argument, str):
                    strings.append(argument)
                continue
            if name.split(".")[0] not in ("torch", "collections"):
                return name
    except Exception:  # whatever it is, it is no pickle that can be followed
        return None
    return None


def _opcodes(data: bytes) -> Iterator[tuple[Any, Any, Any]]:
    """Of all pickles that lie one behind the other, as torch.save once wrote them."""
    file = io.BytesIO(data)
    while file.tell() < len(data):
        yield from pickletools.genops(file)


def read(path: Path, allow_inexact: bool = False) -> dict[str, Any]:
    """`unpack` of a file's bytes, which are read once. A large file that does not end as a checkpoint is not read."""
    with told_as(CheckpointError, str(path), "cannot read the checkpoint"):
        end, size = read_end(path, _COMMENT_LENGTH + 2)
        if size > _LOOKED_THROUGH and not _may_be_ours(end):
            raise CheckpointError(
                f"{path}: not a checkpoint of this program, or truncated ({size:,} bytes): it does not end with its "
                "checksum"
            )
        data = read_file(path, LARGEST_FILE)
    return unpack(data, str(path), allow_inexact)


def _check_form(state: Any, source: str, allow_inexact: bool) -> None:
    if not isinstance(state, dict) or type(state.get("format_version")) is not int:
        raise CheckpointError(f"{source}: not a checkpoint of this program: it has no format_version")
    version = state["format_version"]
    if version != FORMAT_VERSION and not (allow_inexact and version > FORMAT_VERSION):
        way_out = "; --allow-inexact reads what it can of it" if version > FORMAT_VERSION else ""
        raise CheckpointError(f"{source}: format version {version}, but this program reads {FORMAT_VERSION}{way_out}")
    rng = state.get("rng")
    if not isinstance(rng, dict) or not rng.keys() >= _GENERATORS:
        if not allow_inexact:
            raise CheckpointError(
                f"{source}: it lacks the state of random generators (rng); --allow-inexact goes on without"
            )
        state["rng"] = {}
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(state.get(key, ...), kind)]
    if wrong:
        raise CheckpointError(f"{source}: missing or of another type: {', '.join(wrong)}")
    for place, tensor in _tensors(state, source):
        if isinstance(tensor, OddTensor) or not fits_its_storage(tensor):
            kind = tensor.kind if isinstance(tensor, OddTensor) else f"{tensor.layout}, {tensor.device}"
            raise CheckpointError(f"{source}: {place.text()} is no plain tensor ({kind})")
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: {place.text()} has NaN or infinite values")


@dataclass(frozen=True)
class _Place:
    """Where in nested dicts and lists a value is; `depth` of them are around it."""

    key: object = ""
    above: "_Place | None" = None
    depth: int = 0

    def text(self) -> str:
        """Such as model.stem.0.0.weight."""
        head = self.above.text() if self.above is not None else ""
        return f"{head}.{visible(str(self.key), 80)}".lstrip(".")


def _tensors(state: Any, source: str) -> Iterator[tuple[_Place, Tensor | OddTensor]]:
    """Every tensor within, with its place; nothing is visited twice, and nothing is deeper than our own states are.

    Raises:
        CheckpointError: it is nested deeper.
    """
    seen: set[int] = set()
    waiting = [(_Place(), state)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Tensor | OddTensor):
            yield place, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            if place.depth > _DEEPEST:
                raise CheckpointError(f"{source}: malformed: {place.text()} is nested more than {_DEEPEST} deep")
            seen.add(id(value))
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(item, Tensor | OddTensor | dict | list | tuple):
                    waiting.append((_Place(key, place, place.depth + 1), item))


def check_tensors(wanted: dict[str, Tensor], found: dict[str, Any], source: str) -> None:
    """Refuse a model state whose keys, layouts or dtypes do not fit `wanted`; shapes are the model's to check.

    Raises:
        CheckpointError: it lists the keys.
    """
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: it is of another architecture: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    for key, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype != wanted[key].dtype:
            kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{source}: {key} is {kind}, expected {wanted[key].dtype}, torch.strided")


def _some(keys: list[str]) -> str:
    shown = ", ".join(visible(key, 100) for key in keys[:4]) or "none"
    return shown + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


class CheckpointStore:
    """The checkpoints of one run folder: the newest few by epoch, and the best."""

    def __init__(self, folder: Path | Folder, keep: int = 2) -> None:
        self.folder, self.keep = Folder.of(folder), keep

    def save(self, state: dict[str, Any], *, newest: bool, best: bool) -> Path:
        """Write `state` as the newest checkpoint, as the best, or as both, and drop those no longer kept.

        Raises:
            FileSystemError: it could not be written; earlier checkpoints are as they were.
        """
        data = _serialise(state)
        name = BEST_NAME
        with beside(_comment, data) as comment:  # hashing takes as long as writing, and goes on beside it
            if best:
                self.folder.write(name, data[:-2], comment)
            if newest:
                name = checkpoint_name(state["epoch"], state["batch"])
                self.folder.write(name, data[:-2], comment)
                self._prune(self.folder.path / name)
        return self.folder.path / name

    def newest_first(self) -> list[Path]:
        """The run's checkpoints, the one furthest into the run first; model_best.pth is not among them."""
        paths = [self.folder.path / name for name in self.folder.names()]
        found = [(at, path) for path in paths if (at := position(path))]
        return [path for _, path in sorted(found, reverse=True)]

    def set_aside_later_than(self, state: dict[str, Any]) -> None:
        """Rename the checkpoints of a branch that is abandoned by going on from `state`, so that none is taken for the
        run's own later."""
        here = (state["epoch"], state["batch"])
        later = [path for path in self.newest_first() if (position(path) or here) > here]
        best = self.folder.path / BEST_NAME
        with contextlib.suppress(CheckpointError):  # not there, or damaged: the next best will replace it
            if read(best)["epoch"] > state["epoch"]:
                later.append(best)
        for path in later:
            aside = self.folder.set_aside(path.name, "abandoned")
            get_logger().warning("going back to an earlier checkpoint; a later one is now %s", aside)

    def _prune(self, newest: Path) -> None:
        """Keep `newest` and the `keep - 1` whole epochs before it; a checkpoint within an epoch has served its turn."""
        at = position(newest)
        kept = 1
        for path in self.newest_first():
            if path == newest or (found := position(path)) is None or at is None or found > at:
                continue  # ones further on belong to a run that was resumed from before them
            if kept < self.keep and found[1] == 0:
                kept += 1
            else:
                self.folder.remove(path.name)
