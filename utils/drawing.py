"""The one way to draw pictures, independent of the user's matplotlib settings; a failure is a warning."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.text import visible


@contextlib.contextmanager
def warn_on_failure(what: str, warn: Callable[[str], object]) -> Iterator[None]:
    """Turn any Exception in the context into one warning: a picture must not cost a run, its numbers or its text."""
    try:
        yield
    except Exception as error:
        warn(f"no {what}: {reason(error)}")


def reason(error: Exception) -> str:
    """Why there is no picture, in one line."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return visible(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}", 300)


def draw(
    paint: Callable[[Any], None],
    size: tuple[float, float],
    kind: str,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> bytes:
    """The bytes of a matplotlib figure of `size` inches, drawn by `paint`; `kind` is "png" or "svg".

    It uses matplotlib's defaults and `settings`, not the user's settings, and never parses text as mathematics.
    `options` go to savefig. Raises any exception of matplotlib; see `warn_on_failure`.
    """
    with _silence():
        matplotlib = _matplotlib()
        own = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
        with matplotlib.rc_context({**own, "text.parse_math": False, **(settings or {})}):
            from matplotlib.figure import Figure

            figure, buffer = Figure(figsize=size, layout="constrained"), io.BytesIO()
            if kind == "svg":
                from matplotlib.backends.backend_svg import FigureCanvasSVG

                canvas: Any = FigureCanvasSVG(figure)
            else:
                from matplotlib.backends.backend_agg import FigureCanvasAgg

                FigureCanvasAgg(figure)
            paint(figure)
            if kind == "svg":
                canvas.print_svg(buffer, **options)  # savefig would draw everything twice
            else:
                figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress matplotlib's warnings of missing glyphs, narrow layouts and an unwritable cache folder."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _matplotlib() -> Any:
    """matplotlib; where the user's settings fail its import (a backend that is not there, a broken file), without them.

    They must otherwise stay in force: in a notebook the user goes on to draw with them.
    """
    with contextlib.suppress(Exception):
        return importlib.import_module("matplotlib")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # parts of the failed import, which the next one would take for whole
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        users = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
        os.environ["MATPLOTLIBRC"] = str(Path(spec.origin).parent / "mpl-data" / "matplotlibrc")
        try:
            return importlib.import_module("matplotlib")
        finally:
            del os.environ["MATPLOTLIBRC"]
            os.environ.update({name: value for name, value in users.items() if value is not None})
    return importlib.import_module("matplotlib")
