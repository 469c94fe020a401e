"""The files of a run folder and of a grid's folder by name, and when a run has had enough: known to those who write
them and to those who only read."""

from collections.abc import Sequence

RUN_NAME = "run.json"
CONFIG_NAME = "config.json"
DATA_NAME = "data.json"
METRICS_NAME = "metrics.csv"
DIAGNOSTICS_NAME = "diagnostics.csv"
NOISE_NAME = "noise.npz"
TRANSITION_NAME = "noise_transition.csv"
DIVERGED_NAME = "diverged.json"
LOG_NAME = "train.log"
GRID_NAME = "grid.json"


def stopped_early(scores: Sequence[float | None], monitor: str, patience: int | None) -> bool:
    """Whether a run with these scores, one an epoch, has stopped since the best of them is `patience` epochs old.

    `monitor` is the config's: its first word says whether less or more is better. A score that is NaN or None is none.
    """
    known = [score for score in scores if score is not None and score == score]
    if not patience or not known:
        return False
    best = min(known) if monitor.startswith("min") else max(known)
    return len(scores) - 1 - list(scores).index(best) >= patience
