"""The images that may go into a dataset file, and the draw among them."""

import bisect
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_loader.class_names import TINY_COCO, TINY_EXDARK
from data_loader.pictures import SIZE, Picture
from utils.errors import DataError
from utils.seeds import derive_seed


@dataclass(frozen=True, order=True)
class Candidate:
    """A picture that may go into the file, or a box cut from one. At most one box of a picture is taken.

    Candidates sort as the rows of a file do.
    """

    label: int
    name: str  # of the picture in its source, a relative POSIX path
    number: int | None = None  # of the box in its source
    box: tuple[int, int, int, int] | None = None  # left, top, width, height of the square that is cut, in pixels

    def key(self) -> str:
        """A text that no other candidate of the source has."""
        return self.name if self.number is None else f"{self.name}#{self.number}"

    def entry(self) -> dict[str, Any]:
        """The candidate in the manifest."""
        entry: dict[str, Any] = {"name": self.name, "label": self.label}
        return entry if self.box is None else entry | {"annotation": self.number, "box": list(self.box)}


@dataclass(frozen=True)
class Plan:
    """The candidates of one source, sorted, and how to read and decode them."""

    command: str
    options: Mapping[str, Any]  # of the command: those that its candidates and their pixels depend on
    classes: tuple[str, ...]
    candidates: Sequence[Candidate]
    sources: Sequence[Mapping[str, Any]]  # for the manifest: name, and the SHA-256 of a single file
    versions: Mapping[str, str]  # of the libraries that determine the pixels
    place: str  # the path of the source, for messages
    read: Callable[[Candidate], bytes]  # raises DataError
    decode: Callable[[bytes, Candidate], Picture]  # raises DataError
    left_out: frozenset[int] = frozenset()  # labels without any image
    notes: tuple[str, ...] = ()  # lines for the user, such as the files that are left out

    def own_names(self, request: "Request") -> tuple[str, ...]:
        """The names of the classes that the file must have: those of any folder, unless they are the ones that the file
        is read with. A file of this layout is TinyCOCO's or TinyExDark's."""
        format_classes = TINY_COCO if request.layout == "NHWC" else TINY_EXDARK
        return self.classes if self.command == "folder" and self.classes != format_classes else ()

    def digest(self) -> str:
        """Hex SHA-256 of the list of candidates."""
        digest = hashlib.sha256()
        for candidate in self.candidates:
            digest.update(json.dumps(candidate.entry()).encode() + b"\n")
        return digest.hexdigest()


#: The value of an option that a manifest does not name, as those from before there was the option.
UNSAID = {"image_size": SIZE, "dither": False}


@dataclass(frozen=True)
class Request:
    """The options that all commands of prepare_data.py share, by their names there."""

    output: Path
    per_class: int | None
    format: str
    layout: str
    seed: int
    keep_duplicates: bool
    skip_broken: bool
    force: bool
    image_size: int = SIZE
    dither: bool = False

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """Every option that the file's contents depend on, for the manifest."""
        names = ("per_class", "format", "layout", "seed", "keep_duplicates")
        said = [*names, *(name for name, usual in UNSAID.items() if getattr(self, name) != usual)]
        return {**plan.options, **{name: getattr(self, name) for name in said}}


@dataclass(frozen=True)
class Outcome:
    """The result of decoding a candidate: a picture, or the reason why there is none."""

    source: str | None  # hex SHA-256 of the encoded bytes; None if they cannot be read
    picture: Picture | None
    fault: str = ""


Outcomes = Callable[[Candidate], Outcome | None]  # None: it is not known


@dataclass(frozen=True)
class Selection:
    """The candidates whose turn came, by what became of them; each part in the order of the plan."""

    chosen: list[Candidate]
    broken: list[Candidate]
    duplicates: dict[Candidate, Candidate]  # -> the candidate with the same pixels that came before

    def counts(self, plan: Plan) -> list[int]:
        """The number of chosen images of each class."""
        counts = Counter(candidate.label for candidate in self.chosen)
        return [counts[label] for label in range(len(plan.classes))]


def select(plan: Plan, request: Request, outcomes: Outcomes = lambda candidate: None) -> Selection:
    """Draw `request.per_class` candidates of each class, or all of them, by `request.seed`.

    `outcomes` is called once for each candidate whose turn comes. A broken candidate, and one whose pixels were taken
    before, leaves its place to the next in the draw. A candidate without an outcome counts as good.

    The classes with the fewest candidates choose first, because a picture with boxes of two classes goes to one only.
    """
    taken: set[str] = set()
    seen: dict[bytes, Candidate] = {}
    chosen, broken, duplicates = [], [], {}
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
                    broken.append(candidate)
                    continue
                twin = seen.setdefault(hashlib.sha256(outcome.picture.pixels.tobytes()).digest(), candidate)
                if twin != candidate and not request.keep_duplicates:
                    duplicates[candidate] = twin
                    continue
            chosen.append(candidate)
            wanted -= 1
    return Selection(sorted(chosen), sorted(broken), dict(sorted(duplicates.items())))


def _queues(plan: Plan, seed: int) -> list[list[Candidate]]:
    """The candidates of each class in the order of the draw: by a hash of the seed and the candidate's key, which does
    not depend on the version of any library."""
    queues: list[list[Candidate]] = [[] for _ in plan.classes]
    for candidate in sorted(plan.candidates, key=lambda candidate: derive_seed(seed, f"prepare/{candidate.key()}")):
        queues[candidate.label].append(candidate)
    return queues


def check_counts(
    plan: Plan, selection: Selection, request: Request, outcomes: Outcomes = lambda candidate: None
) -> None:
    """Check that `selection`, drawn with `outcomes`, has as many images of each class as were asked for.

    Raises:
        DataError: a class has fewer, or nothing was chosen. The message has the largest number that all classes can
            have.
    """
    found = _wanted_counts(plan, selection)
    asked = request.per_class or 0
    lacking = [f"{name} has {count:,}" for name, count in found.items() if count < asked]
    if lacking:

        def is_too_many(number: int) -> bool:
            drawn = select(plan, replace(request, per_class=number), outcomes)
            return min(_wanted_counts(plan, drawn).values()) < number

        # A picture with boxes of several classes goes to one of them, so a smaller number leaves more to the others.
        most = bisect.bisect_left(range(1, asked), True, lo=min(found.values()), key=is_too_many)
        lost = len(selection.broken) + len(selection.duplicates)
        raise DataError(
            f"{plan.place}: not every class has --per-class {asked:,} images: {', '.join(lacking)}"
            + (f" ({lost:,} that are broken or duplicates left out)" if lost else "")
            + f"; {most:,} is what all can have"
        )
    if not selection.chosen:
        raise DataError(f"{plan.place}: none of the images can be used")


def _wanted_counts(plan: Plan, selection: Selection) -> dict[str, int]:
    """The number of chosen images of each class that is wanted, by its name."""
    counts = enumerate(selection.counts(plan))
    return {plan.classes[label]: count for label, count in counts if label not in plan.left_out}
