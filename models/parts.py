"""What a network is built of, by the names in a config."""

from models.activations import ACTIVATIONS, Activation
from models.norms import NORMS, NormedConv


def parts(norm: str, activation: str) -> tuple[NormedConv, Activation]:
    """The functions that make a convolution with its norm, and an activation. Raises ValueError for an unknown name."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose from {', '.join(ACTIVATIONS)}")
    return NORMS[norm], ACTIVATIONS[activation]
