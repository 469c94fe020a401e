"""Formats numbers for the report."""

from reporting.statistics.intervals import Interval, Spread

NONE = "-"


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed digits, without a negative zero; `-` for None."""
    if value is None:
        return NONE
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def with_std(value: Spread | None) -> str:
    """Mean ± sample standard deviation; the mean alone if there is one seed."""
    if value is None:
        return NONE
    return number(value.mean) + ("" if value.std is None else f" ± {number(value.std)}")


def with_interval(value: Interval | None, sign: bool = True) -> str:
    """Mean [low, high] (n seeds)."""
    if value is None:
        return NONE
    seeds = "1 seed" if value.n == 1 else f"{value.n} seeds"
    bounds = "" if value.low is None else f" [{number(value.low, sign=sign)}, {number(value.high, sign=sign)}]"
    return f"{number(value.mean, sign=sign)}{bounds} ({seeds})"
