"""A convolution whose 1x1 form with a stride drops the pixels first.

A strided 1x1 convolution reads every s-th row and column and nothing else, so it is a 1x1 convolution of the sliced
image: the same function, and cheaper. The slice also avoids a fault: in torch 2.14.1 the backward pass of a strided 1x1
convolution of fewer than 16 channels in channels_last writes outside its memory on processors with AVX-512, and the
process dies of it (tests/test_faults_outside.py has the sweep).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d, with the stride of an unpadded 1x1 kernel taken by slicing: (N, C, H, W) -> (N, C', H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1):
            rows, columns = self.stride
            return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias, groups=self.groups)
        return super().forward(x)
