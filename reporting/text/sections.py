"""The sections with figures: curves, robustness, stability, memorisation, diagnostics, the paper's own numbers."""

from collections.abc import Sequence
from functools import partial

from reporting.figures import curves as curve_figures
from reporting.figures import dots, forest, layers
from reporting.statistics import paper, robustness
from reporting.statistics.intervals import paired, spread
from reporting.statistics.measures import last_test, last_validation, mean, restlessness
from reporting.statistics.memorisation import PARTS, chance, share
from reporting.statistics.results import Results, percent, slug
from reporting.statistics.statements import Finding
from reporting.text import prose, scale
from reporting.text.blocks import Block, Figure, Heading, Paragraph, Table
from reporting.text.numbers import NONE, number, with_interval, with_std


def tables(
    caption: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], text_columns: int = 2
) -> list[Block]:
    """A table for each dataset, which `rows` start with and the tables do not: on a phone every column counts."""
    return [
        Table(f"{caption}: {dataset}", header, tuple(row[1:] for row in rows if row[0] == dataset), text_columns)
        for dataset in dict.fromkeys(row[0] for row in rows)
    ]


def forest_figure(results: Results, found: Sequence[Finding]) -> list[Block]:
    """The picture that says it all, of the statements on differences between arms."""
    shown = [finding for finding in found if finding.statement.of_arms]
    if not shown:
        return []
    verdicts = "; ".join(f"{f.statement.measured} on {f.dataset}: {f.verdict}" for f in shown)
    draw = partial(forest.forest, shown)
    return [Figure("forest", draw, f"Differences and verdicts: {verdicts}.".replace("`", ""), prose.FOREST)]


def curve_section(results: Results) -> list[Block]:
    blocks: list[Block] = [
        Heading(2, "Curves"),
        Paragraph(prose.CURVES),
    ]
    for dataset in results.datasets:
        for noise in sorted({key.noise for key in results.drawn if key.dataset == dataset}):
            ends = [f"{arm} {number(value, 1)}" for arm, value in scale.heights(results, dataset, noise)]
            here = f"{dataset}, {percent(noise)} label noise"
            what = f"Loss and accuracy by epoch on training, validation and test images: {here}."
            alt = f"{what} Test accuracy at the end in percent: {', '.join(ends)}." if ends else what
            blocks += [
                Heading(3, here),
                Figure(
                    f"curves-{results.file_names[dataset]}-{slug(f'{100 * noise:g}')}noise",
                    partial(curve_figures.curves, results, dataset, noise),
                    alt,
                    f"{here}.",
                ),
            ]
    return blocks


def robustness_section(results: Results) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Robustness to label noise"), *_memorisation(results)]
    drops, against = [], []
    for dataset in results.datasets:
        for noise in (noise for noise in results.noises(dataset) if noise):
            for arm in results.arms(dataset, noise):
                found = robustness.drop(results, dataset, noise, arm)
                if found is None:
                    continue
                less = robustness.drop_less_than(results, dataset, noise, arm, "bn") if arm != "bn" else None
                kept = number(robustness.kept(results, dataset, noise, arm), 1)
                drops.append((dataset, arm, percent(noise), with_interval(found), kept, with_interval(less)))
        for noise in results.noises(dataset):
            for arm in results.arms(dataset, noise):
                both = (results.by_seed(dataset, noise, name, last_test) for name in (arm, "bn"))
                if arm != "bn" and (difference := paired(*both)):
                    against.append((dataset, arm, percent(noise), with_interval(difference)))
    if drops:
        blocks += [
            Paragraph(prose.ROBUSTNESS),
            Figure(
                "robustness",
                partial(dots.robustness, results),
                prose.ROBUSTNESS_ALT,
                prose.ROBUSTNESS_CAPTION,
            ),
            *tables(
                "Drop of test accuracy from clean labels, points",
                ("arm", "noise", "drop", "% kept", "less lost than bn by"),
                drops,
            ),
        ]
    else:
        blocks.append(Paragraph("No arm has a clean and a noisy run of the same seed."))
    if against:
        caption = "Test accuracy of the last epoch less that of bn, points, paired over seeds"
        blocks += tables(caption, ("arm", "noise", "less bn"), against)
    return blocks


