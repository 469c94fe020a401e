"""Progress bars, on a terminal only: elsewhere the log lines suffice."""

import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from utils.errors import Stopped
from utils.output import to_terminal
from utils.text import visible


class Bar(tqdm):  # type: ignore[misc] # tqdm has no types
    """tqdm's bar on stderr. `desc` may come from a file. Each step raises a lost request to stop again."""

    monitor_interval = 0  # otherwise tqdm starts a thread, and warns if the system refuses it

    def __init__(self, *args: Any, desc: str, **options: Any) -> None:
        super().__init__(*args, desc=visible(desc, 60), file=to_terminal(sys.stderr), disable=None, **options)

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            Stopped.check()
            yield item

    def update(self, n: float | None = 1) -> bool | None:
        Stopped.check()
        shown: bool | None = super().update(n)
        return shown
