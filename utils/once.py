"""Warnings that appear once."""

import logging

_told: set[str] = set()


def warn_once(topic: str, text: str) -> None:
    """Log the warning `text`, unless this process has already warned of `topic`. Without a log it goes to stderr."""
    if topic not in _told:
        _told.add(topic)
        logging.getLogger("convnorm").warning("%s", text)
