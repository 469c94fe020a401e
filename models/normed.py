"""Marks a convolution and its norm as one layer."""

from torch import nn


class Normed(nn.Sequential):
    """A convolution, then its norm: (N, C_in, H, W) -> (N, C_out, H', W').

    It only names a Sequential. Code that examines a network layer by layer (models/singular_values.py) treats the two
    as one layer, whatever the norm is.
    """
