"""The sentences that every report has."""

from reporting.statistics import paper
from reporting.statistics.numbers import number
from reporting.statistics.statements import FAR, NEAR, SAME_MARGIN


def _line(text: str) -> str:
    return " ".join(text.split())


def beside_the_paper() -> str:
    return _line(f"""
        Source: {paper.source()}. Test is what each code calls so; held out are images that no training has seen. Nine
        tenths of what the paper calls TinyCOCO's test images are training images, and so they are here where the data
        are as published; there the validation images, whose labels hold the noise, are held out. All other test images
        are held out. Both of our forms of an arm, the correct one and the published one, stand beside the paper's one,
        whose conv held a BatchNorm. Runs says how many of those planned have finished.
    """)


def rule() -> str:
    low, high = paper.logged_validation(paper.COCO)
    return _line(f"""
        The rules are mechanical, and are those of `docs/rules.md`. At each noise level the difference
        of the last epoch's test accuracy, paired over seeds, gets a confidence interval (Student's t, n - 1 degrees of
        freedom, n seeds, at least 3). It decides if it excludes 0: the statement holds there, or does not. How wide it
        has to be is Holm's correction: all intervals of a dataset share an error of 5 %. The levels that count are
        those for which the most seeds were asked for; others are shown beside. A statement holds for a dataset if it
        holds at every level that counts, those included whose runs are missing, and does not hold if it fails at one;
        all else is not decided. Robustness compares the drops from 0 to 20 % noise, steadiness the mean absolute change
        of test accuracy from epoch to epoch in the second half of the epochs. Two arms do the same if the interval
        lies within {SAME_MARGIN:g} points of 0, and do not if it lies wholly beyond. A validation accuracy is near
        the authors' ({number(low, 1)} to {number(high, 1)} % at the end of their logs) if its interval over seeds
        lies within {NEAR:g} points of that range, and "test" is far higher if it is by more than {FAR:g} points. The
        intervals in the tables are those of 95 %, before the correction.
    """)


BAND = "Lines are means over seeds, bands reach from the least to the greatest seed"
WHAT_CONV_IS = _line("""
    What the paper, and Liu et al., call conv holds a BatchNorm inside the layer: its correct counterpart is `bncn`, and
    `conv` here, ConvNorm with no BatchNorm anywhere, is a harder question of our own.
""")
RULES = "The rules are those of `docs/rules.md`, and all intervals of a dataset share one error of 5 %."
FOREST = _line("""
    Each statement's difference at each noise level (of robustness: in the points lost), mean over seeds with its 95 %
    interval, the paper's own beside it, and the verdict of all levels together after Holm's correction. Hollow marks do
    not decide by themselves. Where all arms are meant, each has its marks. Panels have scales of their own.
""")
NOT_FINAL = _line("""
    As the rules say, every finished run counts, and every planned noise level does; so a dataset with runs to come has
    verdicts so far, which its last run may change. The error of 5 % is that of the look after that run, not of each
    before it.
""")
NOT_AT_SCALE = "No run here has the paper's own width, epochs and images yet."
CLIPPING = _line("""
    The control differs by more than 3 points: what `conv` shows against `bn` is that of ConvNorm and of clipping
    gradients together, on {datasets}.
""")
ARMS = _line("""
    `bn` is BatchNorm, `conv` ConvNorm alone, `bncn` ConvNorm then BatchNorm; `conv_published` and `bncn_published`
    are what the published code ran under the names conv and bncn. Where data are as published, test accuracy is the
    published code's own, which for TinyCOCO is mostly accuracy on training images.
""")
NO_STATEMENTS = _line("""
    None of them can be held against these runs: they are about CIFAR10 and TinyCOCO, compare arms by their names, and
    leave out searches.
""")
SEARCH = _line("""
    Best validation accuracy of a run in percent, mean ± sample standard deviation over seeds. The highest mean is the
    choice, of the settings with the most finished seeds; of equals the first by name. Test accuracy has no part in it.
    Validation labels hold the noise, unless `label_noise.on_validation` is false.
""")
SUMMARY = _line("""
    Test accuracy in percent, mean ± sample standard deviation over seeds. Best by validation is the test accuracy of
    the epoch with the best validation accuracy, the first on ties; the mean of the last ten is that of all epochs if
    there are fewer. The same as `results.csv` and `results.tex`.
""")
CURVES = _line(f"""
    {BAND}; dotted vertical lines are steps of the learning rate, thin lines unfinished runs. Training figures are
    those of the training pass itself, with augmentation. Training labels hold the noise, and so do validation labels,
    unless `label_noise.on_validation` is false; test labels are true. A loss far above the others leaves its panel.
""")
ROBUSTNESS = _line("""
    Points of test accuracy (last epoch) lost to noise, paired over seeds: mean [95 % confidence interval, Student's
    t] (seeds). An arm that has learnt less has less to lose, so the share of its clean accuracy that is left stands
    beside.
""")
ROBUSTNESS_ALT = _line("""
    Test accuracy by noise level, and the drop from the clean runs, of each arm on each dataset; the numbers are in
    the table below.
""")
ROBUSTNESS_CAPTION = _line("""
    Left: means over seeds, bars from the least to the greatest seed. Right: seed-paired drop, bars are 95 %
    confidence intervals.
""")
STABILITY = _line("""
    How much test accuracy changes from one epoch to the next, in points, whichever way. The table has the mean over
    the second half of the epochs and over all, changes at a step of the learning rate left out; mean ± sample
    standard deviation over seeds. Steady learning is change as well, which is why the second half decides.
""")
STABILITY_ALT = _line("""
    Absolute change of test accuracy since the epoch before, by epoch, a line an arm, a panel a dataset and noise
    level; the means are in the table below.
""")
STABILITY_CAPTION = f"{BAND}. Of runs of more than 50 epochs each point is the mean of a few neighbouring epochs."
MEMORISATION = _line("""
    What the claim of robustness is about is whether wrong labels are learnt. The curves show how many of the
    mislabelled training images are answered with the wrong label that they were given (memorised). By chance is how
    often that label would be hit if the answers that are not the true class were spread evenly over the wrong
    classes, one in nine of them with ten classes; above it, labels are being memorised. The tables have the last
    epoch, also on training images whose label is right and, of the mislabelled ones, against the true label
    (resisted).
""")
MEMORISATION_ALT = _line("""
    Share of the wrong labels that are learnt, by epoch, a line an arm, a panel a dataset and noise level; the last
    epoch's are in the table below.
""")
MEMORISATION_CAPTION = f"Wrong labels answered as given. {BAND}. By chance: the mean of all arms."
DIAGNOSTICS = _line("""
    Singular values are those of a layer's transfer matrices over the frequency grid; ConvNorm's own paper claims that
    it bounds the largest, which is the layer's Lipschitz constant. The table takes the largest of the largest and the
    smallest of the smallest over all layers, and the norm of all layers together for gradients and weights, at the
    last epoch, means over seeds.
""")
HOW_TO_REPEAT = _line("""
    RUNS is the folder of the runs. The same runs give the same bytes; `grid.py` runs what is missing of a grid, and
    the `config.json` of each run folder makes that run again with `train.py -c`.
""")
