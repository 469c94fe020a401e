"""torch.save into memory, without what makes that slow for a checkpoint of some hundred megabytes."""

from collections.abc import Iterator
from typing import IO, Any, cast

import torch
from torch import Tensor


def serialise(state: dict[str, Any]) -> memoryview:
    """The bytes that torch.save writes, but for the zip's CRC-32 of each entry, which says nothing beside a SHA-256.

    torch.load does not look at them; other zip programs complain of them.
    """
    plain = [tensor for _, tensor in tensors_in(state) if tensor.layout == torch.strided and not tensor.is_meta]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}
    sink = _Memory(sum(sizes.values()) + (1 << 20))
    checked = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, cast(IO[bytes], sink))
    finally:
        torch.serialization.set_crc32_options(checked)
    return sink.written()


class _Memory:
    """A file in memory that is made large enough at once: one that grows is copied each time that it does."""

    def __init__(self, size: int) -> None:
        self._data, self._end = self._room(size), 0

    def write(self, piece: Any) -> int:
        start, self._end = self._end, self._end + len(piece)
        if self._end > len(self._data):
            larger = self._room(2 * self._end)
            larger[:start] = self._data[:start]
            self._data = larger
        self._data[start : self._end] = piece
        return len(piece)

    def flush(self) -> None:
        pass

    def written(self) -> memoryview:
        return self._data[: self._end]

    @staticmethod
    def _room(size: int) -> memoryview:
        return torch.empty(size, dtype=torch.uint8).numpy().data  # not zeroed, as a bytearray would be


def tensors_in(value: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within, with its place, such as model.stem.0.0.weight; nothing is visited twice."""
    seen: set[int] = set()
    waiting = [(where, value)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, Tensor):
            yield where, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{where}.{key}".lstrip("."), item) for key, item in items]
