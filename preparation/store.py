"""The images decoded so far, on disk, so that a killed run goes on where it was."""

import hashlib
import os
import zlib
from typing import Any

import numpy as np

from data_loader.pictures import SIZE, Picture
from preparation.plan import Outcome
from utils.errors import FileSystemError
from utils.folder import Folder

FORMAT = 2  # of manifests and stores: raise it when the same arguments come to mean other pixels
_SHAPE = (3, SIZE, SIZE)
_RECORD = np.dtype(
    [
        ("key", "V16"),  # of what the pixels are a function of
        ("good", "u1"),  # 2: and dim
        ("source", "V32"),  # SHA-256 of the encoded bytes, or zeros
        ("pixels", "u1", _SHAPE),  # or the reason why there are none, in UTF-8
        ("crc", "<u4"),  # of all that comes before
    ]
)
_LONGEST_REASON = 2000  # bytes


class Store:
    """Records of one length, appended one at a time; the first one that is damaged or cut off ends the file.

    A context manager, which closes the file.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.path = folder.path / name
        self._outcomes: dict[bytes, Outcome] = {}
        self._file = folder.update(name)
        while len(data := self._file.read(_RECORD.itemsize)) == _RECORD.itemsize:
            record = np.frombuffer(data, _RECORD)[0]
            if zlib.crc32(data[:-4]) != record["crc"]:
                break
            self._remember(record)
        self._file.truncate(len(self) * _RECORD.itemsize)
        self._file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        return len(self._outcomes)

    def get(self, key: bytes) -> Outcome | None:
        return self._outcomes.get(key)

    def add(self, key: bytes, source: str | None, picture: Picture | None, fault: str = "") -> Outcome:
        """Keep what became of a candidate: its pixels, or the fault that it has."""
        record = np.zeros((), _RECORD)
        record["key"] = np.void(key)
        record["good"] = 0 if picture is None else 1 + picture.dim
        record["source"] = np.void(bytes.fromhex(source) if source else bytes(32))
        if picture is not None:
            record["pixels"] = picture.pixels
        else:
            reason = np.frombuffer(fault.encode(errors="backslashreplace")[:_LONGEST_REASON], np.uint8)
            record["pixels"].reshape(-1)[: len(reason)] = reason
        record["crc"] = zlib.crc32(record.tobytes()[:-4])
        data = memoryview(record.tobytes())
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise FileSystemError(f"cannot write {self.path}: {error.strerror}") from error
        return self._remember(record[()])

    def pixels(self, rows: list[int]) -> np.ndarray:
        """uint8 (n, 3, 32, 32) of these rows; faults have none."""
        records = np.memmap(self._file, _RECORD, "r")
        return records["pixels"][rows]

    def _remember(self, record: Any) -> Outcome:
        source, pixels = bytes(record["source"]), record["pixels"].tobytes()
        outcome = Outcome(
            source=source.hex() if any(source) else None,
            row=len(self),
            pixels=hashlib.sha256(pixels).digest()[:16],
            fault=None if record["good"] else pixels.rstrip(b"\0").decode(errors="ignore"),
            dim=bool(record["good"] == 2),
        )
        self._outcomes[bytes(record["key"])] = outcome
        return outcome

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
