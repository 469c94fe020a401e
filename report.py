"""Tables and figures from folders of runs: python report.py RUNS [RUNS ...] -o report/

RUNS is a folder with run folders in it, or a .zip of the records of some. Writes results.md, results.html (one page
that needs nothing else), results.csv, results.tex and, in results/, the figures.
"""

import utils.early  # isort: skip # noqa: F401
import argparse
import contextlib
import os
import sys
from pathlib import Path

from utils.cli import OneLineParser, leave, run_program
from utils.errors import ConfigError
from utils.limits import memory_for_data
from utils.output import say


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description="Make a report of finished runs: Markdown, HTML, CSV and LaTeX, with figures.")
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder to search for runs, or a .zip of records")
    parser.add_argument(
        "-o", "--output", default="report", metavar="DIR", help="folder to write to, 'report' by default"
    )
    parser.add_argument(
        "--records", metavar="FILE.zip", help="also put the runs' configs and figures into one small file, for RUNS"
    )
    return parser.parse_args(argv)


@memory_for_data()
def report(args: argparse.Namespace) -> None:
    from utils.files import user_path

    # their order must not matter
    sources = sorted((user_path(text) for text in args.runs), key=lambda path: (path.name, path))
    output = user_path(args.output)
    whole = [Path(os.path.realpath(source)) for source in sources]  # which bears a loop of links
    names = [source.stem if source.is_file() else source.name for source in whole] if len(sources) > 1 else [""]
    if args.records and len(set(names)) < len(names):
        raise ConfigError(f"--records keeps each RUNS by its name, and two have the same: {', '.join(names)}")
    from reporting.render.writing import read_results, write_report
    from reporting.runs.records import unfolded, write_records

    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(unfolded(source)) for source in sources]
        results = read_results(folders)
        if args.records:
            count = write_records(dict(zip(names, folders, strict=True)), user_path(args.records))
            say(f"wrote {args.records}: the records of {count} runs")
    for warning in results.warnings:
        _warn(warning)
    written = write_report(results, output, _warn)
    say(f"runs: {len(results.finished)} finished, {results.lacking} missing or unfinished")
    for path in written:
        if path.parent == output:
            say(f"wrote {path}")


def _warn(text: str) -> None:
    say(f"warning: {text}")


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (sys.argv's by default) and return the exit code."""
    return run_program(lambda: report(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
