"""The processes that train one model together, started by torchrun; most often there is only this one."""

import contextlib
import os
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from utils.errors import ConfigError, ProcessError, Stopped, UserError
from utils.stopping import ended_at_once

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
# How long the others wait for a process that says nothing. A dead process closes its connections, and is noticed at
# once; a machine that loses its network or its power does not.
JOINING = timedelta(minutes=5)  # torchrun starts all of them together
PREPARING = timedelta(minutes=30)  # the first process may decode or download a dataset
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SIOCGIFADDR = 0x8915  # linux/sockios.h


class FirstFailed(UserError):
    """The first process has reported its error; the others end with its exit code and no message."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class World:
    """Process number `rank` of `size`; a context manager around their joint work.

    The processes communicate through the CPU here, so that nothing waits for a GPU.
    """

    def __init__(self, lives_on: bool = False) -> None:
        """`lives_on`: this process does not end with an error, so it must leave the others then."""
        self._lives_on = lives_on
        self.rank, self.size, self.local_rank = 0, 1, 0
        self._group: Any = None  # for what the processes agree on
        # For gradients and buffers; None is torch's own group. On GPUs it is that: SyncBatchNorm uses it too, two
        # groups of NCCL could block each other, and NCCL, which ends a process by a signal, is to be more patient.
        self._tensors: Any = None
        self._nccl = False  # whether the GPUs communicate
        self._common: BaseException | None = None  # an error that all processes end with, at one point
        self._after = contextlib.ExitStack()  # what to put back in this process

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> "World":
        """Join the other processes, if torchrun's variables are set. Raises ConfigError."""
        if "WORLD_SIZE" not in os.environ:
            return self
        try:
            self.rank, self.size, self.local_rank = (int(os.environ[name]) for name in VARIABLES)
            if not 0 <= self.rank < self.size or self.local_rank < 0:
                raise ValueError
        except (KeyError, ValueError):
            self._no_world("start several processes with torchrun, which sets")
        if not self.first:
            os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            _choose_interface()
            try:
                # In a program that ends with its errors there is nothing to save before they have joined.
                with contextlib.nullcontext() if self._lives_on else ended_at_once():
                    found, *_ = next(rendezvous("env://", timeout=JOINING))
                    store = store_of_this_turn(found, self.rank, self.size)
                    dist.init_process_group(backend, None, PREPARING, self.size, self.rank, store)
                    self._group = dist.new_group(backend="gloo", timeout=PREPARING)
            except (RuntimeError, ValueError) as error:
                self._no_world(f"{' '.join(str(error).split()[:20])}: check")
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._after.close()
        if self._group is None:
            return
        together = error is None or error is self._common
        # A process alone waits here for what it does jointly, in NCCL for ever. One that ends leaves the others anyway.
        if together or (self._lives_on and not self._nccl):
            dist.destroy_process_group()
        if not together and isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
            text = str(error)
            if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
                raise ProcessError(
                    f"process {self.rank} of {self.size}: another process has gone; what it says above is why. "
                    "The newest checkpoint is whole: go on with -r auto"
                ) from error

    def _no_world(self, what: str) -> NoReturn:
        raise ConfigError(f"cannot join the other processes: {what} {', '.join(VARIABLES)}, MASTER_ADDR, MASTER_PORT")

    def begin(self, minutes: float, device: torch.device) -> None:
        """From here on, a process that keeps the others waiting for so many minutes counts as lost, and they raise."""
        if self.size > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=minutes))
            self._nccl = device.type == "cuda"
            if device.type == "cpu":
                self._tensors = self._group

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
        if outcome[1]:
            raise self.common(failed or FirstFailed(outcome[1]))
        return cast(T, value if self.first else outcome[0])

    def common(self, error: E) -> E:
        """`error`, with which all processes end at this point, so that it says nothing of the others."""
        self._common = error
        return error

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
                dist.broadcast(torch.view_as_real(buffer) if buffer.is_complex() else buffer, 0, self._tensors)

    def wrapped(self, model: torch.nn.Module) -> torch.nn.Module:
        """`model`, with gradients averaged over all processes."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # In channels_last DDP copies the gradients into its own buffers, which costs little next to the communication.
        self._after.enter_context(_ignored("Grad strides do not match bucket view strides"))
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # an option will be renamed
            return DistributedDataParallel(model, process_group=self._tensors, broadcast_buffers=False)


@contextlib.contextmanager
def _ignored(message: str) -> Iterator[None]:
    """No warning that begins so. catch_warnings would also undo the filters that libraries set meanwhile."""
    before = list(warnings.filters)
    warnings.filterwarnings("ignore", message)
    added = [each for each in warnings.filters if each not in before]
    try:
        yield
    finally:
        warnings.filters = [each for each in warnings.filters if each not in added]


def store_of_this_turn(store: Store, rank: int, size: int) -> Store:
    """`store`, through which the processes find each other, without what an earlier turn has left in it.

    torchrun --max-restarts keeps one store for all turns, and gloo would find the addresses of processes that died. So
    the first process opens a turn, each of the others answers to the newest one that has not begun, and then it begins.
    """
    if rank == 0:
        turn = store.add("turn", 1)
        store.wait([f"{turn}/{other}" for other in range(1, size)])
        store.set(f"{turn}/begun", "")
        return PrefixStore(str(turn), store)
    deadline, turn = time.monotonic() + JOINING.total_seconds(), 0
    while not (turn and store.check([f"{turn}/begun"])):
        newest = store.add("turn", 0)
        if newest > turn and not store.check([f"{newest}/begun"]):
            turn = newest
            store.set(f"{turn}/{rank}", "")
        elif time.monotonic() > deadline:
            raise RuntimeError("the first process does not answer")
        else:
            time.sleep(0.05)
    return PrefixStore(str(turn), store)


def _choose_interface() -> None:
    """Have gloo use the interface that leads to MASTER_ADDR (Linux, IPv4), unless the user has named one.

    It would use the address of this machine's own name, which /etc/hosts often says is one of loopback, where no other
    machine can reach it.
    """
    if sys.platform != "linux" or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ["MASTER_ADDR"], 9))  # sends nothing
        except (KeyError, OSError):
            return  # joining says what is wrong
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            try:
                address = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))[20:24]
            except OSError:
                continue  # it has no address
            if address == own:
                os.environ["GLOO_SOCKET_IFNAME"] = name
