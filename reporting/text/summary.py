"""The summary table, test accuracy of each cell in three readings, as rows, CSV and LaTeX."""

import csv
import io
from dataclasses import dataclass

from reporting.runs.words import percent, plain
from reporting.statistics.intervals import Spread, spread
from reporting.statistics.measures import best_test, last_ten_test, last_test
from reporting.statistics.numbers import with_std
from reporting.statistics.results import Results
from utils.text import csv_cell

CSV_COLUMNS = (
    "dataset",
    "noise_percent",
    "arm",
    "seeds",
    "epochs",
    "best_by_validation_mean_percent",
    "best_by_validation_std_percent",
    "last_mean_percent",
    "last_std_percent",
    "last_ten_mean_percent",
    "last_ten_std_percent",
)
LATEX_NOTE = "% Test accuracy in percent, mean and sample standard deviation over seeds. Needs \\usepackage{booktabs}."
READINGS = (("best by validation", best_test), ("last epoch", last_test), ("mean of the last ten", last_ten_test))
_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "[": "{[}",  # LaTeX would take [ or * after the end of a line for an argument
    "*": "{*}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Row:
    """A cell of the grid; `readings` in percent, in the order of READINGS."""

    dataset: str
    noise: float
    arm: str
    epochs: str
    readings: tuple[Spread, ...]

    @property
    def seeds(self) -> int:
        return self.readings[0].n


def rows(results: Results) -> list[Row]:
    found = []
    for key, cell in results.cells.items():
        readings = tuple(spread([measure(run) for run in cell.values()]) for _, measure in READINGS)
        epochs = "/".join(str(count) for count in sorted({run.epochs for run in cell.values()}))
        found.append(Row(key.dataset, key.noise, key.arm, epochs, readings))
    return found


def as_csv(results: Results) -> str:
    """The table in percent, to four digits; cells are empty if one seed has no deviation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows(results):
        cells: list[str] = []
        for value in row.readings:
            cells += [f"{value.mean:.4f}", "" if value.std is None else f"{value.std:.4f}"]
        names = [csv_cell(row.dataset), f"{100 * row.noise:g}", csv_cell(row.arm)]
        writer.writerow([*names, row.seeds, row.epochs, *cells])
    return text.getvalue()


def as_latex(results: Results) -> str:
    """The table as a tabular for booktabs, with a rule between datasets and noise levels."""
    lines = [
        LATEX_NOTE,
        "\\begin{tabular}{llrrrrr}",
        "\\toprule",
        " & ".join(["dataset", "arm", "noise", "seeds", *(name for name, _ in READINGS)]) + r" \\",
    ]
    group = None
    for row in rows(results):
        if (row.dataset, row.noise) != group:
            lines.append("\\midrule")
            group = row.dataset, row.noise
        cells = [row.dataset, row.arm, percent(row.noise), str(row.seeds), *map(with_std, row.readings)]
        lines.append(" & ".join(_latex(cell) for cell in cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in plain(text))
