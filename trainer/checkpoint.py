"""Checkpoints: written whole or not at all, and read only after their digest has been checked.

A checkpoint is what torch.save writes (a zip) with its own SHA-256 in the zip's comment, so that it is one file that
torch.load also reads as it is. It holds tensors and plain values only: reading it runs no code.
"""

import contextlib
import hashlib
import io
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.files import write_atomically

FORMAT_VERSION = 1
_LABEL = b"sha256:"
_COMMENT_LENGTH = len(_LABEL) + 64
_NAME = re.compile(r"checkpoint-epoch(\d+)(?:-batch(\d+))?\.pth")
BEST_NAME = "model_best.pth"

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


def pack(state: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint file: `state` as torch.save writes it, and the digest in the zip's comment."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = bytearray(buffer.getvalue())
    assert data[-2:] == b"\0\0", "torch.save has begun to write a comment of its own"
    comment = _LABEL + hashlib.sha256(data).hexdigest().encode()
    data[-2:] = struct.pack("<H", len(comment))
    return bytes(data + comment)


def unpack(data: bytes, source: str) -> dict[str, Any]:
    """What `pack` was given, on the CPU, once its digest and its form have been checked.

    Raises:
        CheckpointError: not a checkpoint of this program, damaged, of a newer format, or not of the expected form.
    """
    body, comment = data[:-_COMMENT_LENGTH], data[-_COMMENT_LENGTH:]
    length = struct.pack("<H", _COMMENT_LENGTH)
    if not comment.startswith(_LABEL) and body[-2:] != length:  # not one damaged bit away from being ours
        found = foreign_global(data)
        reason = f"it names {found}, which was not run" if found else "it does not end with its checksum"
        raise CheckpointError(
            f"{source}: not a checkpoint of this program, or truncated ({len(data):,} bytes): {reason}"
        )
    digest = hashlib.sha256(body[:-2] + b"\0\0").hexdigest().encode()
    if comment != _LABEL + digest or body[-2:] != length:
        raise CheckpointError(f"{source}: checksum mismatch: the file is damaged; resume from another checkpoint")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a file with a true digest and a hostile or foreign payload
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {unsafe[1]}, which was not run" if unsafe else type(error).__name__
        raise CheckpointError(f"{source}: not a checkpoint of tensors and plain values ({reason})") from None
    _check_form(state, source)
    return state


def foreign_global(data: bytes) -> str | None:
    """The first global outside torch and collections that a pickle, raw or inside a zip, would import; None if there
    is none to be found. Nothing is imported or run to find out."""
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        strings: list[str] = []
        for opcode, argument, _ in pickletools.genops(data):
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


def read(path: Path) -> dict[str, Any]:
    """`unpack` of a file's bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    return unpack(data, str(path))


def _check_form(state: Any, source: str) -> None:
    if not isinstance(state, dict) or not isinstance(state.get("format_version"), int):
        raise CheckpointError(f"{source}: not a checkpoint of this program: it has no format_version")
    if state["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{source}: format version {state['format_version']}, but this program reads version {FORMAT_VERSION}"
        )
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(state.get(key, ...), kind)]
    if wrong:
        raise CheckpointError(f"{source}: missing or of another type: {', '.join(wrong)}")


def check_tensors(wanted: dict[str, Tensor], found: dict[str, Any], source: str) -> None:
    """Refuse a model state whose keys, layouts, dtypes or values do not fit `wanted`; shapes are the model's to check.

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
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: {key} has NaN or infinite values")


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:4]) or "none"
    return shown + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


class CheckpointStore:
    """The checkpoints of one run folder: the newest few by epoch, and the best."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self._keep = folder, keep

    def save(self, state: dict[str, Any], *, newest: bool, best: bool) -> Path:
        """Write `state` as the newest checkpoint, as the best, or as both, and drop those no longer kept.

        Raises:
            FileSystemError: it could not be written; earlier checkpoints are as they were.
        """
        data = pack(state)
        path = self.folder / BEST_NAME
        if best:
            write_atomically(path, data)
        if newest:
            path = self.folder / checkpoint_name(state["epoch"], state["batch"])
            write_atomically(path, data)
            self._prune(path)
        return path

    def newest_first(self) -> list[Path]:
        """The run's checkpoints, the one furthest into the run first; model_best.pth is not among them."""
        found = [(at, path) for path in self.folder.glob("checkpoint-epoch*.pth") if (at := position(path))]
        return [path for _, path in sorted(found, reverse=True)]

    def set_aside_later_than(self, state: dict[str, Any]) -> list[Path]:
        """Rename the checkpoints of a branch that is abandoned by going on from `state`, so that none is taken for the
        run's own later; returns their new paths."""
        here = (state["epoch"], state["batch"])
        later = [path for path in self.newest_first() if (position(path) or here) > here]
        best = self.folder / BEST_NAME
        with contextlib.suppress(CheckpointError):  # not there, or damaged: the next best will replace it
            if read(best)["epoch"] > state["epoch"]:
                later.append(best)
        return [path.replace(path.with_name(path.name + ".abandoned")) for path in later]

    def collect_temporary(self) -> None:
        """Remove what a process killed within a save has left behind."""
        for path in self.folder.glob(".*.pth.*.tmp"):
            path.unlink(missing_ok=True)

    def _prune(self, newest: Path) -> None:
        """Keep `newest` and the `keep - 1` whole epochs before it; a checkpoint within an epoch has served its turn."""
        at = position(newest)
        kept = 1
        for path in self.newest_first():
            if path == newest or (found := position(path)) is None or at is None or found > at:
                continue  # ones further on belong to a run that was resumed from before them
            if kept < self._keep and found[1] == 0:
                kept += 1
            else:
                path.unlink(missing_ok=True)
