"""Run a grid of arms, datasets, noise and seeds: python grid.py configs/grids/cpu.json [--jobs N] [--executor slurm]

The grid skips finished runs, resumes interrupted runs and starts missing ones. Every cell is an ordinary run folder,
made by an ordinary train.py.
"""

import utils.early  # isort: skip # noqa: F401
import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import OneLineParser, leave, run_program, whole_number
from utils.errors import ConfigError
from utils.output import say, to_terminal
from utils.text import one_line

if TYPE_CHECKING:
    from grids.plan import Grid
    from grids.running import Show


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description="Run what is missing of a grid of configs, and go on with what was interrupted.")
    parser.add_argument("grid", type=Path, metavar="GRID.json", help="such as configs/grids/cpu.json")
    jobs = "runs at a time; 1 by default here, where they share the cores, and no limit but Slurm's there"
    parser.add_argument("--jobs", type=whole_number(1), metavar="N", help=jobs)
    parser.add_argument("-d", "--device", help="for every run, or a list dealt out to the jobs: cuda:0,cuda:1")
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="run here, or as Slurm jobs")
    slurm = "what each Slurm job asks for, such as partition=gpu gpus_per_node=1 time=240 (minutes)"
    parser.add_argument("--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=slurm)
    parser.add_argument("--dry-run", action="store_true", help="show the table and the commands; run nothing")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    from grids.plan import load_grid

    devices = one_line(args.device, "-d").split(",") if args.device else [None]
    if args.slurm and args.executor != "slurm":
        raise ConfigError("--slurm is for --executor slurm")
    if len(devices) > 1 and args.executor == "slurm":
        raise ConfigError("-d: Slurm deals out the devices; name one, such as cuda")
    if "" in devices:
        raise ConfigError(f"-d {args.device}: a device is missing beside a comma")
    grid = load_grid(args.grid)
    if args.dry_run:
        _dry_run(grid, devices[0])
    elif args.executor == "slurm":
        from grids.slurm import SlurmRun, parameters_of

        SlurmRun(grid, args.jobs, devices[0], parameters_of(args.slurm), _shower()).run()
    else:
        from grids.local import LocalRun

        LocalRun(grid, args.jobs or 1, devices, _shower()).run()


def _dry_run(grid: "Grid", device: str | None) -> None:
    """Print the table and the commands of the cells that wait. Raises ConfigError if cells would be refused."""
    from grids.progress import FAILED, WAITING, Progress, misfit
    from grids.running import command

    progress = Progress(grid)
    progress.notes.update({cell: why for cell in grid.cells if (why := misfit(cell))})
    progress.states.update(dict.fromkeys(progress.notes, FAILED))
    say(*progress.table())
    say(*(shlex.join(command(cell, device)) for cell in grid.cells if progress.states[cell] == WAITING))
    if progress.notes:
        raise ConfigError(f"{len(progress.notes)} of {len(grid.cells)} runs would be refused; the table says why")


def _shower() -> "Show":
    """A function that shows a table. On a terminal each table replaces the last one. Elsewhere the first and the last
    table are printed whole, and of those between only the new lines, apart from epochs and minutes."""
    if not sys.stdout.isatty():
        seen: set[str] = set()

        def append(lines: Sequence[str], last: bool) -> None:
            nonlocal seen
            now = {_without_progress(line): line for line in lines}
            new = [line for key, line in now.items() if last or key not in seen]
            seen = set(now)
            say(*new)

        return append
    height = 0

    def redraw(lines: Sequence[str], last: bool) -> None:
        nonlocal height
        if height:
            to_terminal(sys.stdout).write(f"\x1b[{height}F\x1b[J")
        size = shutil.get_terminal_size()
        while not last and screen_lines(lines, size.columns) >= size.lines:
            lines = lines[:-1]  # what has scrolled off the top cannot be drawn over
        say(*lines)
        height = screen_lines(lines, size.columns)

    return redraw


def _without_progress(line: str) -> str:
    return re.sub(r", (epoch \d+ of \d+|about \d+ (?:min|h) left)$", "", line)


def screen_lines(lines: Sequence[str], columns: int) -> int:
    """The number of lines that `lines` take on a terminal, which breaks long lines."""
    return sum(max(1, -(-len(line) // columns)) for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (sys.argv's by default) and return the exit code."""
    return run_program(lambda: run(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
