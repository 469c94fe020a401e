"""From folders of runs to the files of the report."""

from pathlib import Path

from reporting.blocks import Figure
from reporting.document import document
from reporting.html import html
from reporting.markdown import markdown
from reporting.reading import find_runs
from reporting.results import Results, read_grid, sort_into_cells
from reporting.summary import as_csv, as_latex
from utils.errors import FileSystemError
from utils.files import write_atomically

NAME = "results"
#: How the figures' names begin: what else lies in their folder is left alone.
FIGURES = ("curves-", "robustness", "stability", "memorisation", "diagnostics-")


def read_results(folders: list[Path]) -> Results:
    """Raises DataError; see `find_runs` and `read_grid`."""
    runs, warnings = find_runs(folders)
    return sort_into_cells(runs, warnings, read_grid(folders))


def report_files(results: Results) -> dict[str, str]:
    """The report's files by their path in its folder."""
    blocks = document(results)
    figures = {f"{NAME}/{block.name}.svg": block.svg for block in blocks if isinstance(block, Figure)}
    return {
        f"{NAME}.md": markdown(blocks, NAME),
        f"{NAME}.html": html(blocks),
        f"{NAME}.csv": as_csv(results),
        f"{NAME}.tex": as_latex(results),
        **figures,
    }


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write the files and remove figures of an earlier report that this one has not; returns what was written.

    Raises:
        FileSystemError: the folder cannot be made or written to.
    """
    files = report_files(results)
    try:
        (folder / NAME).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileSystemError(f"cannot make {folder / NAME}: {error.strerror}; see -o") from error
    for old in sorted((folder / NAME).glob("*.svg")):
        if old.name.startswith(FIGURES) and f"{NAME}/{old.name}" not in files:
            old.unlink()
    for path, text in files.items():
        write_atomically(folder / path, text.encode())
    return [folder / path for path in files]
