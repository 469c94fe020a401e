"""The blocks of the whole report, in order."""

from collections import Counter

from reporting.figures.style import TITLE
from reporting.runs.words import first_of, listed, percent, plain, spans
from reporting.statistics import statements
from reporting.statistics.intervals import ENOUGH_SEEDS
from reporting.statistics.numbers import NONE, with_std
from reporting.statistics.results import Key, Results, cell_order
from reporting.statistics.statements import CONTROL, FAILS, HOLDS, OPEN, Finding, Statement
from reporting.text import prose, scale, summary
from reporting.text.blocks import Block, Bullets, Code, Heading, Paragraph, Table
from reporting.text.sections import (
    curve_section,
    decided,
    diagnostics_section,
    forest_figures,
    paper_section,
    robustness_section,
    search_section,
    stability_section,
    tables,
)


def document(results: Results) -> list[Block]:
    found = statements.examine(results)
    return [
        Heading(1, TITLE),
        Paragraph(_in_short(results, found)),
        *forest_figures(results, found),
        *_warnings(results, found),
        Heading(2, "Scale"),
        *_scale(results),
        *search_section(results),
        *paper_section(results),
        *robustness_section(results, found),
        Heading(2, "The paper's statements"),
        *_statements(results, found),
        *curve_section(results),
        *stability_section(results),
        *diagnostics_section(results),
        Heading(2, "Summary"),
        *_summary(results),
        Heading(2, "Missing and unfinished runs"),
        *_missing(results),
        Heading(2, "How to make this page again"),
        Paragraph(prose.HOW_TO_REPEAT),
        Code("python report.py RUNS -o FOLDER"),
    ]


def _in_short(results: Results, found: list[Finding]) -> str:
    """The summary: five sentences made from the results."""
    done, asked = len(results.finished), len(results.asked)
    runs = f"{done} of {asked} planned" if results.lacking else f"{done}"
    text = f"{runs} run{' has' if done == 1 else 's have'} finished, on {listed(results.datasets)}. "
    if not found:
        return text.strip()
    tests = [finding for finding in found if finding.statement != CONTROL and finding.decidable]
    count = Counter(finding.verdict for finding in tests)
    verdicts = ((HOLDS, "holds", "hold"), (FAILS, "does not", "do not"), (OPEN, "is not decided", "are not decided"))
    counted = [f"{count[verdict]} {one if count[verdict] == 1 else more}" for verdict, one, more in verdicts]
    text += "Each statement of the paper is tested on each dataset with at least three seeds: "
    text += f"of {len(tests)} tests {listed(counted)}. "
    text += f"Decided are: {first_of(decided(tests), 4, '; ')}. " if decided(tests) else ""
    return text + f"{prose.WHAT_CONV_IS} {prose.RULES}"


def _warnings(results: Results, found: list[Finding]) -> list[Block]:
    notes = [*results.notes, *results.warnings]
    confounded = [f.dataset for f in found if f.statement == CONTROL and f.verdict == FAILS]
    if confounded:
        notes.insert(0, prose.CLIPPING.format(datasets=listed(confounded)))
    few = [
        f"{key.dataset} {percent(key.noise)} `{plain(key.arm)}` ({len(cell)})"
        for key, cell in results.cells.items()
        if len(cell) < ENOUGH_SEEDS
    ]
    if few:
        notes.append(
            f"Fewer than three seeds in {len(few)} of {len(results.cells)} cells, whose spread says little and which "
            f"decide nothing: {first_of(few, 6)}."
        )
    if not all(finding.final for finding in found):
        notes.append(prose.NOT_FINAL)
    known: list[Block] = [Paragraph("To be known before reading on:"), Bullets(tuple(notes))] if notes else []
    return [*known, *_progress(results)]


