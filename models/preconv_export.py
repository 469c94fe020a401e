"""ConvNorm for a saved program: in real numbers, and in torch's own operators alone.

It is the mathematics of preconv_filter.py, a convolution and then a filter of its maps by products. A program that
holds neither our operators nor complex numbers loads without this package and runs where there is no FFT. ONNX's DFT
in float32, as onnxruntime computes it, differs from torch's by 2e-5; these products differ by rounding.
"""

import torch
from torch import Tensor

from . import preconv_fft, preconv_matmul
from .preconv_filter import basis


def preconditioner(weight: Tensor, grid: tuple[int, int], dilation: int = 1) -> Tensor:
    """V as in `preconv_fft.preconditioner`."""
    if weight.shape[-1] == 1:
        return preconv_fft.preconditioner(weight, grid)
    return preconv_matmul.inverse_root_of_gram(weight.detach(), *grid, dilation)


def filtered_conv(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> Tensor:
    """Steps 1, 3 and 4 of the layer, as `preconv_fft.filtered_conv`; a program of it takes one size, and any batch."""
    reach = dilation * (weight.shape[-1] - 1)
    const = basis(x.shape[2] + reach, x.shape[3] + reach, reach - padding, stride, x.dtype, x.device)
    mean, difference = const.mean_and_difference(v)  # (2, G1, 2, G2, C)
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=v.dtype, device=v.device).view(2, 1, 2, 1, 1)
    factors = [factor.flatten(2, 3).flatten(0, 1).permute(2, 0, 1) for factor in (mean, difference * sign)]
    (down, across), (rows, columns) = const.source, const.target
    z = down @ preconv_fft.full_conv(x, weight, dilation, groups) @ across.T  # (N, C, 2 G1, 2 G2)
    swapped = z.roll((z.shape[2] // 2, z.shape[3] // 2), (2, 3))
    return rows.T @ (z * factors[0] + swapped * factors[1]) @ columns
