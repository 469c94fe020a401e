"""Reading the lists of a JSON file that is too large to hold: COCO's annotations are half a gigabyte."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import DataError

_PIECE = 1 << 20  # characters
_OF_NUMBERS = "0123456789+-.eE"  # of which "", the end of what was read, is a part as well
_LARGEST = 64 << 20  # characters of one value; COCO's largest outline has some hundred thousand


def elements(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, int, Any]]:
    """(key, index, element) of the lists that stand under the keys `wanted` of the object in `path`, in its order.

    Raises:
        DataError: not JSON, no object of that kind, a key twice, or one of `wanted` is missing or no list.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from _Reader(file).elements(wanted)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, _Malformed) as error:
        if zipfile.is_zipfile(path):
            raise DataError(f"{path} is a zip; unpack it and name the instances_*.json that is in it") from error
        reason = "not UTF-8; get the file again" if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(f"{path}: {reason}") from error


class _Malformed(Exception):
    pass


class _Reader:
    def __init__(self, file: Any) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._dropped = 0  # characters that came before `_text`
        self._decoder = json.JSONDecoder()

    def elements(self, wanted: tuple[str, ...]) -> Iterator[tuple[str, int, Any]]:
        self._expect("{", "an object")
        found: set[str] = set()
        while self._peek() != "}":
            if found:
                self._expect(",", "a comma or the end of the object")
            key = self._value() if self._peek() == '"' else None
            if not isinstance(key, str):
                self._fail("expected a key")
            if key in found:
                self._fail(f"the key {key!r} is there twice")
            found.add(key)
            self._expect(":", "a colon")
            if self._peek() == "[":
                for index, element in enumerate(self._list()):
                    if key in wanted:
                        yield key, index, element
            elif key in wanted:
                raise _Malformed(f"{key!r} must be a list")
            else:
                self._value()
        self._at += 1
        if self._peek():
            self._fail("something follows the end of the object")
        missing = [repr(key) for key in wanted if key not in found]
        if missing:
            raise _Malformed(f"it has no {' and no '.join(missing)}; expected COCO's instances_*.json")

    def _list(self) -> Iterator[Any]:
        self._at += 1
        first = True
        while self._peek() != "]":
            if not first:
                self._expect(",", "a comma or the end of the list")
            first = False
            self._peek()
            yield self._value()
        self._at += 1

    def _value(self) -> Any:
        """The value at this place, read on until something follows that does not belong to a number: half a number
        looks like a whole one.
        """
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                at, reason = self._dropped + error.pos, error.msg
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
                at, reason = self._dropped + self._at, str(error).split(";")[0]
            else:
                length = end - self._at
                whole = self._text[end : end + 1] not in _OF_NUMBERS or len(self._text) - self._at > _LARGEST
                if whole or not self._more():
                    self._at += length
                    return value
                continue
            if len(self._text) - self._at > _LARGEST:
                self._fail(reason, at)
            if not self._more():
                self._fail(f"{reason}, or the file is cut off", at)

    def _peek(self) -> str:
        """The next character that is no space; nothing at the end of the file."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _expect(self, character: str, what: str) -> None:
        found = self._peek()
        if found != character:
            self._fail(f"expected {what}" + ("" if found else ", found the end: the file is cut off"))
        self._at += 1

    def _more(self) -> bool:
        """Read on: as much again as waits to be understood, so that a long value is not tried over and over."""
        rest = self._text[self._at :]
        piece = self._file.read(max(_PIECE, len(rest)))
        self._dropped += self._at
        self._text, self._at = rest + piece, 0
        return bool(piece)

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        place = self._dropped + self._at if at is None else at
        raise _Malformed(f"malformed JSON at character {place:,}: {problem}")
