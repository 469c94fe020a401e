"""What the files of a report begin with, so that a report replaces what a report wrote and nothing else."""

import os
import stat
from html import escape
from pathlib import Path

from utils.files import read_file

TITLE = "Results: the paper's experiments, reproduced and re-examined"
CSV_COLUMNS = (
    *("dataset", "noise_percent", "arm", "seeds", "epochs", "best_by_validation_mean_percent"),
    *("best_by_validation_std_percent", "last_mean_percent", "last_std_percent", "last_ten_mean_percent"),
    "last_ten_std_percent",
)
LATEX_NOTE = "% Test accuracy in percent, mean and sample standard deviation over seeds. Needs \\usepackage{booktabs}."
#: The line that tells a report's file of each kind, and among how many of its first lines it stands.
_MARKS = {
    ".md": (f"# {TITLE}", 1),
    ".csv": (",".join(CSV_COLUMNS), 1),
    ".tex": (LATEX_NOTE, 1),
    ".html": (f"<title>{escape(TITLE)}</title>", 10),
    ".svg": (f"<dc:title>{TITLE}</dc:title>", 12),
}
_LARGEST = 1 << 28


def written_by_report(path: Path) -> bool:
    """Whether what lies at `path` is a regular file, no link, that a report wrote.

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
