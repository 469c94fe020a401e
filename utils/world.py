"""The processes that train one model together, started by torchrun; most often there is only this one."""

import datetime
import os
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist

from utils.errors import ConfigError, ProcessError, Stopped, UserError

T = TypeVar("T")
TIMEOUT = datetime.timedelta(minutes=30)  # the first process may decode or download a dataset
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


class FirstFailed(UserError):
    """The first process has reported its error; the others end with its exit code and no message."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class World:
    """Process number `rank` of `size`; a context manager around their joint work.

    The processes communicate through the CPU here, so that nothing waits for a GPU.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank = 0, 1, 0
        self._group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> "World":
        """Join the other processes, if torchrun's variables are set. Raises ConfigError."""
        if "WORLD_SIZE" not in os.environ:
            return self
        try:
            self.rank, self.size, self.local_rank = (int(os.environ[name]) for name in VARIABLES)
        except (KeyError, ValueError):
            self._no_world("start several processes with torchrun, which sets")
        if not self.first:
            os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            try:
                dist.init_process_group(backend, timeout=TIMEOUT)
            except (RuntimeError, ValueError) as error:
                self._no_world(f"{' '.join(str(error).split()[:20])}: check")
            self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._group is None:
            return
        if error is None:
            dist.destroy_process_group()
        elif isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
            text = str(error)
            if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
                raise ProcessError(
                    f"process {self.rank} of {self.size}: another process has gone; what it says above is why. "
                    "The newest checkpoint is whole: go on with -r auto"
                ) from error

    def _no_world(self, what: str) -> NoReturn:
        raise ConfigError(f"cannot join the other processes: {what} {', '.join(VARIABLES)}, MASTER_ADDR, MASTER_PORT")

    def on_first(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process only, and return its result in all. Its UserError ends them all."""
        Stopped.check()
        if self.size == 1:
            return function()
        value, failed = None, None
        outcome: list[Any] = [None, 0]
        if self.first:
            try:
                value = function()
                outcome = [value, 0]
            except UserError as error:
                failed, outcome = error, [None, error.exit_code]
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        if failed is not None:
            raise failed
        if outcome[1]:
            raise FirstFailed(outcome[1])
        return cast(T, value if self.first else outcome[0])

    def first_then_others(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process, then in the others, which may use files that it made."""
        if self.first:
            made: list[T] = []
            self.on_first(lambda: made.append(function()))
            return made[0]
        self.on_first(lambda: None)
        return function()

    def largest(self, value: int) -> int:
        """The largest `value` of all processes."""
        if self.size == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, dist.ReduceOp.MAX, group=self._group)
        return int(box)

    def gathered(self, value: T) -> list[T]:
        """Every process's `value`, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """(start, stop) of this process's part of the positions `start` to `stop` of a batch."""
        count = stop - start
        return start + count * self.rank // self.size, start + count * (self.rank + 1) // self.size

    def take_buffers_of_first(self, model: torch.nn.Module) -> None:
        """Copy the first process's buffers to all: each process averages BatchNorm statistics over its own images."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(torch.view_as_real(buffer) if buffer.is_complex() else buffer, src=0)

    def wrapped(self, model: torch.nn.Module) -> torch.nn.Module:
        """`model`, with gradients averaged over all processes."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # In channels_last DDP copies the gradients into its own buffers, which costs little next to the communication.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # an option will be renamed
            return DistributedDataParallel(model, broadcast_buffers=False)
