"""The sections with figures: curves, robustness, stability, memorisation, diagnostics, numbers of the paper."""

from collections.abc import Iterator, Sequence
from functools import partial

from reporting.figures import curves, dots, layers
from reporting.figures.forest import forest
from reporting.runs.words import listed, percent
from reporting.statistics import paper, robustness
from reporting.statistics.intervals import mean, paired, spread
from reporting.statistics.measures import (
    GRADIENT,
    LARGEST,
    PARTS,
    SMALLEST,
    WEIGHT,
    chance,
    changes,
    last_layers,
    last_test,
    last_validation,
    learnt,
    restlessness,
    share,
)
from reporting.statistics.numbers import NONE, number, with_interval, with_std
from reporting.statistics.results import Results, slug
from reporting.statistics.search import search
from reporting.statistics.statements import OPEN, POINTS, Finding
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


def forest_figures(results: Results, found: Sequence[Finding]) -> list[Block]:
    """The summary of all statements, and a small one of the correct layer on correct data for other pages."""
    if not found:
        return []
    of_the_layer = [
        finding
        for finding in found
        if {"bn", "conv", "bncn"}.issuperset(finding.statement.arms)
        and finding.statement.unit == POINTS
        and not any(run.as_published for run in results.of(finding.dataset))
    ]
    figures: list[Block] = [Figure("forest", partial(forest, found), _forest_alt(found), prose.FOREST)]
    if of_the_layer:
        draw = partial(forest, of_the_layer)
        figures.append(Figure("forest-small", draw, _forest_alt(of_the_layer), prose.FOREST, apart=True))
    return figures


def _forest_alt(found: Sequence[Finding]) -> str:
    told = "; ".join(decided(found)) or "nothing"
    return f"Differences with intervals, the paper's own, and verdicts. Decided: {told}. All else is not decided."


def decided(found: Sequence[Finding]) -> list[str]:
    """Each decided statement with its verdict and the datasets that it is for."""
    datasets: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        if finding.verdict != OPEN:
            datasets.setdefault((finding.statement.in_brief, finding.told), []).append(finding.dataset)
    return [f"{statement} {told} on {listed(names)}" for (statement, told), names in datasets.items()]


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


def robustness_section(results: Results, found: Sequence[Finding]) -> list[Block]:
    judged = {finding.dataset for finding in found}  # of which the statements have the differences
    blocks: list[Block] = [Heading(2, "Robustness to label noise"), *_memorisation(results)]
    drops, against = [], []
    for dataset, noise, arm in results.cells:
        lost = robustness.drop(results, dataset, noise, arm) if noise else None
        if lost is not None:
            less = robustness.drop_less_than(results, dataset, noise, arm, "bn") if arm != "bn" else None
            kept = number(robustness.kept(results, dataset, noise, arm), 1)
            drops.append((dataset, arm, percent(noise), with_interval(lost), kept, with_interval(less)))
        both = (results.by_seed(dataset, noise, name, last_test) for name in (arm, "bn"))
        if arm != "bn" and dataset not in judged and (difference := paired(*both)):
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
    levels = list(dict.fromkeys((key.dataset, key.noise) for key in results.cells))
    draw = partial(curves.by_level, results, levels, curves.averaged(changes), "change, points")
    caption = "Mean absolute change of test accuracy from epoch to epoch, points"
    return [
        Heading(2, "Stability"),
        Paragraph(prose.STABILITY),
        Figure("stability", draw, prose.STABILITY_ALT, prose.STABILITY_CAPTION),
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
    levels = list(
        dict.fromkeys((key.dataset, key.noise) for key in results.cells if any(map(learnt, results.runs(*key))))
    )
    draw = partial(curves.by_level, results, levels, learnt, "wrong labels learnt, %")
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
    """The paper's tables beside ours, first of the runs at its own scale, then of the smaller ones."""
    rows = [row for dataset in results.datasets for row in _beside_the_paper(results, dataset)]
    full = [dataset for dataset in results.datasets if all(map(paper.has_its_scale, results.of(dataset)))]
    if not rows:
        return []
    blocks: list[Block] = [Heading(2, "The paper's own numbers beside ours"), Paragraph(prose.beside_the_paper())]
    for title, at_scale in (("At the paper's own scale", True), ("At a smaller scale", False)):
        found = [row for row in rows if (row[0] in full) == at_scale]
        if found or at_scale:
            blocks.append(Heading(3, title))
        for dataset in dict.fromkeys(row[0] for row in found):
            blocks += _beside_table([row for row in found if row[0] == dataset])
        if not found and at_scale:
            blocks.append(Paragraph(prose.NOT_AT_SCALE))
    return blocks


def _beside_table(rows: Sequence[tuple[str, ...]]) -> list[Block]:
    """A dataset's rows of `_beside_the_paper`. Where all "test" images are held out, it has one column of both."""
    caption = "Accuracy, %: the paper's text, its authors' logs (last epoch), and ours (last epoch)"
    header = ("arm", "noise", 'paper, "test"', 'logs, "test"', "logs, held out", 'ours, "test"', "ours, held out")
    columns = list(zip(("dataset", *header, "runs"), *rows, strict=True))
    kept = [one for one, after in zip(columns, [*columns[1:], ()], strict=True) if one[1:] != after[1:]]
    names, *cells = zip(*kept, strict=True)
    return tables(caption, names[1:], cells)


def _beside_the_paper(results: Results, dataset: str) -> Iterator[tuple[str, ...]]:
    """A row for each cell that has a counterpart in the paper, planned ones included."""
    run = results.of(dataset)[0]
    original = paper.dataset_of(run)
    for key in results.asked_of(dataset):
        theirs = paper.logged(original, key.arm, key.noise) if original else None
        if original is None or theirs is None:
            continue
        stated = paper.stated(original, key.arm, key.noise)
        text = NONE if stated is None else f"{'about ' if key.arm != 'bn' else ''}{stated:g}"
        held_out = last_validation if paper.is_published_coco(run) else last_test
        found = (results.values(*key, measure) for measure in (last_test, held_out))
        ours = (with_std(spread(values)) if values else NONE for values in found)
        logs = (number(theirs.test, 1), number(theirs.val if original == paper.COCO else theirs.test, 1))
        done, asked = results.progress(*key)
        yield (dataset, key.arm, percent(key.noise), text, *logs, *ours, f"{done} of {asked}")
