"""The bytes of a checkpoint file: a state, and a digest that proves that the file is whole.

A checkpoint is a zip from torch.save, with its SHA-256 in the zip's comment. So it is one file, and torch.load reads it
as it is. It holds tensors and plain values only, and reading it runs no code. trainer/state.py defines the fields.
"""

import hashlib
import io
import itertools
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.files import read_end, read_file
from utils.folder import Folder
from utils.memory_zip import open_checked
from utils.reading import errors_as
from utils.tensor_file import LARGEST_PICKLE, MOST_PARTS, UnsupportedTensor, fits_its_storage, read_tensors
from utils.text import visible

_LABEL = b"sha256:"
COMMENT_LENGTH = len(_LABEL) + 64
LARGEST_FILE = 16 << 30  # bytes; a ResNet50 with AdamW's state takes 0.3 GiB
_LARGEST_EXAMINED = 64 << 20  # largest file that is not a checkpoint and is still examined for the message
_DEEPEST = 12  # dicts and lists within each other; our own states have six


def is_signed(folder: Folder, name: str) -> bool:
    """Whether the last bytes of a file are those of a checkpoint of this program."""
    try:
        return folder.tail(name, COMMENT_LENGTH).startswith(_LABEL)
    except OSError:
        return False


def pack(state: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file: `state` as torch.save writes it, and the digest in the zip's comment."""
    data = serialise(state)
    return b"".join((data[:-2], comment_on(data)))


def serialise(state: Mapping[str, Any]) -> bytes:
    """`state` as a zip without a comment. It ends with the comment's length, 0 in two bytes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()  # which is no copy
    assert data[-2:] == b"\0\0", "torch.save has begun to write a comment of its own"
    return data


def comment_on(data: bytes) -> bytes:
    """The bytes that replace the last two: the length of a comment, and the digest of `data` as the comment."""
    return struct.pack("<H", COMMENT_LENGTH) + _LABEL + hashlib.sha256(data).hexdigest().encode()


def unpack(data: bytes, source: str) -> dict[str, Any]:
    """The state that `pack` was given, on the CPU. The digest is checked first.

    Raises:
        CheckpointError: it is not a checkpoint of this program, or is damaged, or holds something that is neither a
            plain value nor a plain tensor of finite numbers.
    """
    body, comment = data[:-COMMENT_LENGTH], data[-COMMENT_LENGTH:]
    length = struct.pack("<H", COMMENT_LENGTH)
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
    # The digest rules out damage: a file that is wrong from here on was made so.
    with errors_as(CheckpointError, source, "not a checkpoint of tensors and plain values"):
        state = read_tensors(data)
        if not isinstance(state, dict):
            raise CheckpointError(f"{source}: not a checkpoint of this program: it has no format_version")
        check_numbers(state, source)
    return dict(state)


def _may_be_ours(end: bytes) -> bool:
    """Whether a file with this end may be a checkpoint, perhaps with a damaged bit."""
    comment = end[-COMMENT_LENGTH:]
    return comment.startswith(_LABEL) or end[:-COMMENT_LENGTH][-2:] == struct.pack("<H", COMMENT_LENGTH)


def foreign_global(data: bytes) -> str | None:
    """The first global outside torch and collections that a pickle, raw or inside a zip, would import; None if there is
    none within the largest size of a checkpoint's pickle. It imports and runs nothing."""
    try:
        if data.startswith(b"PK"):
            with open_checked(data) as archive:
                entry = next(entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
                if entry.compress_type == zipfile.ZIP_STORED:  # read without zipfile, which would check the CRC-32
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
    except Exception:  # it is not a readable pickle
        return None
    return None


def _opcodes(data: bytes) -> Iterator[tuple[Any, Any, Any]]:
    """The opcodes of all pickles in `data`, one after another, as old versions of torch.save wrote them."""
    file = io.BytesIO(data)
    while file.tell() < len(data):
        yield from pickletools.genops(file)


def read_bytes(path: Path) -> bytes:
    """A file's bytes. A large file without a checkpoint's end is not read. Raises CheckpointError."""
    with errors_as(CheckpointError, str(path), "cannot read the checkpoint"):
        end, size = read_end(path, COMMENT_LENGTH + 2)
        if size > _LARGEST_EXAMINED and not _may_be_ours(end):
            raise CheckpointError(
                f"{path}: not a checkpoint of this program, or truncated ({size:,} bytes): it does not end with its "
                "checksum"
            )
        return read_file(path, LARGEST_FILE)


def check_numbers(state: dict[str, Any], source: str) -> None:
    """Raise CheckpointError if a tensor in `state` is not a plain one of finite numbers."""
    for place, tensor in _tensors(state, source):
        if isinstance(tensor, UnsupportedTensor) or not fits_its_storage(tensor):
            kind = tensor.kind if isinstance(tensor, UnsupportedTensor) else f"{tensor.layout}, {tensor.device}"
            raise CheckpointError(f"{source}: {_path(place)} is no plain tensor ({kind})")
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: {_path(place)} has NaN or infinite values")


#: The keys that lead to a value in nested dicts and lists.
_Place = tuple[object, ...]


def _path(place: _Place) -> str:
    """A dotted path such as model.stem.0.0.weight."""
    return ".".join(visible(str(key), 80) for key in place)


def _tensors(state: Any, source: str) -> Iterator[tuple[_Place, Tensor | UnsupportedTensor]]:
    """Every tensor in `state`, with its place. It visits no object twice.

    Raises:
        CheckpointError: `state` is nested more than _DEEPEST deep.
    """
    seen: set[int] = set()
    waiting: list[tuple[_Place, Any]] = [((), state)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Tensor | UnsupportedTensor):
            yield place, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            if len(place) > _DEEPEST:
                raise CheckpointError(f"{source}: malformed: {_path(place)} is nested more than {_DEEPEST} deep")
            seen.add(id(value))
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(item, Tensor | UnsupportedTensor | dict | list | tuple):
                    waiting.append(((*place, key), item))
