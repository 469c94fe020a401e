"""Runs the cells of a grid as jobs of a Slurm cluster, by submitit (https://github.com/facebookincubator/submitit).

A job that Slurm stops at its time limit or preempts saves at that very step, is queued again, and resumes.
"""

import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from grids.plan import Cell, Grid
from grids.progress import FINISHED, RUNNING, WAITING, log_path, standing
from grids.running import ROOT, GridRun, Show, command, start
from utils import strict_json
from utils.errors import EXIT_TERMINATED, ConfigError, FileSystemError
from utils.files import read_file
from utils.folder import Folder
from utils.stopping import STOP_SIGNALS
from utils.text import did_you_mean, one_line

if TYPE_CHECKING:
    import submitit

JOBS_NAME = "slurm.json"
MINUTES = 240  # a job's time limit where none is given; what is not done by then goes on in the next turn
MOST_REQUEUES = 1000  # how often a job may reach its limit
LARGEST_RECORD = 16 << 20  # bytes of slurm.json
_SET_BY_GRID = {  # parameter that the grid sets for each job -> the reason or advice for a user who gives it
    "array_parallelism": "use --jobs",
    "job_name": "jobs have the grid's name",
    **dict.fromkeys(
        ("setup", "teardown", "use_srun", "srun_args", "additional_parameters", "dependency"), "it is the grid's"
    ),
}
#: The parameters of submitit that a user may give: those that become an `#SBATCH --key=value` and run no command.
_ALLOWED = [
    "nodes",
    "ntasks_per_node",
    "partition",
    "account",
    "qos",
    "time",
    "constraint",
    "exclude",
    "nodelist",
    "exclusive",
    "signal_delay_s",
    "cpus_per_task",
    "cpus_per_gpu",
    "num_gpus",
    "gpus_per_node",
    "gpus_per_task",
    "gres",
    "mem",
    "mem_per_gpu",
    "mem_per_cpu",
    "comment",
    "mail_type",
    "mail_user",
    "wckey",
    "stderr_to_stdout",
]


class TrainJob:
    """The job of one cell. Submitit pickles it, calls it on the node, and calls `checkpoint` before the time limit.

    In a job of several tasks (`nodes`, `ntasks_per_node`) each task is one process of the run, without torchrun: that
    would not pass on the signal to save, and would hide the run's exit code.

    The run is a child in its own session, so that it gets each signal once, from this process: by default Slurm signals
    this process only, on other clusters the whole process group.
    """

    def __init__(self, argv: list[str], log: Path, folder: Path) -> None:
        """`folder` is the folder that relative paths refer to."""
        self._argv, self._log, self._folder = argv, log, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated = False

    def __call__(self) -> int:
        """Train; returns the exit code."""
        signal.signal(signal.SIGTERM, self._pass_on)
        rank = _join_tasks()
        self._process = start(self._argv, self._log, _threads(), self._folder, _leave_submitits_signal)
        code = self._process.wait()
        if rank == 0:
            Folder(self._log.parent).write(_exit_path(self._log).name, str(code).encode())
        while self._terminated:  # Slurm says whether this job ends or is queued again, while it is still there
            signal.pause()
        return code

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Stop the run, which saves, and return the same job to be queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            # Not Popen.wait: this is a signal's handler, and the wait that it interrupts holds a lock.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainJob(self._argv, self._log, self._folder))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._process is None:
            sys.exit(EXIT_TERMINATED)
        self._terminated = True
        self._process.send_signal(number)


def _join_tasks() -> int:
    """Tell the run how to find the other tasks of this job, if there are any; returns this one's number."""
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return 0
    from submitit.helpers import TorchDistributedEnvironment

    return TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True).rank


