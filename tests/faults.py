"""Faults to put into a process of `tests.runs` before it starts: real signals, limits and full disks."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _kill(moment: str, name: str) -> None:
    """Die by SIGKILL while the file called `name` is written."""
    import utils.files

    write, fsync, replace, link = utils.files._write_all, os.fsync, os.replace, os.link
    renamed: list[str] = []

    def dying_write(file: Any, data: memoryview) -> None:
        if moment == "mid-write" and f".{name}." in str(path_of(file.fileno())):
            write(file, data[: len(data) // 2])
            _die()
        write(file, data)

    def dying_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if moment == "before the file's fsync" and f".{name}." in path_of(descriptor):
            _die()
        if moment == "before the folder's fsync" and is_folder and renamed:
            _die()
        fsync(descriptor)

    def dying(put: Callable[..., None], source: Any, target: Any, **options: Any) -> None:
        if moment == "before the replace" and Path(target).name == name:
            _die()
        put(source, target, **options)
        renamed.extend([name] * (Path(target).name == name))

    utils.files._write_all, os.fsync = dying_write, dying_fsync
    os.replace, os.link = partial(dying, replace), partial(dying, link)


def kill_at(moment: str, name: str) -> Callable[[], None]:
    return partial(_kill, moment, name)


def _slow_fsync(name: str, seconds: float) -> None:
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        if f".{name}." in path_of(descriptor):
            time.sleep(seconds)
        fsync(descriptor)

    os.fsync = slow


def slow_fsync(name: str, seconds: float) -> Callable[[], None]:
    return partial(_slow_fsync, name, seconds)


def limit_file_size(size: int) -> Callable[[], None]:
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def _limit_more_memory(size: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_more_data(size: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def limit_more_data(size: int) -> Callable[[], None]:
    """Allow `size` bytes of its own memory, which no mapped file is, beyond what the process has."""
    return partial(_limit_more_data, size)


def limit_more_memory(size: int) -> Callable[[], None]:
    """Allow `size` bytes beyond what the process has."""
    return partial(_limit_more_memory, size)


def little_memory_for_a_step() -> None:
    """Where the tensors of a step no longer fit: a real limit, set once the model is there."""
    import torch

    from trainer.trainer import Trainer

    train_step = Trainer.train_step

    def limited(*arguments: Any, **options: Any) -> None:
        _limit_more_memory(1 << 20)
        torch.empty(1 << 28)
        train_step(*arguments, **options)

    Trainer.train_step = limited


@contextmanager
def file_system(folder: Path, size: str) -> Iterator[Path]:
    """A file system of `size` of its own at `folder`; the test is skipped where one cannot be mounted."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here: " + mounted.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


class Call:
    """Pickles as a call of `function`, which whoever unpickles it then makes."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")


def _no_network(log: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]  # else the proxy is what is asked for

    def hook(event: str, arguments: tuple) -> None:
        if event in NETWORK:
            with open(log, "a") as file:
                file.write(f"{event} {arguments[:2] if event == 'socket.getaddrinfo' else arguments[1:]}\n")
            raise OSError("there is no network")

    sys.addaudithook(hook)


def no_network(log: Path) -> Callable[[], None]:
    """Whatever the process asks of the network fails, and is written to `log`."""
    return partial(_no_network, log)
