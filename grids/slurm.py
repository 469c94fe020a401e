"""The cells of a grid as jobs of a Slurm cluster, by submitit (https://github.com/facebookincubator/submitit).

A job that Slurm stops at its time limit, or takes off the node for another one, saves at that very step, is queued
again, and goes on.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grids.plan import Cell, Grid
from grids.progress import FINISHED, RUNNING, WAITING, log_path, standing
from grids.running import ROOT, GridRun, command, last_line
from utils import strict_json
from utils.errors import EXIT_TERMINATED, ConfigError, FileSystemError
from utils.files import write_atomically

if TYPE_CHECKING:
    import submitit

JOBS_NAME = "slurm.json"
MINUTES = 240  # a job's time limit where none is given; what is not done by then goes on in the next turn
TURNS = 1000  # how often a job may reach its limit
_MERCY = 600.0  # seconds for Slurm to end or queue again a job that it has sent SIGTERM


class TrainJob:
    """One cell, on the node. Submitit pickles it and calls it there, and calls `checkpoint` ahead of the time limit."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self._argv, self._log = argv, log
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Train; returns the exit code."""
        _exit_path(self._log).unlink(missing_ok=True)
        threads = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or "1"
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=_ignore_submitits_signal,
            )
        code = self._process.wait()
        _exit_path(self._log).write_text(str(code))
        if code == EXIT_TERMINATED:  # by Slurm, which gets to say what becomes of the job while it is still there
            time.sleep(_MERCY)
        return code

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Stop the run, which saves, and say how to go on: the same way."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            # Not Popen.wait: this is a signal's handler, and the wait that it interrupts holds a lock.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainJob(self._argv, self._log))


class SlurmRun(GridRun):
    """Submits what neither has finished nor is queued, at most `jobs` running at a time, and watches. When it stops
    watching, the jobs go on."""

    pause = 5.0
    goes_on = "its jobs go on in Slurm, and the same command watches them again (scancel ends them)"

    def __init__(
        self,
        grid: Grid,
        jobs: int | None,
        device: str | None,
        parameters: Mapping[str, Any],
        show: Callable[[str], None],
    ) -> None:
        super().__init__(grid, show)
        self._device = device
        self._executor = _executor(grid, jobs, parameters)
        self._ids: dict[str, str] = {}  # of jobs, by the cell's name
        self._absent: set[Cell] = set()

    def begin(self) -> None:
        self._ids = self._read_ids()
        queued = _queue()
        if queued is None:
            raise ConfigError("squeue does not answer; is this a machine that submits to Slurm?")
        new = [c for c in self.grid.cells if self.states[c] == WAITING and self._ids.get(c.name) not in queued]
        if not new:
            return
        try:
            with contextlib.redirect_stderr(io.StringIO()), self._executor.batch():  # it would say it twice
                jobs = [self._executor.submit(TrainJob(command(c, self._device), log_path(self.grid, c))) for c in new]
        except RuntimeError as error:  # sbatch said no
            raise ConfigError(f"--executor slurm: {' '.join(str(error).split())}; see --slurm") from None
        self._ids |= {cell.name: job.job_id for cell, job in zip(new, jobs, strict=True)}
        write_atomically(self.grid.folder / JOBS_NAME, (json.dumps(self._ids, indent=1) + "\n").encode())

    def step(self) -> bool:
        queued = _queue()
        if queued is not None:  # else it is busy, and the next look will tell
            for cell, state in self.states.items():
                if state in (WAITING, RUNNING):
                    self._look(cell, queued)
        self.show_if_due()
        return any(state in (WAITING, RUNNING) for state in self.states.values())

    def end(self) -> None:
        """Nothing: the jobs are Slurm's."""

    def _look(self, cell: Cell, queued: Mapping[str, str]) -> None:
        state = queued.get(self._ids[cell.name])
        if state is not None:
            self.states[cell] = WAITING if state == "PENDING" else RUNNING
            self._absent.discard(cell)
        elif standing(cell).finished:
            self.states[cell] = FINISHED
        elif cell in self._absent:
            log = log_path(self.grid, cell)
            self.fail(cell, _exit_code(log), last_line(log))
        else:  # what it wrote last may not be seen from here yet
            self._absent.add(cell)

    def _read_ids(self) -> dict[str, str]:
        path = self.grid.folder / JOBS_NAME
        try:
            return {str(name): str(number) for name, number in strict_json.loads(path.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError):
            raise FileSystemError(
                f"{path} is damaged; cancel what squeue shows of this grid, and take the file away"
            ) from None


def parameters_of(settings: list[str]) -> dict[str, Any]:
    """--slurm's KEY=VALUE as submitit takes them. Raises ConfigError."""
    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--slurm: expected KEY=VALUE such as partition=gpu, got {text!r}")
        found[key] = int(value) if value.isdecimal() else value
    return found


def _executor(grid: Grid, jobs: int | None, parameters: Mapping[str, Any]) -> "submitit.SlurmExecutor":
    try:
        import submitit
    except ImportError:
        raise ConfigError("--executor slurm needs submitit: pip install -r requirements-slurm.txt") from None
    if not all(shutil.which(program) for program in ("sbatch", "srun", "squeue")):
        raise ConfigError("--executor slurm: sbatch, srun and squeue are not on this machine; log in to the cluster's")
    executor = submitit.SlurmExecutor(grid.folder.resolve() / "logs" / "slurm", max_num_timeout=TURNS)
    wanted = {
        **{"job_name": grid.name, "time": MINUTES, "stderr_to_stdout": True},
        **{"setup": [f"export PYTHONPATH={shlex.quote(str(ROOT))}:$PYTHONPATH"]},
        **({"array_parallelism": jobs} if jobs else {}),
        **parameters,
    }
    try:
        executor.update_parameters(**wanted)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--slurm: {' '.join(str(error).split())}") from None
    return executor


def _exit_path(log: Path) -> Path:
    """Where a job leaves the exit code of its run, beside the log."""
    return log.with_suffix(".exit")


def _exit_code(log: Path) -> int:
    """As a shell counts it; 1 if the job did not live to say."""
    try:
        code = int(_exit_path(log).read_text())
    except (OSError, ValueError):
        return 1
    return code if code >= 0 else 128 - code


def _queue() -> dict[str, str] | None:
    """The state of each of the user's jobs that Slurm has, by its number; None if squeue fails."""
    argv = ["squeue", "--me", "--array", "--noheader", "--format=%i %T"]
    try:
        lines = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in lines if len(line.split()) == 2)


def _ignore_submitits_signal() -> None:
    """In the child: Slurm sends the signal to every process of the job, and it is for submitit alone."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
