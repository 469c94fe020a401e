"""How much test accuracy an arm loses to label noise, seed by seed."""

from reporting.statistics.intervals import Interval, mean, paired
from reporting.statistics.measures import last_test
from reporting.statistics.results import Results


def losses(results: Results, dataset: str, noise: float, arm: str) -> dict[int, float]:
    """Points of test accuracy lost from the clean run to that with `noise`, by seed that has both."""
    clean = results.by_seed(dataset, 0.0, arm, last_test)
    noisy = results.by_seed(dataset, noise, arm, last_test)
    return {seed: clean[seed] - noisy[seed] for seed in sorted(clean.keys() & noisy.keys())}


def drop(results: Results, dataset: str, noise: float, arm: str) -> Interval | None:
    """The mean of `losses`, seed-paired."""
    clean = results.by_seed(dataset, 0.0, arm, last_test)
    return paired(clean, results.by_seed(dataset, noise, arm, last_test))


def drop_less_than(results: Results, dataset: str, noise: float, arm: str, other: str) -> Interval | None:
    """By how many points `arm` loses less than `other`, paired over the seeds for which both drops are known."""
    return paired(losses(results, dataset, noise, other), losses(results, dataset, noise, arm))


def kept(results: Results, dataset: str, noise: float, arm: str) -> float | None:
    """Mean share, in percent, of the clean run's accuracy that is left with `noise`; None if no seed has both."""
    clean = results.by_seed(dataset, 0.0, arm, last_test)
    noisy = results.by_seed(dataset, noise, arm, last_test)
    shares = [100 * noisy[seed] / clean[seed] for seed in sorted(clean.keys() & noisy.keys()) if clean[seed]]
    return mean(shares) if shares else None
