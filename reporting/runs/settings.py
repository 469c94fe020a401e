"""The settings that the report uses, and the types that they must have.

Configs of older and newer code are welcome, so a config is not validated as a whole. But every value that the report
computes with has the type that it expects.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from protocol import FLOAT_BYTES, OVERLAPPING, TRUE_CLASS
from reporting.runs.words import LONGEST, plain
from utils.keys import value_at

_MOST = 2**63 - 1


class Setting(NamedTuple):
    key: str
    what: str
    fits: Callable[[Any], bool]
    needed: bool = False  # else it may be missing


def whole(low: int, high: int = _MOST) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST and plain(value) != ""


def _switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


SETTINGS = (
    Setting("name", "a name", text, needed=True),
    Setting("seed", "a whole number", whole(-_MOST), needed=True),
    Setting("arch.args.norm", "the name of an arm", text, needed=True),
    Setting("data_loader.type", "the name of a dataset", text, needed=True),
    Setting("label_noise.rate", "a share", number(0.0, 1.0), needed=True),
    Setting("trainer.epochs", "a number of epochs", whole(1), needed=True),
    Setting("protocol", "the name of a protocol", _or_null(text)),
    Setting("arch.type", "the name of a network", text),
    Setting("arch.args.width", "a whole number", whole(1)),
    Setting("arch.args.num_classes", "a number of classes", _or_null(whole(2))),
    Setting("data_loader.args", "an object", lambda value: isinstance(value, dict)),
    Setting("data_loader.args.batch_size", "a whole number", whole(1)),
    Setting("data_loader.args.image_size", "a whole number", whole(1)),
    Setting("data_loader.args.validation_split", "a share", number(0.0, 1.0)),
    Setting("data_loader.args.subset", "a number or share of images", _or_null(number(0.0, _MOST))),
    Setting("data_loader.args.test_subset", "a number or share of images", _or_null(number(0.0, _MOST))),
    Setting("label_noise.type", "the name of a kind of noise", text),
    Setting("trainer.monitor", "the name of a column", text),
    Setting("trainer.early_stop", "a number of epochs", _or_null(whole(0))),
    Setting("trainer.clip_grad_norm", "a norm", _or_null(number(0.0, 1e38))),
    *(Setting(key, "true, false or null", _switch) for key in (OVERLAPPING, TRUE_CLASS, FLOAT_BYTES)),
)


def misfit(config: Any) -> tuple[Setting, Any] | None:
    """The first setting that has a wrong value, and that value; None if there is none."""
    for setting in SETTINGS:
        *above, last = setting.key.split(".")
        block = value_at(config, above)
        given = isinstance(block, dict) and last in block
        value = block[last] if given else None
        if (given or setting.needed) and not setting.fits(value):
            return setting, value
    return None
