"""The sections with figures: curves, robustness, stability, memorisation, diagnostics, numbers of the paper."""

from collections.abc import Sequence
from functools import partial

from reporting.figures import curves, dots, layers
from reporting.figures.forest import forest
from reporting.runs.words import percent
from reporting.statistics import paper, robustness
from reporting.statistics.intervals import mean, paired, spread
from reporting.statistics.measures import (
    GRADIENT,
    LARGEST,
    PARTS,
    SMALLEST,
    WEIGHT,
    chance,
    last_layers,
    last_test,
    last_validation,
    restlessness,
    share,
)
from reporting.statistics.numbers import NONE, number, with_interval, with_std
from reporting.statistics.results import Results, slug
from reporting.statistics.search import search
from reporting.statistics.statements import Finding
from reporting.text import prose
from reporting.text.blocks import Block, Figure, Heading, Paragraph, Table


def tables(
    caption: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], text_columns: int = 2
) -> list[Block]:
    """One table for each dataset. `rows` start with the dataset, and the tables leave it out: phones are narrow."""
    return [
        Table(f"{caption}: {dataset}", header, tuple(row[1:] for row in rows if row[0] == dataset), text_columns)
        for dataset in dict.fromkeys(row[0] for row in rows)
    ]


def forest_figure(found: Sequence[Finding]) -> list[Block]:
    """The summary figure of the statements on differences between arms."""
    shown = [finding for finding in found if finding.statement.of_arms]
    if not shown:
        return []
    verdicts = "; ".join(f"{f.statement.measured} on {f.dataset}: {f.verdict}" for f in shown)
    alt = f"Differences and verdicts: {verdicts}.".replace("`", "")
    return [Figure("forest", partial(forest, shown), alt, prose.FOREST)]


def search_section(results: Results) -> list[Block]:
    rows = [
        (
            tried.dataset,
            tried.arm,
            percent(tried.noise),
            f"{tried.setting} (chosen)" if tried.chosen else tried.setting,
            with_std(tried.best),
            str(tried.best.n if tried.best else 0),
        )
        for tried in search(results)
    ]
    if not rows:
        return []
    header = ("arm", "noise", "setting", "best validation", "seeds")
    return [Heading(2, "Search"), Paragraph(prose.SEARCH), *tables("Best validation accuracy, %", header, rows, 3)]


def curve_section(results: Results) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Curves"), Paragraph(prose.CURVES)]
    for dataset in results.datasets:
        for noise in sorted({key.noise for key in results.drawn if key.dataset == dataset}):
            here = f"{dataset}, {percent(noise)} label noise"
            alt = f"Loss and accuracy by epoch on training, validation and test images: {here}."
            ends = [
                f"{arm} {number(mean(results.values(dataset, noise, arm, last_test)), 1)}"
                for arm in results.arms(dataset, noise)
            ]
            if ends:
                alt += f" Test accuracy at the end in percent: {', '.join(ends)}."
            name = f"curves-{results.file_names[dataset]}-{slug(f'{100 * noise:g}')}noise"
            draw = partial(curves.curves, results, dataset, noise)
            blocks += [Heading(3, here), Figure(name, draw, alt, f"{here}.")]
    return blocks


def robustness_section(results: Results) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Robustness to label noise"), *_memorisation(results)]
    drops, against = [], []
    for dataset, noise, arm in results.cells:
        found = robustness.drop(results, dataset, noise, arm) if noise else None
        if found is not None:
            less = robustness.drop_less_than(results, dataset, noise, arm, "bn") if arm != "bn" else None
            kept = number(robustness.kept(results, dataset, noise, arm), 1)
            drops.append((dataset, arm, percent(noise), with_interval(found), kept, with_interval(less)))
        both = (results.by_seed(dataset, noise, name, last_test) for name in (arm, "bn"))
        if arm != "bn" and (difference := paired(*both)):
            against.append((dataset, arm, percent(noise), with_interval(difference)))
    if drops:
        draw = partial(dots.robustness, results)
        header = ("arm", "noise", "drop", "% kept", "less lost than bn by")
        blocks += [
            Paragraph(prose.ROBUSTNESS),
            Figure("robustness", draw, prose.ROBUSTNESS_ALT, prose.ROBUSTNESS_CAPTION),
            *tables("Drop of test accuracy from clean labels, points", header, drops),
        ]
    else:
        blocks.append(Paragraph("No arm has a clean and a noisy run of the same seed."))
    caption = "Test accuracy of the last epoch less that of bn, points, paired over seeds"
    return blocks + tables(caption, ("arm", "noise", "less bn"), against)


