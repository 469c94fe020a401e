"""What marks a convolution and its norm as belonging together."""

from torch import nn


class Normed(nn.Sequential):
    """A convolution, then its norm: (N, C_in, H, W) -> (N, C_out, H', W').

    A Sequential of that name and no more. What looks at a network layer by layer (models/singular_values.py) takes
    the two for one layer, whatever the norm is.
    """
