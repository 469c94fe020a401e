"""The bytes of a checkpoint file: a state, and the digest that says it is whole.

A checkpoint is what torch.save writes (a zip) with its own SHA-256 in the zip's comment, so that it is one file that
torch.load also reads as it is. It holds tensors and plain values only: reading it runs no code. What values they must
be is said in trainer/state.py.
"""

import hashlib
import io
import itertools
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.files import read_end, read_file
from utils.folder import Folder
from utils.memory_zip import open_zip
from utils.reading import told_as
from utils.tensor_file import LARGEST_PICKLE, MOST_PARTS, OddTensor, fits_its_storage, read_tensors
from utils.text import visible

_LABEL = b"sha256:"
_COMMENT_LENGTH = len(_LABEL) + 64
LARGEST_FILE = 16 << 30  # bytes; a ResNet50 with AdamW's state takes 0.3 GiB
_LOOKED_THROUGH = 64 << 20  # bytes of a file that is no checkpoint, and is still looked through for what it is
_DEEPEST = 12  # a state of our own has six dicts and lists in one another


def is_signed(folder: Folder, name: str) -> bool:
    """Whether a file ends as a checkpoint of this program does, by its last bytes alone."""
    try:
        return folder.tail(name, _COMMENT_LENGTH).startswith(_LABEL)
    except OSError:
        return False


def pack(state: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file: `state` as torch.save writes it, and the digest in the zip's comment."""
    data = serialise(state)
    return b"".join((data[:-2], comment_on(data)))


def serialise(state: Mapping[str, Any]) -> memoryview:
    """A zip without a comment, which ends with the comment's length, 0 in two bytes; not copied, for it is large."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getbuffer()
    assert data[-2:] == b"\0\0", "torch.save has begun to write a comment of its own"
    return data


def comment_on(data: memoryview) -> bytes:
    """What takes the place of the last two bytes: the length of a comment, and the digest of `data` as the comment."""
    return struct.pack("<H", _COMMENT_LENGTH) + _LABEL + hashlib.sha256(data).hexdigest().encode()


def unpack(data: bytes, source: str) -> dict[str, Any]:
    """What `pack` was given, on the CPU, once its digest has been checked.

    Raises:
        CheckpointError: not a checkpoint of this program, damaged, or with something in it that is neither a plain
            value nor a plain tensor of finite numbers.
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
        if not isinstance(state, dict):
            raise CheckpointError(f"{source}: not a checkpoint of this program: it has no format_version")
        _check_tensors(state, source)
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


def read_file_of_state(path: Path) -> dict[str, Any]:
    """`unpack` of a file's bytes, which are read once. A large file that does not end as a checkpoint is not read."""
    with told_as(CheckpointError, str(path), "cannot read the checkpoint"):
        end, size = read_end(path, _COMMENT_LENGTH + 2)
        if size > _LOOKED_THROUGH and not _may_be_ours(end):
            raise CheckpointError(
                f"{path}: not a checkpoint of this program, or truncated ({size:,} bytes): it does not end with its "
                "checksum"
            )
        data = read_file(path, LARGEST_FILE)
    return unpack(data, str(path))


def _check_tensors(state: dict[str, Any], source: str) -> None:
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
