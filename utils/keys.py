"""Access to settings in nested objects by dotted keys, such as optimizer.args.lr."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def flat(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a nested object as (dotted key, value); empty objects have none."""
    for key, value in block.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def nested(key: str, value: Any) -> dict[str, Any]:
    """A nested object with `value` at `key` and nothing else."""
    *outer, last = key.split(".")
    block = {last: value}
    for part in reversed(outer):
        block = {part: block}
    return block


def value_at(block: Any, keys: str | Iterable[str]) -> Any:
    """The value at a dotted key, or at a sequence of nested keys; None if there is no such key."""
    for key in keys.split(".") if isinstance(keys, str) else keys:
        block = block.get(key) if isinstance(block, dict) else None
    return block


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key by as many of its last parts as tell it from the others: optimizer.args.lr is lr. `type` alone
    would not say whose."""
    parts = {key: key.split(".") for key in keys}

    def name(key: str) -> str:
        for count in range(1 + (parts[key][-1] == "type"), len(parts[key])):
            end = parts[key][-count:]
            if sum(other[-count:] == end for other in parts.values()) == 1:
                return ".".join(end)
        return key

    return {key: name(key) for key in parts}
