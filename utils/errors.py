"""The errors that a user can cause, each with its exit code.

A message is one line: what is wrong, where, and what to do about it.
"""

from typing import ClassVar, NoReturn

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM; also for every other signal that asks a run to stop


class UserError(ValueError):
    """An error that the user can fix; the process ends with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        Stopped.check()  # a library may have turned a request to stop into an error, which is not damage
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
    """The program's folder was moved or taken over, so the program cannot go on.

    It is not a FileSystemError: some of those concern one file, and the work goes on without it.
    """

    exit_code = FileSystemError.exit_code


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite since `step` (counted over all epochs) in `epoch`; both count from 1."""

    exit_code = 6

    def __init__(self, message: str, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch, self.step = epoch, step


class ProcessError(UserError):
    """This process cannot go on: another process of the run has gone, the GPU failed, or no thread can be started."""

    exit_code = 7


class StopTraining(Exception):
    """Raised by the function that a run calls after each epoch: the run ends here, whole, as if this were its last."""


class Stopped(BaseException):
    """A signal asked the program to stop, and the program has saved what it could.

    It is not an Exception: a reader of files catches every Exception of its library and takes it for damage. A signal
    handler raises it, and it can still be lost: in a `__del__`, in C code that clears or replaces errors, or in a bare
    except. So `ask` remembers the request, and `check` raises it again: in each step of a long loop, before a file is
    written or a folder locked, and before any other error of ours is made.
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
        """Raise the remembered request again, if there is one."""
        if cls._asked is not None:
            raise cls(*cls._asked)

    @classmethod
    def forget(cls) -> None:
        cls._asked = None
