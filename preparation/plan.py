"""What may go into a dataset file, and which of it does."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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

    def order(self) -> tuple[int, str, int]:
        """By which the rows of a file are sorted."""
        return self.label, self.name, self.number or 0

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
    """The candidates of one source, sorted, and how to come by their pixels."""

    command: str
    options: Mapping[str, Any]  # of the command; what its candidates and their pixels depend on
    classes: tuple[str, ...]
    candidates: Sequence[Candidate]
    sources: Sequence[Mapping[str, Any]]  # for the manifest: name, and SHA-256 where it is one file
    versions: Mapping[str, str]  # of the libraries that the pixels depend on
    place: str  # the path of the source, which messages begin with
    read: Callable[[Candidate], bytes]  # raises DataError
    decode: Callable[[bytes, Candidate], Picture]  # raises DataError
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

    def arguments(self, plan: Plan) -> dict[str, Any]:
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
    """What became of a candidate: a picture, or the fault that it has."""

    source: str | None  # hex SHA-256 of the encoded bytes; None where they could not be read
    picture: Picture | None
    fault: str = ""


Outcomes = Callable[[Candidate], Outcome | None]  # None where it is not known


@dataclass
class Selection:
    """Of the candidates whose turn came, sorted once `select` returns them."""

    chosen: list[Candidate] = field(default_factory=list)
    broken: list[Candidate] = field(default_factory=list)
    duplicates: dict[Candidate, Candidate] = field(default_factory=dict)  # with the one that has the same 3,072 bytes

    def counts(self, plan: Plan) -> list[int]:
        """How many images of each class were chosen."""
        counts = Counter(candidate.label for candidate in self.chosen)
        return [counts[label] for label in range(len(plan.classes))]


def select(plan: Plan, request: Request, outcomes: Outcomes = lambda candidate: None) -> Selection:
    """Take `request.per_class` candidates of each class, or all of them, drawn by `request.seed`.

    A candidate's outcome is asked for when it is its turn, once; a broken one, and one whose pixels were taken before,
    leaves its place to the next in the draw. One that is not known counts as good.

    The classes with the fewest candidates choose first, since a picture with boxes of two classes goes to one only.
    """
    taken: set[str] = set()
    seen: dict[bytes, Candidate] = {}
    selection = Selection()
    for queue in sorted(_queues(plan, request.seed), key=len):
        wanted = len(queue) if request.per_class is None else request.per_class
        for candidate in queue:
            if wanted == 0:
                break
            if candidate.name in taken:
                continue
            taken.add(candidate.name)
            outcome = outcomes(candidate)
            if outcome is not None:
                if outcome.picture is None:
                    selection.broken.append(candidate)
                    continue
                twin = seen.setdefault(hashlib.sha256(outcome.picture.pixels.tobytes()).digest(), candidate)
                if twin != candidate and not request.keep_duplicates:
                    selection.duplicates[candidate] = twin
                    continue
            selection.chosen.append(candidate)
            wanted -= 1
    return Selection(
        sorted(selection.chosen, key=Candidate.order),
        sorted(selection.broken, key=Candidate.order),
        {candidate: selection.duplicates[candidate] for candidate in sorted(selection.duplicates, key=Candidate.order)},
    )


def _queues(plan: Plan, seed: int) -> list[list[Candidate]]:
    """The candidates of each class in the order of the draw.

    A candidate's place in it is a hash of the seed and its name: the same with every version of every library.
    """
    queues: list[list[Candidate]] = [[] for _ in plan.classes]
    for candidate in sorted(plan.candidates, key=lambda candidate: derive_seed(seed, f"prepare/{candidate.key()}")):
        queues[candidate.label].append(candidate)
    return queues


def check_counts(
    plan: Plan, selection: Selection, request: Request, outcomes: Outcomes = lambda candidate: None
) -> None:
    """Raise DataError if a class has fewer images than were asked for, or nothing was chosen at all.

    `outcomes` are those of `select`, of which the largest number that every class can have is asked.
    """
    found = _wanted_counts(plan, selection)
    lacking = [f"{name} has {count:,}" for name, count in found.items() if count < (request.per_class or 0)]
    if lacking:
        assert request.per_class is not None
        # Of a picture with boxes of several classes one gets it, so a smaller number leaves the later classes more.
        low, high = min(found.values()), request.per_class  # enough for all; too many
        while high - low > 1:
            middle = (low + high) // 2
            drawn = select(plan, replace(request, per_class=middle), outcomes)
            low, high = (middle, high) if min(_wanted_counts(plan, drawn).values()) >= middle else (low, middle)
        lost = len(selection.broken) + len(selection.duplicates)
        raise DataError(
            f"{plan.place}: not every class has --per-class {request.per_class:,} images: {', '.join(lacking)}"
            + (f" ({lost:,} that are broken or duplicates left out)" if lost else "")
            + f"; {low:,} is what all can have"
        )
    if not selection.chosen:
        raise DataError(f"{plan.place}: none of the images can be used")


def _wanted_counts(plan: Plan, selection: Selection) -> dict[str, int]:
    """By class, of those of which images are wanted."""
    counts = enumerate(selection.counts(plan))
    return {plan.classes[label]: count for label, count in counts if label not in plan.left_out}
