"""What is worth a warning, but not a second one."""

import logging

_told: set[str] = set()


def tell_once(topic: str, text: str) -> None:
    """Warn of `text` unless this process has warned of that topic. It goes where the program's log goes, or, where
    none has been set up, to stderr."""
    if topic not in _told:
        _told.add(topic)
        logging.getLogger("convnorm").warning("%s", text)
