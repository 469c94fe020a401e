"""The networks, their norms and losses; and, alone and installed, ConvNorm.

`pip install .` installs the layer as a package of its own, `convnorm`: this file and those that pyproject.toml lists.
They import one another relatively and nothing else but torch, and nothing else of this folder may be imported here.
"""

from .preconv import PreConv2d
from .preconv_batchnorm import ConvNormBatchNorm

__version__ = "0.1.0"
__all__ = ["ConvNormBatchNorm", "PreConv2d"]