def stability_section(results: Results) -> list[Block]:
    if not results.finished:
        return []
    rows = []
    for key, cell in results.cells.items():
        half = [value for value in map(restlessness, cell.values()) if value is not None]
        whole = [value for run in cell.values() if (value := restlessness(run, second_half=False)) is not None]
        cells = (with_std(spread(values)) if values else NONE for values in (half, whole))
        rows.append((key.dataset, key.arm, percent(key.noise), *cells, str(max(len(half), len(whole)))))
    return [
        Heading(2, "Stability"),
        Paragraph(prose.STABILITY),
        Figure(
            "stability",
            partial(curve_figures.stability, results),
            prose.STABILITY_ALT,
            f"{prose.BAND}.",
        ),
        *tables(
            "Mean absolute change of test accuracy from epoch to epoch, points",
            ("arm", "noise", "second half", "all epochs", "seeds"),
            rows,
        ),
    ]


def _memorisation(results: Results) -> list[Block]:
    rows = []
    for key, cell in results.cells.items():
        parts = [list(results.by_seed(*key, share(column)).values()) for column, _ in PARTS]
        if not key.noise or not any(parts):
            continue
        guesses = [value for value in map(chance, cell.values()) if value is not None]
        figures = [with_std(spread(values)) if values else NONE for values in parts]
        figures.insert(2, number(mean(guesses), 1) if guesses else NONE)
        rows.append((key.dataset, key.arm, percent(key.noise), *figures, str(max(map(len, parts)))))
    if not rows:
        return [Paragraph("No finished run has label noise.")]
    titles = [title for _, title in PARTS]
    titles.insert(2, "by chance")
    return [
        Paragraph(prose.MEMORISATION),
        Figure(
            "memorisation",
            partial(dots.memorisation, results),
            prose.MEMORISATION_ALT,
            prose.MEMORISATION_CAPTION,
        ),
        *tables("Accuracy on training images, last epoch, %", ("arm", "noise", *titles, "seeds"), rows),
    ]


def diagnostics_section(results: Results) -> list[Block]:
    shown = [
        (dataset, noise)
        for dataset in results.datasets
        for noise in results.noises(dataset)
        if layers.has_diagnostics(results, dataset, noise)
    ]
    if not shown:
        return []
    columns = (layers.LARGEST, layers.SMALLEST, layers.GRADIENT, layers.WEIGHT)
    rows = []
    for key in results.cells:
        found = [list(results.by_seed(*key, layers.last_of(column)).values()) for column in columns]
        if any(run.diagnostics for run in results.runs(*key)):
            figures = [f"{mean(values):.4g}" if values else NONE for values in found]
            rows.append((key.dataset, key.arm, percent(key.noise), *figures, str(max(map(len, found)))))
    blocks: list[Block] = [
        Heading(2, "Diagnostics of the layers"),
        Paragraph(prose.DIAGNOSTICS),
    ]
    for dataset in dict.fromkeys(dataset for dataset, _ in shown):
        noise = next(level for name, level in shown if name == dataset)  # one figure a dataset: its cleanest runs
        blocks.append(
            Figure(
                f"diagnostics-{results.file_names[dataset]}",
                partial(layers.diagnostics, results, dataset, noise),
                "Singular values by layer and by epoch, gradient norm and weight norm by epoch, of each arm: "
                f"{dataset}, {percent(noise)} noise; the last epoch's are in the table below.",
                f"{dataset}, {percent(noise)} label noise: means over seeds. Of an arm's two lines of singular values "
                "the upper is the largest, the lower the smallest.",
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
        about = "about " if key.arm != "bn" else ""
        ours = [with_std(spread(list(results.by_seed(*key, m).values()))) for m in (last_test, last_validation)]
        text = NONE if stated is None else f"{about}{stated:g}"
        rows.append(
            (key.dataset, key.arm, percent(key.noise), text, number(theirs.test, 1), number(theirs.val, 1), *ours)
        )
    if not rows:
        return []
    return [
        Heading(2, "The paper's own numbers beside ours"),
        Paragraph(prose.PAPER),
        *tables(
            "Accuracy, %: the paper's text, its authors' logs (last epoch), and ours (last epoch)",
            ("arm", "noise", "paper, test", "logs, test", "logs, val", "ours, test", "ours, val"),
            rows,
        ),
    ]
