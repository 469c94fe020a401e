"""Describes the scale of the runs, compares it with the paper's, and says what it can and cannot show."""

from dataclasses import dataclass
from typing import Any

from reporting.runs.run import Run
from reporting.runs.words import listed, percent
from reporting.statistics import paper
from reporting.statistics.intervals import ENOUGH_SEEDS, mean
from reporting.statistics.measures import GIVEN, chance, last_test, last_training, last_validation, share
from reporting.statistics.numbers import number
from reporting.statistics.results import Results

_SIDE = 32  # pixels of an image where a config says nothing else
_ALL_IMAGES = {"CIFAR10": 50_000}  # outside of the test set, where the type alone says it

CAN = (
    "It can show which arm learns faster at an equal, small budget; what the faults of the published layer and of the "
    "published data cost, since they act from the first step; and how far apart seeds lie, which says how large a "
    "difference must be to mean anything."
)
CANNOT = (
    "It cannot show where the arms end after 100 or 200 epochs at width 64: an arm that is ahead while all still learn "
    "fast need not be so when all have converged. No figure of such runs is the paper's figure reproduced or missed; "
    "only the signs of differences, and which are large, compare."
)
FULL_SCALE = (
    "these runs have the paper's width and epochs; what else they do not share with it is in each run's config."
)
LEARNT_BY_HEART = (
    "The paper's networks had learnt the wrong labels of CIFAR10 by heart at the end (98 % training accuracy and more "
    "under 20 % noise)."
)
HALF = 50.0  # percent of the wrong labels; from there on they are being learnt by heart
NOT_BY_HEART = (
    "Where it is less than half of them ({datasets}), the drop of test accuracy says what noise does to learning, not "
    "what memorising it does."
)


@dataclass(frozen=True)
class Scale:
    """The scale of one dataset's runs: sets of values, as runs may differ. `steps` are of a run; None if unknown."""

    images: str
    network: str
    epochs: str
    batch: str
    side: str
    steps: int | None
    seeds: int

    @property
    def short(self) -> str:
        return f"{self.images}, {self.network}, {self.epochs} epochs"


def scale(results: Results, dataset: str) -> Scale:
    runs = results.of(dataset)
    sizes = _sizes(runs)
    args = [run.config["data_loader"].get("args", {}) for run in runs]
    steps = {_steps(run, sizes) for run in runs}
    return Scale(
        images=f"{sizes[0]:,} training images" if sizes else _both([_images(run) for run in runs]),
        network=_both(list(map(_network, runs))),
        epochs=_both([str(run.planned) for run in runs]),
        batch=_both([str(a.get("batch_size", "?")) for a in args]),
        side=_both([str(a.get("image_size", _SIDE)) for a in args]),
        steps=steps.pop() if len(steps) == 1 else None,
        seeds=len({run.seed for run in runs}),
    )


def lines(results: Results, dataset: str) -> str:
    """The scale of one dataset in one or two sentences, with the paper's if it used that dataset."""
    found, runs = scale(results, dataset), results.of(dataset)
    text = f"{dataset}: {_split(runs, found)}; {found.network}, {found.epochs} epochs, "
    text += f"batches of {found.batch}"
    text += "" if found.side == str(_SIDE) else f", images of {found.side} pixels a side"
    text += f", about {found.steps:,} steps" if found.steps else ""
    text += f"; {found.seeds} seed{'' if found.seeds == 1 else 's'}."
    if runs[0].as_published:
        text += " Data, splits and noise as published, faults included."
    elif runs[0].partly_as_published:
        text += " Data, splits or noise are in part as published; the runs' configs say which."
    clips = _clips(runs)
    text += f" {clips}" if clips else ""
    original = paper.dataset_of(runs[0])
    if original:
        theirs = paper.SCALES[original]
        text += (
            f" The paper: {theirs.images:,} images, width {theirs.width}, {theirs.epochs} epochs, about "
            f"{theirs.steps:,} steps."
        )
    return text


def _network(run: Run) -> str:
    width = run.config["arch"]["args"].get("width", "?")
    return run.network if "/" in run.network else f"{run.network} of width {width}"


def _split(runs: list[Run], found: Scale) -> str:
    """The numbers of images in train, validation and test, from the runs or computed from their configs."""
    if sizes := _sizes(runs):
        train, val, test = sizes
        return f"{train:,} images to train on, {val:,} to validate, {test:,} to test"
    return f"{found.images} to train and validate, {_tests(runs)}"


def _sizes(runs: list[Run]) -> tuple[int, ...] | None:
    """The sizes of train, val and test that the runs record; None if they record none or differ."""
    said = {run.data.images for run in runs if run.data}
    return said.pop() if len(said) == 1 else None


def can_show(results: Results) -> list[str]:
    """Sentences on what follows from the scale; none where no dataset is the paper's."""
    if not any(paper.dataset_of(run) for dataset in results.datasets for run in results.of(dataset)):
        return []
    full = [dataset for dataset in results.datasets if all(map(paper.has_its_scale, results.of(dataset)))]
    whole = [f"{listed(full)}: {FULL_SCALE}"] if full else []
    if len(full) == len(results.datasets):
        return whole
    by_heart = _test_by_heart(results)
    others = f"Of all others: {CAN[0].lower()}{CAN[1:]}" if full else CAN
    return [*whole, others, CANNOT, *_memorised(results), *([by_heart] if by_heart else [])]


