"""The departures of a run from the correct experiment, as the published experiments had them; no heavy imports.

docs/as_published.md says how each was found. `protocol: "as_published"` turns on all departures in the data that the
dataset can have. Each also has its own switch, which overrides the protocol.
"""

from config_schema import PICTURES, PUBLISHED
from parse_config import Config

FLOAT_BYTES = "data_loader.args.float_bytes_as_pixels"
OVERLAPPING = "data_loader.args.overlapping_splits"
TRUE_CLASS = "label_noise.include_true_class"
NORM = "arch.args.norm"

_OWN_TEST = "validation images are training images too"
_NO_OWN_TEST = "the test set is the whole dataset, its training images included"


def departures(config: Config) -> dict[str, str]:
    """The departures in force: setting -> a sentence that describes it. Empty for the correct experiment."""
    args, noise, norm = config.data_loader.args, config.label_noise, config.arch.args.norm
    all_of_them = config.protocol == "as_published"

    def on(switch: bool | None) -> bool:
        return all_of_them if switch is None else switch

    found: dict[str, str] = {}
    if norm.endswith("_published"):
        batch_norms = "a BatchNorm" if norm == "conv_published" else "two BatchNorms"
        found[NORM] = (
            "the published layer, which keeps the two lowest horizontal frequencies only, scaled by a complex "
            f"preconditioner, with {batch_norms} behind it"
        )
    if config.data_loader.type == "TinyCOCO" and on(args.float_bytes_as_pixels):
        found[FLOAT_BYTES] = "the bytes of the pickle's floats are taken for pixels, so the images are close to noise"
    if on(args.overlapping_splits):
        has_test = None if config.data_loader.type in PICTURES else config.data_loader.type in PUBLISHED
        both = f"{_OWN_TEST}, or if there are no test images {_NO_OWN_TEST}"
        found[OVERLAPPING] = both if has_test is None else _OWN_TEST if has_test else _NO_OWN_TEST
    if noise.type == "symmetric" and noise.rate > 0 and on(noise.include_true_class):
        found[TRUE_CLASS] = "a wrong label is drawn over all classes, the true one too, so fewer labels change"
    return found


def announcements(found: dict[str, str]) -> list[str]:
    """One line for each of `departures`, the same in every program."""
    return [f"as published: {what} ({key})" for key, what in found.items()]