def stability_section(results: Results) -> list[Block]:
    if not results.cells:
        return []
    rows = []
    for key in results.cells:
        half, whole = (results.values(*key, partial(restlessness, second_half=late)) for late in (True, False))
        cells = (with_std(spread(values)) if values else NONE for values in (half, whole))
        rows.append((key.dataset, key.arm, percent(key.noise), *cells, str(max(len(half), len(whole)))))
    caption = "Mean absolute change of test accuracy from epoch to epoch, points"
    return [
        Heading(2, "Stability"),
        Paragraph(prose.STABILITY),
        Figure("stability", partial(curves.stability, results), prose.STABILITY_ALT, f"{prose.BAND}."),
        *tables(caption, ("arm", "noise", "second half", "all epochs", "seeds"), rows),
    ]


def _memorisation(results: Results) -> list[Block]:
    rows = []
    for key in results.cells:
        parts = [results.values(*key, share(column)) for column, _ in PARTS]
        if not key.noise or not any(parts):
            continue
        guesses = results.values(*key, chance)
        figures = [with_std(spread(values)) if values else NONE for values in parts]
        figures.insert(2, number(mean(guesses), 1) if guesses else NONE)
        rows.append((key.dataset, key.arm, percent(key.noise), *figures, str(max(map(len, parts)))))
    if not rows:
        return [Paragraph("No finished run has label noise.")]
    titles = [title for _, title in PARTS]
    titles.insert(2, "by chance")
    draw = partial(dots.memorisation, results)
    return [
        Paragraph(prose.MEMORISATION),
        Figure("memorisation", draw, prose.MEMORISATION_ALT, prose.MEMORISATION_CAPTION),
        *tables("Accuracy on training images, last epoch, %", ("arm", "noise", *titles, "seeds"), rows),
    ]


def diagnostics_section(results: Results) -> list[Block]:
    cells = [key for key in results.cells if any(run.diagnostics for run in results.runs(*key))]
    if not cells:
        return []
    rows = []
    for key in cells:
        found = [results.values(*key, last_layers(column)) for column in (LARGEST, SMALLEST, GRADIENT, WEIGHT)]
        figures = [f"{mean(values):.4g}" if values else NONE for values in found]
        rows.append((key.dataset, key.arm, percent(key.noise), *figures, str(max(map(len, found)))))
    blocks: list[Block] = [Heading(2, "Diagnostics of the layers"), Paragraph(prose.DIAGNOSTICS)]
    cleanest = {key.dataset: key.noise for key in reversed(cells)}
    for dataset in dict.fromkeys(key.dataset for key in cells):  # one figure a dataset: its cleanest runs
        noise = percent(cleanest[dataset])
        blocks.append(
            Figure(
                f"diagnostics-{results.file_names[dataset]}",
                partial(layers.diagnostics, results, dataset, cleanest[dataset]),
                "Singular values by layer and by epoch, gradient norm and weight norm by epoch, of each arm: "
                f"{dataset}, {noise} noise; the last epoch's are in the table below.",
                f"{dataset}, {noise} label noise: means over seeds. Of an arm's two lines of singular values the upper "
                "is the largest, the lower the smallest.",
            )
        )
    header = ("arm", "noise", "largest", "smallest", "gradient norm", "weight norm", "seeds")
    return [*blocks, *tables("Diagnostics after the last epoch", header, rows)]


def paper_section(results: Results) -> list[Block]:
    rows = []
    for key, cell in results.cells.items():
        original = paper.dataset_of(next(iter(cell.values())))
        theirs = paper.logged(original, key.arm, key.noise) if original else None
        if original is None or theirs is None:
            continue
        stated = paper.stated(original, key.arm, key.noise)
        text = NONE if stated is None else f"{'about ' if key.arm != 'bn' else ''}{stated:g}"
        ours = [with_std(spread(results.values(*key, measure))) for measure in (last_test, last_validation)]
        logs = (number(theirs.test, 1), number(theirs.val, 1))
        rows.append((key.dataset, key.arm, percent(key.noise), text, *logs, *ours))
    if not rows:
        return []
    caption = "Accuracy, %: the paper's text, its authors' logs (last epoch), and ours (last epoch)"
    header = ("arm", "noise", "paper, test", "logs, test", "logs, val", "ours, test", "ours, val")
    return [
        Heading(2, "The paper's own numbers beside ours"),
        Paragraph(prose.beside_the_paper()),
        *tables(caption, header, rows),
    ]
