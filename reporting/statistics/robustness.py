"""The test accuracy that an arm loses to label noise, seed by seed."""

from reporting.statistics.intervals import Interval, mean, paired
from reporting.statistics.measures import last_test
from reporting.statistics.results import Results


def losses(results: Results, dataset: str, noise: float, arm: str) -> dict[int, float]:
    """The points of test accuracy from the run with `noise` up to the clean run, for each seed that has both."""
    clean = results.by_seed(dataset, 0.0, arm, last_test)
    noisy = results.by_seed(dataset, noise, arm, last_test)
    return {seed: clean[seed] - noisy[seed] for seed in sorted(clean.keys() & noisy.keys())}


def drop(results: Results, dataset: str, noise: float, arm: str) -> Interval | None:
    """The mean of `losses`, paired by seed."""
    clean = results.by_seed(dataset, 0.0, arm, last_test)
    return paired(clean, results.by_seed(dataset, noise, arm, last_test))


def drop_less_than(results: Results, dataset: str, noise: float, arm: str, other: str) -> Interval | None:
    """The points by which `arm` loses less than `other`, paired over the seeds that have both drops."""
    return paired(losses(results, dataset, noise, other), losses(results, dataset, noise, arm))


def kept(results: Results, dataset: str, noise: float, arm: str) -> float | None:
    """The mean share, in percent, of the clean accuracy that remains with `noise`; None if no seed has both."""
    clean = results.by_seed(dataset, 0.0, arm, last_test)
    noisy = results.by_seed(dataset, noise, arm, last_test)
    shares = [100 * noisy[seed] / clean[seed] for seed in sorted(clean.keys() & noisy.keys()) if clean[seed]]
    return mean(shares) if shares else None
