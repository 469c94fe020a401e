"""How long threads should look for work before they sleep: the median step under settings of libgomp.

    python -m benchmarks.threads [--steps 12] [--arms bn bncn]

Each setting has a process of its own, in turn on an idle machine and beside two busy processes. Width 16, batch 64,
32x32 images, two threads.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from benchmarks.harness import spread_of

SETTINGS: dict[str, Mapping[str, str]] = {
    "default": {},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
#: Works until the process that started it has gone.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(1000))"
_OTHERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def steps(arm: str, count: int) -> list[float]:
    """Seconds of each training step, in this process."""
    from benchmarks.harness import interleaved, set_up
    from benchmarks.speed import Training

    set_up(2)
    training = Training(arm, width=16, batch=64, device="cpu")
    return interleaved({arm: training.step}, count, warm_up=3)[arm]


def measured(arm: str, count: int, setting: Mapping[str, str]) -> list[float]:
    """`steps` in a process of its own with the variables of `setting`."""
    environment = {**{key: value for key, value in os.environ.items() if key not in _OTHERS}, **setting}
    command = [sys.executable, "-m", "benchmarks.threads", "--measure", arm, "--steps", str(count)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    return [float(value) for value in out.split()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--arms", nargs="+", default=["bn", "bncn"])
    parser.add_argument("--measure", metavar="ARM", help="print the seconds of the steps of one arm, and end")
    args = parser.parse_args(argv)
    if args.measure:
        print(*steps(args.measure, args.steps))
        return
    for busy in (0, 2):
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for arm in args.arms:
                for name, setting in SETTINGS.items():
                    seconds = spread_of(measured(arm, args.steps, setting))
                    print(f"{busy} busy processes, {arm}, {name}: {seconds} s a step")
        finally:
            for other in others:
                other.kill()
                other.wait()


if __name__ == "__main__":
    main()
