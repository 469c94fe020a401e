"""The report from first to last block."""

from collections import Counter

from reporting import paper, scale, statements, summary
from reporting.blocks import Block, Bullets, Code, Heading, Paragraph, Table
from reporting.results import Results, percent
from reporting.runs import plain
from reporting.sections import (
    curve_section,
    diagnostics_section,
    memorisation_section,
    paper_section,
    robustness_section,
    stability_section,
)
from reporting.statements import FAILS, HOLDS, OPEN, Finding
from reporting.statistics import ENOUGH_SEEDS
from reporting.text import listed, number, with_std


def document(results: Results) -> list[Block]:
    found = statements.examine(results)
    return [
        Heading(1, "Results: the paper's experiments, reproduced and re-examined"),
        Paragraph(_in_short(results, found)),
        *_warnings(results),
        Heading(2, "Scale"),
        *_scale(results),
        Heading(2, "The paper's statements"),
        *_statements(results, found),
        Heading(2, "Summary"),
        *_summary(results),
        *curve_section(results),
        *robustness_section(results),
        *stability_section(results),
        *memorisation_section(results),
        *diagnostics_section(results),
        *paper_section(results),
        Heading(2, "Missing and unfinished runs"),
        *_missing(results),
        Heading(2, "How to make this page again"),
        *_again(results),
    ]


def _in_short(results: Results, found: list[Finding]) -> str:
    """One paragraph made from the figures."""
    runs = results.finished
    text = f"{len(runs)} finished run{'' if len(runs) == 1 else 's'} on {listed(results.datasets)}. "
    for dataset in results.datasets:
        noises = results.noises(dataset)
        if noises:
            heights = [
                f"`{plain(arm)}` {number(value, 1)}" for arm, value in scale.heights(results, dataset, noises[0])
            ]
            text += (
                f"On {dataset} at {percent(noises[0])} label noise the last epoch's test accuracy, mean over seeds, is "
                f"{listed(heights)} %. "
            )
    count = Counter(finding.verdict for finding in found)
    if found:
        text += (
            f"Of {len(found)} tests of the paper's statements (a statement on a dataset each), {count[HOLDS]} hold, "
            f"{count[FAILS]} do not hold, and {count[OPEN]} are not decided by these runs."
        )
    return text.strip()


def _warnings(results: Results) -> list[Block]:
    notes = list(results.warnings)
    few = [
        f"{key.dataset} {percent(key.noise)} `{plain(key.arm)}` ({len(cell)})"
        for key, cell in results.cells.items()
        if len(cell) < ENOUGH_SEEDS
    ]
    if few:
        notes.append(
            f"Fewer than three seeds in {len(few)} of {len(results.cells)} cells, whose spread says little and which decide "
            f"nothing: {', '.join(few[:6])}{f' and {len(few) - 6} more' if len(few) > 6 else ''}."
        )
    lacking = len(results.missing) + sum(len(cell) for cell in results.unfinished.values())
    if lacking:
        notes.append(f"{lacking} run{' is' if lacking == 1 else 's are'} missing or unfinished, listed near the end.")
    return [Paragraph("To be known before reading on:"), Bullets(tuple(notes))] if notes else []


def _scale(results: Results) -> list[Block]:
    return [
        Bullets(tuple(scale.lines(results, dataset) for dataset in results.datasets)),
        Paragraph("What such a scale can and cannot show:"),
        Bullets(tuple(scale.can_show(results))),
    ]


