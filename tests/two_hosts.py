"""Two hosts on this machine, with a cable between them: network namespaces. It needs Debian's iproute2, and root."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

MASTER = "10.231.77.1"


@dataclass(frozen=True)
class Host:
    number: int
    name: str  # of its namespace

    @property
    def address(self) -> str:
        return f"10.231.77.{self.number + 1}"

    @property
    def cable(self) -> str:
        return f"cable{self.number}"

    def start(self, argv: list[str], log: Path) -> subprocess.Popen[bytes]:
        with open(log, "wb") as file:
            return subprocess.Popen(
                [str(_ip()), "netns", "exec", self.name, *argv],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def torchrun(self, place: Path, arguments: list[str], *options: str) -> subprocess.Popen[bytes]:
        """This host's process of a run of two; what it prints goes into `place`, into the host's log."""
        network = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={self.number}"]
        where = [f"--master-addr={MASTER}", "--master-port=29500"]
        command = [sys.executable, "-m", "torch.distributed.run", *network, *where, *options, "train.py", *arguments]
        return self.start(command, self.log(place))

    def log(self, place: Path) -> Path:
        return place / f"host{self.number}.log"

    def processes(self) -> dict[int, str]:
        """The command line of each process that runs here."""
        found = {}
        for number in _run("netns", "pids", self.name).split():
            with contextlib.suppress(OSError):
                found[int(number)] = Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ")
        return found

    def kill(self) -> None:
        """SIGKILL to all that runs here. Its connections are closed, as when a machine is switched off and on."""
        while numbers := self.processes():
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    def pull_the_cable(self) -> None:
        """Nothing comes or goes any more, and nobody is told."""
        _run("-n", self.name, "link", "set", self.cable, "down")

    def plug_in(self) -> None:
        _run("-n", self.name, "link", "set", self.cable, "up")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """They share all but the network. Skips the test where there can be none."""
    hosts = tuple(Host(number, f"test{os.getpid()}-{number}") for number in range(2))
    if _ip() is None:
        pytest.skip("two hosts need ip (Debian: iproute2)")
    try:
        try:
            for host in hosts:
                _run("netns", "add", host.name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"two hosts need network namespaces: {error.stderr.strip()}")
        first, second = hosts
        cable = ["link", "add", first.cable, "netns", first.name, "type", "veth"]
        _run(*cable, "peer", "name", second.cable, "netns", second.name)
        for host in hosts:
            _run("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.cable)
            for link in ("lo", host.cable):
                _run("-n", host.name, "link", "set", link, "up")
        yield first, second
    finally:
        for host in hosts:
            with contextlib.suppress(subprocess.CalledProcessError):
                host.kill()
                _run("netns", "delete", host.name)


def _ip() -> str | None:
    return shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(*arguments: str) -> str:
    return subprocess.run([str(_ip()), *arguments], capture_output=True, check=True, text=True, timeout=60).stdout
