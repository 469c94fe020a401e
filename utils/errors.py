"""What can go wrong for a user, each with the exit code of its kind.

A message is one line: what is wrong, where, and what to do about it.
"""

from typing import ClassVar, NoReturn

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM, and for every other signal that asks a run to stop


class UserError(ValueError):
    """A fault that the user can mend; `exit_code` is what the process ends with."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        Stopped.check()  # what a library made of the request to stop must not be taken for damage
        super().__init__(message)


class ConfigError(UserError):
    exit_code = 2


class DataError(UserError):
    exit_code = 3


class CheckpointError(UserError):
    exit_code = 4


class FileSystemError(UserError):
    exit_code = 5


class FolderGoneError(UserError):
    """The folder that a program works in is no longer where it was, or no longer its own: it can go on with nothing.

    It is no FileSystemError, which may be about one file that the work can do without.
    """

    exit_code = FileSystemError.exit_code


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite since `step`, counted over all epochs, in `epoch`; both from 1."""

    exit_code = 6

    def __init__(self, message: str, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch, self.step = epoch, step


class ProcessError(UserError):
    """Another process of a run on several devices has gone; the work of this one cannot go on."""

    exit_code = 7


class Stopped(BaseException):
    """A program that was asked to stop and has saved what there was to save.

    It is no Exception: what reads a file catches all that its library may raise, and must not take this for damage.
    Raised by a signal's handler, it can be lost all the same, in a `__del__`, in C code that clears errors or makes
    others of them, in a bare except. So `ask` remembers the request, and `check` raises it again: in each turn of a
    long loop, before a file is written or a folder locked, and wherever another error of ours is about to be made.
    """

    _asked: ClassVar[tuple[int, str] | None] = None

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    @classmethod
    def ask(cls, exit_code: int, message: str) -> NoReturn:
        cls._asked = (exit_code, message)
        raise cls(exit_code, message)

    @classmethod
    def check(cls) -> None:
        """Raise again what was asked, if anything was."""
        if cls._asked is not None:
            raise cls(*cls._asked)

    @classmethod
    def forget(cls) -> None:
        cls._asked = None