def _statements(results: Results, found: list[Finding]) -> list[Block]:
    if not found:
        return [Paragraph("None of them can be held against these runs: no two of the arms it takes are there.")]
    datasets = [dataset for dataset in results.datasets if any(finding.dataset == dataset for finding in found)]
    by_row: dict[tuple[str, str], dict[str, str]] = {}
    for finding in found:
        by_row.setdefault((finding.statement, finding.measured), {})[finding.dataset] = finding.verdict
    overview = tuple(
        (statement, measured, *(verdicts.get(dataset, "") for dataset in datasets))
        for (statement, measured), verdicts in by_row.items()
    )
    in_full = tuple(
        (
            f"{finding.statement}\n{finding.measured}",
            finding.dataset,
            finding.verdict,
            "\n".join(finding.numbers),
            f"{scale.scale(results, finding.dataset).short}".replace(", ", "\n"),
        )
        for finding in found
    )
    columns = 2 + len(datasets)
    return [
        Paragraph(_RULE),
        Table("Verdicts", ("statement", "by", *datasets), overview, columns),
        Paragraph(
            f"With {len(found)} tests at 95 %, one in twenty of those without any true difference would be decided by "
            "chance. `conv_published` and `bncn_published` are what the published code ran under the names conv and bncn. "
            "Where data are as published, test accuracy is the published code's own, which for TinyCOCO is mostly "
            "accuracy on training images."
        ),
        Table(
            "The numbers: points, mean difference with its 95 % confidence interval (seeds paired)",
            ("statement", "dataset", "verdict", "at each noise level", "scale"),
            in_full,
            text_columns=5,
        ),
    ]


_low, _high = paper.logged_validation(paper.COCO)
_RULE = (
    "The rule was fixed before the runs. At each noise level the difference of the last epoch's test accuracy, paired over "
    "seeds, gets a 95 % confidence interval (Student's t, n - 1 degrees of freedom, n seeds). It decides if n is at least "
    "3 and the interval excludes 0: the statement holds there, or does not. It holds for a dataset if it holds at every "
    "noise level, and does not hold if it fails at one; all else is not decided. Robustness compares the drops from 0 to "
    "20 % noise, steadiness the mean absolute change of test accuracy from epoch to epoch in the second half of the "
    "epochs. Two arms do the same if the interval has 0 in it and lies within "
    f"{statements.SAME_MARGIN:g} points of 0, and do not if it excludes 0. A validation accuracy is near the authors' "
    f"({number(_low, 1)} to {number(_high, 1)} % at the end of their logs) if its interval over seeds lies within "
    f'{statements.NEAR:g} points of that range, and "test" is far higher if it is by more than {statements.FAR:g} points.'
)


def _summary(results: Results) -> list[Block]:
    rows = tuple(
        (row.dataset, row.arm, percent(row.noise), *map(with_std, row.readings), _seeds(row.seeds), row.epochs)
        for row in summary.rows(results)
    )
    header = ("dataset", "arm", "noise", *(name for name, _ in summary.READINGS), "seeds", "epochs")
    return [
        Paragraph(
            "Test accuracy in percent, mean ± sample standard deviation over seeds. Best by validation is the test accuracy "
            "of the epoch with the best validation accuracy, the first on ties. The same as `results.csv` and `results.tex`."
        ),
        Table("Test accuracy, %", header, rows, text_columns=2),
    ]


def _seeds(count: int) -> str:
    return f"{count}, too few" if count < ENOUGH_SEEDS else str(count)


def _missing(results: Results) -> list[Block]:
    rows = [(want.key, want.seed, "missing") for want in results.missing]
    for key, cell in results.unfinished.items():
        rows += [(key, seed, f"{run.epochs} of {run.planned} epochs") for seed, run in cell.items()]
    if not rows:
        return [Paragraph(f"None: all {len(results.finished)} runs have finished.")]
    rows.sort(key=lambda row: (row[0].dataset, row[0].noise, row[0].arm, row[1]))
    cells = tuple((key.dataset, key.arm, percent(key.noise), str(seed), state) for key, seed, state in rows)
    return [
        Paragraph("They count in no mean. Unfinished runs are thin lines in the curves."),
        Table("Runs that these tables lack", ("dataset", "arm", "noise", "seed", "state"), cells, text_columns=5),
    ]


def _again(results: Results) -> list[Block]:
    return [
        Paragraph(
            "With the folder of the runs for RUNS. The same runs give the same bytes; `grid.py` runs what is missing of a "
            "grid, and each run folder's `config.json` makes that run again with `train.py -c`."
        ),
        Code("python report.py RUNS -o FOLDER"),
    ]