def _progress(results: Results) -> list[Block]:
    """How much of each dataset is there, while runs are to come."""
    asked = {want.key for want in results.asked}
    noises = sorted({key.noise for key in asked})
    rows = []
    for dataset in sorted({key.dataset for key in asked}) if results.lacking else ():
        counts = [results.progress(dataset, noise) for noise in noises]
        rows.append((dataset, *(f"{done} of {planned}" if planned else NONE for done, planned in counts)))
    caption = "Finished runs of those planned; which are missing is listed near the end"
    header = ("dataset", *(f"{percent(noise)} noise" for noise in noises))
    return [Table(caption, header, tuple(rows))] if rows else []


def _scale(results: Results) -> list[Block]:
    blocks: list[Block] = [Bullets(tuple(scale.lines(results, dataset) for dataset in results.datasets))]
    if shows := scale.can_show(results):
        blocks += [Paragraph("What such a scale can and cannot show:"), Bullets(tuple(shows))]
    return blocks


def _statements(results: Results, found: list[Finding]) -> list[Block]:
    if not found:
        return [Paragraph(prose.NO_STATEMENTS)]
    datasets = [dataset for dataset in results.datasets if any(finding.dataset == dataset for finding in found)]
    by_row: dict[Statement, dict[str, str]] = {}
    for finding in found:
        by_row.setdefault(finding.statement, {})[finding.dataset] = finding.in_short
    overview = tuple(
        (statement.text, statement.measured, *(verdicts.get(dataset, NONE) for dataset in datasets))
        for statement, verdicts in by_row.items()
    )
    intervals = sum(at.could_decide for finding in found for at in finding.measured)
    caption = "Verdicts, and at how many noise levels (for TinyCOCO as published, of each arm) the statement holds"
    behind = f"{intervals} intervals stand behind these verdicts; those of a dataset share one error of 5 %."
    return [
        Paragraph(prose.rule()),
        Table(caption, ("statement", "by", *datasets), overview, 2 + len(datasets)),
        Paragraph(f"{behind} {prose.ARMS}"),
        *(_numbers(results, dataset, [f for f in found if f.dataset == dataset]) for dataset in datasets),
    ]


def _numbers(results: Results, dataset: str, found: list[Finding]) -> Table:
    short = scale.scale(results, dataset).short
    return Table(
        f"{dataset} ({short}): mean and 95 % confidence interval, points, seeds paired",
        ("statement", "verdict", "at each noise level"),
        tuple((f"{f.statement.text}\n{f.statement.measured}", f.told, "\n".join(f.numbers)) for f in found),
        text_columns=3,
        unbroken=(2,),
    )


def _summary(results: Results) -> list[Block]:
    rows = [
        (row.dataset, row.arm, percent(row.noise), *map(with_std, row.readings), _seeds(row.seeds), row.epochs)
        for row in summary.rows(results)
    ]
    header = ("arm", "noise", *(name for name, _ in summary.READINGS), "seeds", "epochs")
    return [Paragraph(prose.SUMMARY), *tables("Test accuracy, %", header, rows)]


def _seeds(count: int) -> str:
    return f"{count}, too few" if count < ENOUGH_SEEDS else str(count)


def _missing(results: Results) -> list[Block]:
    states: dict[Key, list[str]] = {}
    for key, cell in results.unfinished.items():
        states.setdefault(key, []).extend(
            f"seed {seed}: {run.epochs} of {run.planned} epochs"
            + (f", diverged in epoch {run.diverged}" if run.diverged else "")
            for seed, run in cell.items()
        )
    missing: dict[Key, list[int]] = {}
    for want in results.missing:
        missing.setdefault(want.key, []).append(want.seed)
    for key, seeds in missing.items():
        states.setdefault(key, []).append(f"seed{'s' if len(seeds) > 1 else ''} {spans(seeds)}: missing")
    if not states:
        return [Paragraph(f"None: all {len(results.finished)} runs have finished.")]
    rows = [
        (key.dataset, key.arm, percent(key.noise), "\n".join(states[key])) for key in sorted(states, key=cell_order)
    ]
    return [
        Paragraph("They count in no mean. Unfinished runs are thin lines in the curves."),
        *tables("Runs that are missing or unfinished", ("arm", "noise", "runs"), rows, text_columns=3),
    ]
