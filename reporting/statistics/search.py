"""What a grid's sweep chooses: for each arm the settings with the best validation accuracy. No test accuracy counts."""

from dataclasses import dataclass

from reporting.runs.run import setting
from reporting.statistics.intervals import Spread, mean, spread
from reporting.statistics.measures import best_validation
from reporting.statistics.results import Key, Results


@dataclass(frozen=True)
class Tried:
    """Settings that were tried for an arm on a dataset at one noise level. `best` is the best validation accuracy of
    its finished runs in percent, over the seeds; None if no run has finished."""

    dataset: str
    noise: float
    arm: str
    setting: str
    best: Spread | None
    chosen: bool


def search(results: Results) -> list[Tried]:
    """All settings that were tried, by dataset, noise and arm, each group from the best to the worst.

    Chosen are those with the highest mean, on a tie the first by name. Settings with fewer finished seeds than others
    of their group cannot be chosen: their mean is of other splits, or a seed of theirs diverged.
    """
    tried = {
        key: next(iter(cell.values())) for cells in (results.cells, results.unfinished) for key, cell in cells.items()
    }
    groups: dict[Key, list[tuple[str, list[float]]]] = {}
    for key, run in tried.items():
        if run.sweep:
            group = groups.setdefault(Key(key.dataset, key.noise, run.own_arm), [])
            group.append((setting(run.sweep), results.values(*key, best_validation)))
    found = []
    for (dataset, noise, arm), group in groups.items():
        most = max(len(values) for _, values in group)
        group.sort(key=lambda each: (-len(each[1]), -mean(each[1]) if each[1] else 0.0, each[0]))
        for place, (words, values) in enumerate(group):
            best = spread(values) if values else None
            found.append(Tried(dataset, noise, arm, words, best, most > 0 and place == 0))
    return found
