"""What can go wrong for a user, each with the exit code of its kind.

A message is one line: what is wrong, where, and what to do about it.
"""

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM


class UserError(ValueError):
    """A fault that the user can mend; `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(UserError):
    exit_code = 2


class DataError(UserError):
    exit_code = 3


class CheckpointError(UserError):
    exit_code = 4


class FileSystemError(UserError):
    exit_code = 5


class NonFiniteLossError(UserError):
    exit_code = 6


class Stopped(Exception):
    """A run that was asked to stop and has saved its state; `exit_code` is 128 plus the signal's number."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
