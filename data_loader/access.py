"""Permissions to write at a dataset's place: to download, and to keep a cache."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Access:
    """`fetch`: missing data may be downloaded. `keep`: a cache of the decoded images may be kept beside them.

    A new run may do both, because the user named the place. A checkpoint's place may be a stranger's choice, so the
    program that reads a checkpoint limits the permissions here and passes them to the loader of the data. Nothing is
    written before `accept` is called: then the checkpoint has been read and checked, and fits the data.
    """

    fetch: bool = True
    keep: bool = True
    accepted: bool = True
    _waiting: list[Callable[[], object]] = field(default_factory=list)

    @classmethod
    def of_checkpoint(cls, named: bool, own: bool = False) -> "Access":
        """For the data of a checkpoint. `named`: the user named their place. `own`: the run resumes in its own folder,
        so it has used these data before."""
        return cls(fetch=named, keep=named or own, accepted=False)

    def write(self, action: Callable[[], object]) -> None:
        """Call `action`, which writes a cache: now, once the checkpoint is accepted, or never."""
        if self.keep and self.accepted:
            action()
        elif self.keep:
            self._waiting.append(action)

    def accept(self) -> None:
        """Run the waiting actions, now that the checkpoint is known to be whole and to fit."""
        self.accepted, waiting, self._waiting = True, self._waiting, []
        for action in waiting:
            action()
