"""Two processes of one thread beside one process of two: python -m benchmarks.processes [--rounds N]

Whole training epochs of the trainer, at the same global batch, on made-up 32x32 images. All processes are alive for the
whole measurement and take turns, the others waiting without work. The table has the median images per second of each,
and the median of the turn-by-turn ratios, which is to be at least 0.9.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = [(width, batch, arm) for width, batch in ((16, 64), (64, 128)) for arm in ("bn", "bncn")]
STEPS = {16: 12, 64: 2}  # in a turn, by width


def work(width: int, batch: int, arm: str, steps: int) -> None:
    """A process of the measurement: for each line on stdin it trains `steps` steps and prints images per second."""
    from benchmarks.speed import quiet_trainer
    from utils.memory import keep_freed_memory
    from utils.world import World

    keep_freed_memory()
    settings = (f"arch.args.width={width}", f"arch.args.norm={arm}", f"data_loader.args.batch_size={batch}")
    with World() as world, quiet_trainer(int(batch * steps / 0.8) + 20, *settings, world=world) as trainer:
        for epoch, _ in enumerate(sys.stdin, 1):
            start = time.perf_counter()
            trainer.batch = 0
            trainer._train(epoch)
            print(batch * len(trainer.data.train) / (time.perf_counter() - start), flush=True)


class Team:
    """`count` processes of `threads` threads each, which train one model."""

    def __init__(self, count: int, threads: int, arguments: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._members = []
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            command = [sys.executable, "-m", "benchmarks.processes", "--work", *arguments]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
            self._members.append(subprocess.Popen(command, cwd=ROOT, env={**environment, **own}, **pipes))

    def turn(self) -> float:
        """Images per second of a turn, by the slowest."""
        for member in self._members:
            print(file=member.stdin)
        return min(float(member.stdout.readline()) for member in self._members)

    def end(self) -> None:
        for member in self._members:
            member.stdin.close()
        for member in self._members:
            member.wait()


def table_row(width: int, batch: int, arm: str, rounds: int) -> str:
    arguments = [str(width), str(batch), arm, str(STEPS[width])]
    teams = (Team(1, 2, arguments), Team(2, 1, arguments))
    turns = [[team.turn() for team in teams] for _ in range(rounds + 1)][1:]  # the first warms up
    for team in teams:
        team.end()
    one, two = (statistics.median(speeds) for speeds in zip(*turns, strict=True))
    ratios = [two / one for one, two in turns]
    median, spread = statistics.median(ratios), f"{min(ratios):.2f}-{max(ratios):.2f}"
    return f"| {width} | {batch} | {arm} | {one:.0f} | {two:.0f} | {median:.2f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns that are counted")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="measure this case alone")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        width, batch, arm, steps = args.work
        work(int(width), int(batch), arm, int(steps))
        return
    print("| width | batch | arm | one of two threads | two of one | two / one | range |\n" + "|---" * 7 + "|")
    for case in CASES if args.case is None else [CASES[args.case]]:
        print(table_row(*case, args.rounds), flush=True)


if __name__ == "__main__":
    main()