def _threads() -> int:
    """The cores of a task."""
    if own := os.environ.get("SLURM_CPUS_PER_TASK"):
        return int(own)
    cores, tasks = (int(os.environ.get(f"SLURM_{name}") or "1") for name in ("CPUS_ON_NODE", "NTASKS_PER_NODE"))
    return max(1, cores // tasks)


class SlurmRun(GridRun):
    """Submits the cells that have neither finished nor been queued, at most `jobs` running at a time, and watches them.
    The jobs continue when it stops watching."""

    pause = 5.0
    goes_on = "its jobs go on in Slurm, and the same command watches them again (scancel ends them)"

    def __init__(
        self,
        grid: Grid,
        jobs: int | None,
        device: str | None,
        parameters: Mapping[str, Any],
        show: Show,
    ) -> None:
        super().__init__(grid, show)
        self._device = device
        # Of this very folder, so that jobs of a grid of that name elsewhere are not taken for its own.
        self._name = f"{grid.name}-{hashlib.sha256(os.fsencode(os.path.realpath(grid.folder))).hexdigest()[:8]}"
        self._executor = _executor(grid, self._name, jobs or len(grid.cells), parameters)
        self._ids: dict[str, str] = {}  # of jobs, by the cell's name
        self._absent: set[Cell] = set()

    def begin(self) -> None:
        self._ids = self._read_ids()
        queued = _queue(self._name)
        if self.stop.signal:
            return
        if queued is None:
            raise ConfigError("squeue does not answer; is this a machine that submits to Slurm?")
        unknown = sorted(queued.keys() - set(self._ids.values()))
        if unknown:  # a submission was cut off before it was noted; which cells they are cannot be told
            raise FileSystemError(
                f"Slurm has jobs of this grid that {self.grid.folder / JOBS_NAME} does not know; wait for them, or "
                f"scancel --name={self._name}, and try again"
            )
        new = [c for c in self.grid.cells if self.states[c] == WAITING and self._ids.get(c.name) not in queued]
        if new:
            self._submit(new)

    def _submit(self, cells: list[Cell]) -> None:
        with self.folder.below("logs") as logs:
            logs.below("slurm").release()  # submitit writes there, whatever it may be
        jobs = []
        for cell in cells:
            log = log_path(self.grid, cell).resolve()
            Folder(log.parent).remove(_exit_path(log).name)
            jobs.append(TrainJob(command(cell, self._device), log, Path.cwd()))
        with _signals_blocked():  # a job that is not noted would be submitted again
            try:
                with contextlib.redirect_stderr(io.StringIO()), self._executor.batch():  # it would say it twice
                    submitted = [self._executor.submit(job) for job in jobs]
            except RuntimeError as error:  # sbatch said no
                raise ConfigError(f"--executor slurm: {' '.join(str(error).split())}; see --slurm") from error
            self._ids |= {cell.name: job.job_id for cell, job in zip(cells, submitted, strict=True)}
            self.folder.write(JOBS_NAME, (json.dumps(self._ids, indent=1) + "\n").encode())

    def step(self) -> bool:
        queued = _queue(self._name)
        if queued is not None:  # else it is busy, and the next look will tell
            for cell, state in self.states.items():
                if state in (WAITING, RUNNING):
                    self._look(cell, queued)
        self.show_if_due()
        return any(state in (WAITING, RUNNING) for state in self.states.values())

    def end(self) -> None:
        """Do nothing: Slurm runs the jobs."""

    def _look(self, cell: Cell, queued: Mapping[str, str]) -> None:
        number = self._ids[cell.name]
        if number in queued:
            self.states[cell] = WAITING if queued[number] == "PENDING" else RUNNING
            self._absent.discard(cell)
        elif standing(cell).finished:
            self.states[cell] = FINISHED
        elif cell in self._absent:
            self._tell(cell, number)
        else:  # what it wrote last may not be seen from here yet
            self._absent.add(cell)

    def _tell(self, cell: Cell, number: str) -> None:
        """Record the failure of a cell whose job ended before the run was finished."""
        log = log_path(self.grid, cell)
        try:
            code = int(read_file(_exit_path(log), 100))
        except (OSError, ValueError):
            where = self._executor.folder / f"{number}_0_log.out"
            self.fail(cell, 1, f"its job has gone, and its run did not say why; see {where}, if that is there")
        else:  # after 0 its last rows may not be seen from here yet
            self.ended(cell, code, log)

    def _read_ids(self) -> dict[str, str]:
        path = self.grid.folder / JOBS_NAME
        try:
            text = read_file(path, LARGEST_RECORD).decode()
            return {str(name): str(number) for name, number in strict_json.loads(text).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise FileSystemError(f"{path} is damaged; scancel --name={self._name}, and take the file away") from error


def parameters_of(settings: list[str]) -> dict[str, Any]:
    """The KEY=VALUE texts of --slurm as submitit's parameters. Raises ConfigError."""
    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--slurm: expected KEY=VALUE such as partition=gpu, got {text!r}")
        if key in _SET_BY_GRID:
            raise ConfigError(f"--slurm: {key} cannot be given: {_SET_BY_GRID[key]}")
        if key not in _ALLOWED:
            hint = did_you_mean(key, _ALLOWED)
            raise ConfigError(f"--slurm: Unavailable parameter(s): [{key!r}]{hint}; there are {', '.join(_ALLOWED)}")
        one_line(value, f"--slurm: {key}")
        found[key] = int(value) if value.isdecimal() and len(value) < 20 else value
    if not isinstance(found.get("time", MINUTES), int):
        raise ConfigError(f"--slurm: time is in whole minutes, such as time=240, got {found['time']!r}")
    return found


def _executor(grid: Grid, name: str, jobs: int, parameters: Mapping[str, Any]) -> "submitit.SlurmExecutor":
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("--executor slurm needs submitit: pip install -r requirements-slurm.txt") from error
    if not all(shutil.which(program) for program in ("sbatch", "srun", "squeue")):
        raise ConfigError("--executor slurm: sbatch, srun and squeue are not on this machine; log in to the cluster's")
    logs = Path(os.path.realpath(grid.folder)) / "logs" / "slurm"
    for what, text in (
        ("the grid's folder", str(logs)),
        ("this program's folder", str(ROOT)),
        ("python", sys.executable),
    ):
        one_line(text, f"--executor slurm: {what}")
    executor = submitit.SlurmExecutor(logs, max_num_timeout=MOST_REQUEUES)
    # Without the safe path the job would import what lies in the folder that it was started from.
    setup = f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    wanted = {
        "job_name": name,
        "time": MINUTES,
        "stderr_to_stdout": True,
        "setup": [setup],
        "array_parallelism": jobs,
        "additional_parameters": {"requeue": True},
        **parameters,
    }
    try:
        executor.update_parameters(**wanted)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--slurm: {' '.join(str(error).split())}") from error
    return executor


def _exit_path(log: Path) -> Path:
    """The file beside the log in which a job leaves the exit code of its run."""
    return log.with_suffix(".exit")


def _queue(name: str) -> dict[str, str] | None:
    """The state of each of the user's queued jobs of that name, by job number; None if squeue fails."""
    argv = ["squeue", "--me", "--all", "--array", "--noheader", f"--name={name}", "--format=%i %T"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}  # a user's own filters
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, check=True, env=plain, start_new_session=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Delay the signals that ask to stop until the end of the context, for child processes as well."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_submitits_signal() -> None:
    """In the child: ignore submitit's signal, which some clusters send to every process of the job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
