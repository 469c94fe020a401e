"""What may be done at a dataset's place besides reading what is there."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Access:
    """May what is missing be fetched, and may what was made of the images be kept beside them, as a cache is?

    A new run may do both: who started it named the place. What a checkpoint names may be a stranger's choice, so the
    program that reads one says here what it may lead to, and hands this on to whatever loads the data. Nothing is
    written before `accept`, by which the checkpoint has been read and checked, and is of these very data.
    """

    fetch: bool = True
    keep: bool = True
    accepted: bool = True
    _waiting: list[Callable[[], object]] = field(default_factory=list)

    @classmethod
    def of_checkpoint(cls, named: bool, own: bool = False) -> "Access":
        """For the data of a checkpoint. `named`: the user has said where they are; `own`: the checkpoint lies in the
        folder of the run that goes on in it, which has had its data before."""
        return cls(fetch=named, keep=named or own, accepted=False)

    def write(self, action: Callable[[], object]) -> None:
        """Call what writes a cache: now, once the checkpoint is accepted, or never."""
        if self.keep and self.accepted:
            action()
        elif self.keep:
            self._waiting.append(action)

    def accept(self) -> None:
        """The checkpoint is whole, and fits: do what has waited for that."""
        self.accepted, waiting, self._waiting = True, self._waiting, []
        for action in waiting:
            action()