def _test_by_heart(results: Results) -> str | None:
    """How far "test" is above held-out accuracy on each TinyCOCO as published; None if there is none."""
    found = []
    for dataset in results.datasets:
        noises = results.noises(dataset)
        if not noises or not all(
            run.as_published and paper.dataset_of(run) == paper.COCO for run in results.of(dataset)
        ):
            continue
        cells = [results.runs(dataset, noises[0], arm) for arm in results.arms(dataset, noises[0])]
        most = max(cells, key=lambda runs: mean(list(map(last_training, runs))))
        measured = [list(map(measure, most)) for measure in (last_training, last_test, last_validation)]
        train, test, val = (number(mean(values), 0) for values in measured)
        at = f"`{most[0].arm}`, {most[0].planned} epochs, {percent(noises[0])} noise"
        found.append(f"{train} %, {test} % and {val} % on {dataset} ({at})")
    theirs = paper.logged(paper.COCO, "bn", 0.0)
    if not found or theirs is None:
        return None
    return (
        "What TinyCOCO as published calls test accuracy rises above the accuracy on held-out images as far as training "
        "images are learnt by heart, and that takes epochs: the authors' BatchNorm run ended with "
        f"{number(theirs.train, 0)} % on training images, {number(theirs.test, 0)} % called test and "
        f"{number(theirs.val, 0)} % held out. Here the arm that learnt the most of them ended with {listed(found)}."
    )


def _memorised(results: Results) -> list[str]:
    """How far the runs of each dataset learnt wrong labels by heart, and what that says of their robustness."""
    told, less = [], []
    for dataset in results.datasets:
        noisy = [key for key in results.cells if key.dataset == dataset and key.noise]
        known = [(mean(values), key) for key in noisy if (values := results.values(*key, share(GIVEN)))]
        if not known:
            continue
        most, key = max(known, key=lambda found: found[0])
        count, guesses = len(results.cells[key]), results.values(*key, chance)
        by_chance = f"; chance alone: {number(mean(guesses), 1)} %" if guesses else ""
        seeds = f", {count} seed{'' if count == 1 else 's'}" if count < ENOUGH_SEEDS else ""
        told.append(f"{number(most, 1)} % on {dataset} (`{key.arm}`, {percent(key.noise)} noise{seeds}{by_chance})")
        less += [dataset] if most <= HALF else []
    if not told:
        return [f"{LEARNT_BY_HEART} How far these runs got is not known: they have no figures on mislabelled images."]
    text = f"{LEARNT_BY_HEART} Here the arm that learnt the most of them answers as given: {listed(told)}."
    return [f"{text} {NOT_BY_HEART.format(datasets=listed(less))}" if less else text]


def _images(run: Run) -> str:
    subset = run.config["data_loader"].get("args", {}).get("subset")
    kind = run.config["data_loader"]["type"]
    count = _count(run)
    if count is not None:
        return f"{count:,} images"
    return f"{percent(subset)} of the images" if subset else f"all images of its {kind} files"


def _count(run: Run) -> int | None:
    subset = run.config["data_loader"].get("args", {}).get("subset")
    if subset is not None and subset > 1.0:
        return int(subset)
    everything = _ALL_IMAGES.get(run.config["data_loader"]["type"])
    return None if everything is None else round(everything * (subset or 1.0))


def _steps(run: Run, sizes: tuple[int, ...] | None) -> int | None:
    args, count = run.config["data_loader"].get("args", {}), _count(run)
    if sizes and "batch_size" in args:
        return int(-(-sizes[0] // args["batch_size"]) * run.planned)
    if count is None or "batch_size" not in args:
        return None
    images = count if run.as_published else count * (1 - args.get("validation_split", 0.1))
    return int(-(-round(images) // args["batch_size"]) * run.planned)


def _tests(runs: list[Run]) -> str:
    subsets = {run.config["data_loader"].get("args", {}).get("test_subset") for run in runs}
    some = [f"{int(s):,} test images" if s > 1 else f"{percent(s)} of the test images" for s in subsets if s]
    return listed(sorted(some), "or") if some else "all test images"


def _clips(runs: list[Run]) -> str:
    """The arms that clip gradients, if others do not."""
    by_arm: dict[str, set[Any]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, set()).add(run.config["trainer"].get("clip_grad_norm"))
    clipped = [
        f"{'some runs of ' if None in norms else ''}`{arm}` (to norm {norm:g})"
        for arm, norms in sorted(by_arm.items())
        for norm in sorted(norms - {None})
    ]
    if not clipped or all(None not in norms for norms in by_arm.values()):
        return ""
    return f"Gradients are clipped in {listed(clipped)} only."


def _both(values: list[str]) -> str:
    return listed(sorted(set(values)), "or")
