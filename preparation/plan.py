"""What may go into a dataset file, and which of it does."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.pictures import Picture
from utils.errors import DataError
from utils.seeds import derive_seed


@dataclass(frozen=True)
class Candidate:
    """A picture that may go into the file, or a box cut from one. Of one picture one box is taken at most."""

    name: str  # of the picture in its source, a relative POSIX path
    label: int
    number: int | None = None  # of the box in its source
    box: tuple[int, int, int, int] | None = None  # left, top, width, height of the square that is cut, in pixels

    def key(self) -> str:
        """Tells it from every other candidate of its source."""
        return self.name if self.number is None else f"{self.name}#{self.number}"

    def entry(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.name,
            "label": self.label,
            **({} if self.box is None else {"annotation": self.number, "box": list(self.box)}),
        }


@dataclass(frozen=True)
class Plan:
    """The candidates of one source, in the order of the rows that they would fill, and how to come by their pixels."""

    command: str
    options: Mapping[str, Any]  # of the command; what its candidates and their pixels depend on
    classes: tuple[str, ...]
    candidates: Sequence[Candidate]
    sources: Sequence[Mapping[str, Any]]  # for the manifest: name, and SHA-256 where it is one file
    versions: Mapping[str, str]  # of the libraries that the pixels depend on
    place: str  # the path of the source, which messages begin with
    read: Callable[[Candidate], bytes]  # raises DataError
    decode: Callable[[bytes, Candidate], Picture]  # raises DataError
    stamp: Callable[[Candidate], str]  # changes when the bytes do; found without reading them
    left_out: frozenset[int] = frozenset()  # labels of which no image is wanted
    notes: tuple[str, ...] = ()  # what there is to tell of the source, such as what was left out of it

    def digest(self) -> str:
        """Hex SHA-256 of the list of candidates."""
        digest = hashlib.sha256()
        for candidate in self.candidates:
            digest.update(json.dumps(candidate.entry()).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class Request:
    """What is wanted of any command."""

    out: Path
    per_class: int | None
    form: str
    layout: str
    seed: int
    keep_duplicates: bool
    skip_broken: bool
    force: bool

    def arguments(self, plan: "Plan") -> dict[str, Any]:
        """All that the file depends on, for the manifest."""
        return {
            **plan.options,
            "per_class": self.per_class,
            "format": self.form,
            "layout": self.layout,
            "seed": self.seed,
            "keep_duplicates": self.keep_duplicates,
        }


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: pixels, or the reason why there are none."""

    source: str | None  # hex SHA-256 of the encoded bytes; None where they could not be read
    row: int  # of the store that has its pixels
    pixels: bytes  # a digest of them
    fault: str | None = None
    dim: bool = False  # nearly black, of more than 8 bits


@dataclass
class Selection:
    """Positions in `Plan.candidates`, ascending once `select` returns them."""

    chosen: list[int] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    #: Each with the position of the image that has the same 3,072 bytes.
    duplicates: list[tuple[int, int]] = field(default_factory=list)

    def positions(self) -> list[int]:
        """Of all candidates whose turn came."""
        return [*self.chosen, *self.broken, *(position for position, _ in self.duplicates)]


def select(
    plan: Plan, per_class: int | None, seed: int, outcome: Callable[[int], Outcome | None], keep_duplicates: bool
) -> Selection:
    """Take `per_class` candidates of each class, or all of them, drawn by `seed`.

    `outcome(position)` says what became of a candidate when it is its turn; a broken one, and one whose pixels were
    taken before, leaves its place to the next in the draw. Where it returns None the candidate counts as good.

    The classes with the fewest candidates choose first, since a picture with boxes of two classes goes to one only.
    """
    taken: set[str] = set()
    seen: dict[bytes, int] = {}
    selection = Selection()
    for queue in sorted(_queues(plan, seed), key=len):
        wanted = len(queue) if per_class is None else per_class
        for position in queue:
            if wanted == 0:
                break
            name = plan.candidates[position].name
            if name in taken:
                continue
            taken.add(name)
            result = outcome(position)
            if result is not None:
                if result.fault is not None:
                    selection.broken.append(position)
                    continue
                twin = seen.setdefault(result.pixels, position)
                if twin != position and not keep_duplicates:
                    selection.duplicates.append((position, twin))
                    continue
            selection.chosen.append(position)
            wanted -= 1
    for positions in (selection.chosen, selection.broken, selection.duplicates):
        positions.sort()
    return selection


def _queues(plan: Plan, seed: int) -> list[list[int]]:
    """The candidates of each class in the order of the draw.

    A candidate's place in it is a hash of the seed and its name: the same with every version of every library.
    """
    queues: list[list[int]] = [[] for _ in plan.classes]
    for position, candidate in enumerate(plan.candidates):
        queues[candidate.label].append(position)
    for queue in queues:
        queue.sort(key=lambda position: (derive_seed(seed, f"prepare/{plan.candidates[position].key()}"), position))
    return queues


def counts(plan: Plan, selection: Selection) -> list[int]:
    """How many images of each class were chosen."""
    labels = [plan.candidates[position].label for position in selection.chosen]
    counts: list[int] = np.bincount(labels, minlength=len(plan.classes)).tolist()
    return counts


def _wanted_counts(plan: Plan, selection: Selection) -> dict[str, int]:
    """By class, of those of which images are wanted."""
    return {
        plan.classes[label]: count for label, count in enumerate(counts(plan, selection)) if label not in plan.left_out
    }


def check_counts(plan: Plan, selection: Selection, request: Request, outcome: Callable[[int], Outcome | None]) -> None:
    """Raise DataError if a class has fewer images than were asked for, or nothing was chosen at all.

    `outcome` is that of `select`, of which the largest number that every class can have is asked.
    """
    found = _wanted_counts(plan, selection)
    lacking = [f"{name} has {count:,}" for name, count in found.items() if count < (request.per_class or 0)]
    if lacking:
        assert request.per_class is not None
        # Of a picture with boxes of several classes one gets it, so a smaller number leaves the later classes more.
        low, high = min(found.values()), request.per_class  # enough for all; too many
        while high - low > 1:
            middle = (low + high) // 2
            drawn = select(plan, middle, request.seed, outcome, request.keep_duplicates)
            low, high = (middle, high) if min(_wanted_counts(plan, drawn).values()) >= middle else (low, middle)
        lost = len(selection.broken) + len(selection.duplicates)
        raise DataError(
            f"{plan.place}: not every class has --per-class {request.per_class:,} images: {', '.join(lacking)}"
            + (f" ({lost:,} that are broken or duplicates left out)" if lost else "")
            + f"; {low:,} is what all can have"
        )
    if not selection.chosen:
        raise DataError(f"{plan.place}: none of the images can be used")
