"""Progress bars, on a terminal and in a notebook only: elsewhere the log lines suffice."""

import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from utils.errors import Stopped
from utils.output import to_terminal
from utils.text import visible

#: Whether this is a notebook's kernel.
NOTEBOOK = "ipykernel.kernelapp" in sys.modules


if NOTEBOOK:  # the drawn bar, or one of text where ipywidgets is missing
    with warnings.catch_warnings(action="ignore"):  # tqdm says that they are
        from tqdm.auto import tqdm
else:
    from tqdm import tqdm


class Bar(tqdm):  # type: ignore[misc] # tqdm has no types
    """tqdm's bar on stderr. `desc` may come from a file. Each step raises a lost request to stop again."""

    monitor_interval = 0  # otherwise tqdm starts a thread, and warns if the system refuses it

    def __init__(self, *args: Any, desc: str, **options: Any) -> None:
        hidden = bool(os.environ.get("TQDM_DISABLE")) or (False if NOTEBOOK else None)  # None: unless on a terminal
        options |= {"file": to_terminal(sys.stderr), "disable": hidden}
        super().__init__(*args, desc=visible(desc, 60), **options)

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            Stopped.check()
            yield item

    def update(self, n: float | None = 1) -> bool | None:
        Stopped.check()
        shown: bool | None = super().update(n)
        return shown

    def show_pace(self, images: int, seconds_left: float) -> None:
        """Show images a second, from the `images` that the bar has seen, and the time left of the whole run."""
        if not self.disable:
            elapsed = self.format_dict["elapsed"]
            rate = images / elapsed if elapsed > 0 else 0.0
            left = tqdm.format_interval(max(0.0, seconds_left))
            self.set_postfix_str(f"{rate:,.0f} images/s, run ends in {left}", refresh=False)
