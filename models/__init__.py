"""The networks, their norms and losses; as the installed package `convnorm`, ConvNorm alone.

`pip install .` installs `convnorm`: this file and the files that pyproject.toml lists. These import only each other,
relatively, and torch. This file must import nothing else of this folder.
"""

from .convert import Conversion, convert_conv_norm
from .preconv import PreConv2d
from .preconv_batchnorm import ConvNormBatchNorm

__version__ = "0.1.0"
__all__ = ["ConvNormBatchNorm", "Conversion", "PreConv2d", "convert_conv_norm"]
