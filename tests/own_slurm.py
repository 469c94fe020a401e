"""A real Slurm, of which this machine is every node, for as long as a test needs it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
CONF = """
ClusterName=own
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldPort={controller}
PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostName={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} State=UNKNOWN\n"


def why_not() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "starting a Slurm needs root"


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def slurm(place: Path, count: int = 1) -> Iterator[dict[str, str]]:
    """The environment in which sbatch and the others speak to it. It has `count` nodes, one or two.

    `place` has a short path: Slurm makes sockets below it, whose paths have at most 108 characters.
    """
    host = socket.gethostname().split(".")[0]
    nodes = (host, "localhost")[:count]  # names by which processes of this machine find each other
    for name in ("state", *(f"spool-{node}" for node in nodes)):
        (place / name).mkdir()
    conf = place / "slurm.conf"
    text = CONF.format(host=host, place=place, controller=_free_port(), nodes=",".join(nodes))
    for node in nodes:
        text += NODE.format(name=node, host=host, port=_free_port(), cores=os.cpu_count())
    conf.write_text(text)
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    place.chmod(0o755)
    _run(
        *(find("munged"), "--force", f"--key-file={key}", f"--socket={place}/munge.socket"),
        *(f"--pid-file={place}/munged.pid", f"--log-file={place}/munged.log", f"--seed-file={place}/munged.seed"),
    )
    try:
        _run(find("slurmctld"), env=environment)
        for node in nodes:
            _run(find("slurmd"), "-N", node, env=environment)
        _until(
            lambda: _run("sinfo", "--noheader", "--Node", "--format=%T", env=environment).split() == ["idle"] * count
        )
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=environment, check=False)
        with contextlib.ExitStack() as stack:
            for name in (
                "munged",
                "slurmctld",
                *(f"slurmd-{node}" for node in nodes),
            ):  # ended from the last to the first, whatever fails
                stack.callback(_end, place / f"{name}.pid")


def _run(*argv: str | None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(part) for part in argv], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _end(pid_file: Path) -> None:
    if pid_file.exists():
        number = int(pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)
        _until(lambda: _has_ended(number))


def _has_ended(number: int) -> bool:
    """Gone, or a zombie that nobody collects, as where process 1 is no init."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
