"""Reads COCO's annotations, half a gigabyte of JSON, as a stream, and keeps the few values that are used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from utils.errors import DataError
from utils.files import open_regular
from utils.optional import needed
from utils.reading import errors_as

_Number = Annotated[int, Field(ge=0, lt=2**63)]
_Pixels = Annotated[int, Field(ge=1, lt=2**63)]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Side = Annotated[float, Field(gt=-1e9, lt=1e9)]
_checked = dataclass(frozen=True, slots=True, config=ConfigDict(strict=True))


@_checked
class CocoImage:
    id: _Number
    file_name: _Name
    width: _Pixels
    height: _Pixels


@_checked
class Category:
    id: _Number
    name: _Name


@_checked
class Box:
    id: _Number
    image_id: _Number
    category_id: _Number
    bbox: Annotated[list[_Side], Field(min_length=4, max_length=4)]  # left, top, width, height
    iscrowd: Any = False


Entry = CocoImage | Category | Box
_KINDS: dict[str, type[Entry]] = {"images": CocoImage, "categories": Category, "annotations": Box}

EXPECTED = "expected COCO's instances_*.json"
_OPENING, _CLOSING = frozenset({"start_map", "start_array"}), frozenset({"end_map", "end_array"})
_PIECE = 1 << 16  # bytes
_LONGEST = 16 << 20  # bytes of one text or number
_DEEPEST = 100  # lists and objects within one another
_MOST = 5  # values of a list that are kept: one more than a box has

_Event = tuple[str, Any]


def place_of(path: Path, key: str, index: int) -> str:
    return f"{path}: {key}[{index}]"


def entries(path: Path) -> Iterator[tuple[int, Entry]]:
    """The objects of the lists images, categories and annotations, in the order of the file, each with its index.

    Raises:
        ConfigError: ijson is not installed.
        DataError: the file cannot be read or is not JSON, a list is missing or there twice, or an object is incomplete.
    """
    with errors_as(DataError, str(path), "cannot be read as JSON", "; get the file again"), open_regular(path) as file:
        yield from _lists(path, _events(file, path))


def _events(file: BinaryIO, path: Path) -> Iterator[_Event]:
    """The events of ijson, such as start_map and map_key, each with its value."""
    ijson = needed("ijson", "the command coco")
    events = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events, use_float=True)
    piece = file.read(_PIECE).removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    if piece.startswith(b"PK"):
        raise DataError(f"{path} is a zip; unpack it and name the instances_*.json that is in it")
    waiting = 0  # bytes since the last event
    while piece:
        parser.send(piece)
        waiting = 0 if events else waiting + len(piece)
        if waiting > _LONGEST:
            raise ValueError(f"a text or number of more than {_LONGEST:,} bytes")
        yield from events
        events.clear()
        piece = file.read(_PIECE)
    parser.close()
    yield from events


def _lists(path: Path, events: Iterator[_Event]) -> Iterator[tuple[int, Entry]]:
    if next(events)[0] != "start_map":
        raise DataError(f"{path}: it is no object; {EXPECTED}")
    found: set[str] = set()
    for event, key in events:
        if event == "end_map":
            break
        if key in found:
            raise DataError(f"{path}: the key {key!r} is there twice; get the file again")
        found.add(key)
        event, value = next(events)
        if key not in _KINDS:
            _value(event, value, events)
        elif event != "start_array":
            raise DataError(f"{path}: {key!r} must be a list; {EXPECTED}")
        else:
            yield from _list(path, key, events)
    next(events, None)  # raises an error if text follows the object
    missing = [repr(key) for key in _KINDS if key not in found]
    if missing:
        raise DataError(f"{path}: it has no {' and no '.join(missing)}; {EXPECTED}")


def _list(path: Path, key: str, events: Iterator[_Event]) -> Iterator[tuple[int, Entry]]:
    kind = _KINDS[key]
    for index, (event, _) in enumerate(events):
        if event == "end_array":
            return
        if event != "start_map":
            raise DataError(f"{place_of(path, key, index)}: it is no object; {EXPECTED}")
        values = {}
        while (field := next(events))[0] != "end_map":
            value = _value(*next(events), events)
            if field[1] in kind.__annotations__:
                values[field[1]] = value
        try:
            entry = kind(**values)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise DataError(f"{place_of(path, key, index)}: {what}; {EXPECTED}") from error
        yield index, entry


def _value(event: str, value: Any, events: Iterator[_Event]) -> Any:
    """The value that begins with `event`: a scalar as it is; of a list or object the first scalars, in a list, with
    None for each list or object among them."""
    if event not in _OPENING:
        return value
    found: list[Any] = []
    depth = 1
    for event, value in events:
        if depth == 1 and len(found) < _MOST and event not in _CLOSING:
            found.append(value)
        elif event == "number":  # the outlines of objects, which are most of the file
            continue
        depth += (event in _OPENING) - (event in _CLOSING)
        if depth == 0:
            break
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
    return found
