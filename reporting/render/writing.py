"""Writes the files of the report on folders of runs."""

import os
import signal
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from html import escape
from pathlib import Path

from reporting.figures.style import TITLE
from reporting.render.html import html
from reporting.render.markdown import markdown
from reporting.runs.grid import read_grid
from reporting.runs.reading import find_runs
from reporting.statistics.results import Results, sort_into_cells
from reporting.text.blocks import Block, Figure, Paragraph
from reporting.text.document import document
from reporting.text.summary import CSV_COLUMNS, LATEX_NOTE, as_csv, as_latex
from utils.drawing import reason
from utils.errors import FileSystemError
from utils.files import read_file, staged
from utils.stopping import Handlers

NAME = "results"
TEXTS = (".md", ".html", ".csv", ".tex")
#: How the figures' names begin: what else lies in their folder is left alone.
FIGURES = ("forest", "curves-", "robustness", "stability", "memorisation", "diagnostics-")

#: The line that tells a report's file of each kind, and among how many of its first lines it stands.
_MARKS = {
    ".md": (f"# {TITLE}", 1),
    ".csv": (",".join(CSV_COLUMNS), 1),
    ".tex": (LATEX_NOTE, 1),
    ".html": (f"<title>{escape(TITLE)}</title>", 10),
    ".svg": (f"<dc:title>{TITLE}</dc:title>", 12),
}
_LARGEST = 1 << 28


def read_results(folders: list[Path]) -> Results:
    """Raises DataError; see `find_runs` and `read_grid`."""
    runs, warnings = find_runs(folders)
    plan = read_grid(folders)
    return sort_into_cells(runs, warnings, plan.places, plan.notes)


def report_files(results: Results, warn: Callable[[str], object] = lambda text: None) -> dict[str, str]:
    """The report's files by their path in its folder. `warn` gets a line if pictures cannot be drawn."""
    return _files(results, _with_pictures(document(results), warn))


def _files(results: Results, blocks: list[Block]) -> dict[str, str]:
    figures = {f"{NAME}/{block.name}.svg": block.svg for block in blocks if isinstance(block, Figure)}
    return {
        f"{NAME}.md": markdown(blocks, NAME),
        f"{NAME}.html": html(blocks),
        f"{NAME}.csv": as_csv(results),
        f"{NAME}.tex": as_latex(results),
        **figures,
    }


def _with_pictures(blocks: Iterable[Block], warn: Callable[[str], object]) -> list[Block]:
    """The blocks with their pictures drawn. A sentence replaces each picture that cannot be drawn."""
    made: list[Block] = []
    problems: list[str] = []
    for block in blocks:
        try:
            if isinstance(block, Figure):
                _ = block.svg
            made.append(block)
        except Exception as error:
            problems.append(reason(error))
            made.append(Paragraph("This picture could not be drawn."))
    if problems:
        warn(f"{len(problems)} of the pictures could not be drawn: {problems[0]}")
    return made


def write_report(results: Results, folder: Path, warn: Callable[[str], object] = lambda text: None) -> list[Path]:
    """Write the files and remove the figures of an earlier report that this one lacks; returns the files written.

    All files are written to temporary places before the first replaces an older one, so a full disk does not damage an
    older report.

    Raises:
        FileSystemError: the folder cannot be made or written to, or a file to be replaced is not a report's.
    """
    blocks = document(results)
    names = [f"{NAME}/{block.name}.svg" for block in blocks if isinstance(block, Figure)]
    try:
        if (folder / NAME).is_symlink():
            raise FileSystemError(f"{folder / NAME} is a link, which a report does not follow; see -o")
        _refuse_others([folder / path for path in (*(f"{NAME}{kind}" for kind in TEXTS), *names)])
        files = _files(results, _with_pictures(blocks, warn))
        (folder / NAME).mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            made = {
                folder / path: stack.enter_context(staged(folder / path, text.encode())) for path, text in files.items()
            }
            with _uninterrupted():
                for target, source in made.items():
                    os.replace(source, target)
                _remove_old(folder / NAME, set(made))
    except OSError as error:
        raise FileSystemError(f"cannot write the report to {folder}: {error.strerror}; see -o") from error
    return list(made)


def _refuse_others(paths: list[Path]) -> None:
    """Raise FileSystemError if something lies at one of `paths` that a report did not write."""
    others = [path for path in paths if os.path.lexists(path) and not _written_by_report(path)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        said = f"{others[0]}{more}: no report wrote what is there, and it would be replaced"
        raise FileSystemError(f"{said}; nothing was written; move it away, or name another folder with -o")


def _written_by_report(path: Path) -> bool:
    """Whether `path` is a regular file, not a link, that a report wrote.

    Raises FileNotFoundError if there is nothing.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    mark, lines = _MARKS[path.suffix]
    try:
        head = read_file(path, _LARGEST)[:8192].decode("utf-8-sig", "replace")
    except OSError:
        return False
    return mark in [line.strip() for line in head.splitlines()[:lines]]


def _remove_old(folder: Path, new: set[Path]) -> None:
    for old in sorted(folder.glob("*.svg")):
        if old.name.startswith(FIGURES) and old not in new and _written_by_report(old):
            old.unlink()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay signals until the end of the context, which lasts for a few renames."""
    came: list[int] = []
    with Handlers(came.append):
        yield
    if came:
        signal.raise_signal(came[0])
