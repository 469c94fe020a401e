"""ConvNorm's filtered convolution as matrix products: no spatial convolution, no FFT.

It is the same function as preconv_fft.py. `forward` below computes, with activations in channels_last, (N, H, W, C),

    rows   = D x                      along H, for all frequencies: one product for each image
    X(f)   = F rows                   along W, block by block from this line on
    A(f)   = K w                      the kernels' spectra, from their k * k taps
    Y(f)   = V(f) X(f) A(f)^T         one complex product (N x C_in) (C_in x C_out) for each frequency
    y_rows = F'^T Y                   back along W, the kept columns only; block by block up to this line
    y      = D'^T y_rows              back along H, the kept rows only

with the constant real matrices D, F, K, F', D' of preconv_constants.py, which also defines a block of frequencies.
Block by block, the operands fit a core's cache, and no whole spectrum is ever written out. The backward pass is the
same products transposed. It recomputes X, for a tenth of the layer's time, because kept spectra would take more memory
than the activations.

Complex numbers are stored as real ones: first the real coefficients, then real parts, then imaginary parts. On
channels_last strides every product reads and writes in place; other strides cost a copy of the input.

preconv_operators.py registers `forward` and `backward` with autograd, torch.func and torch.compile.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from . import preconv_fft
from .preconv_constants import Block, Constants, Geometry, autocorrelation, constants, left
from .preconv_kept import KeptFilter

PIECE = 2**22  # elements of the kernels' spectra that a CPU makes at a time
KEPT_BYTES = 2**26  # largest kept spectra of one layer; a ResNet18 of width 64 keeps 0.5 GB


def forward(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, kept: Tensor | None = None) -> Tensor:
    """The filtered convolution (N, C_in, H, W) -> (N, C_out, H', W') by the products in the module's docstring.

    `kept`, if given, is V(f) A(f) of all coefficients, (P1 * P2, C_out, C_in), made from `weight` and `v`.
    """
    geometry, const = _constants(x, weight, stride, padding)
    c_out, c_in = weight.shape[:2]
    taps = _taps(weight, const.dtype) if kept is None else weight  # not used if spectra are kept
    spectra = _few_spectra(const, taps, weight, x.dtype) if kept is None else kept
    scale = _scale(v, const) if kept is None else None
    rows = _along_height(const.source, x, const.dtype)
    y_rows = _new_rows(const.target, rows, geometry.out, c_out)
    for block in const.blocks:
        x_hat = _narrowed(_along_width(block.source, rows, block), x.dtype)  # (coefs, N, C_in)
        y_hat = x_hat.new_empty(*x_hat.shape[:2], c_out)
        for piece in _pieces(block, c_out * c_in, x.device):
            if spectra is None:
                a_hat = [_spectra(dft, taps, weight, x.dtype) for dft in _at(const.kernels[block.coefs], piece)]
            else:
                a_hat = _at(spectra[block.coefs], piece)
            _product(_at(x_hat, piece), [a.mT for a in a_hat], _at(y_hat, piece))
        y_hat = y_hat.to(const.dtype)
        if scale is not None:
            y_hat *= scale[block.coefs]
        _back_along_width(block.target, y_hat, block, y_rows)
    return _back_along_height(const.target, y_rows, geometry.out).to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, need_x: bool, samples: int
) -> tuple[Tensor, Tensor]:
    """Gradients of `forward` with respect to x (empty unless `need_x`) and to weight, with V constant.

    The images belong to `samples` samples, one after another. Each sample has its own gradient to weight:
    (samples * C_out, C_in, k, k).
    """
    geometry, const = _constants(x, weight, stride, padding)
    c_out, c_in = weight.shape[:2]
    taps, scale = _taps(weight, const.dtype), _scale(v, const)
    spectra = _few_spectra(const, taps, weight, x.dtype) if need_x else None
    grad_weight = taps.new_zeros(samples * c_out, *weight.shape[1:])
    taps_grad = _taps(grad_weight, const.dtype)  # a view
    rows, grad_rows = (_along_height(*of, const.dtype) for of in ((const.source, x), (const.target, grad)))
    x_rows = _new_rows(const.source, rows, (geometry.height, geometry.width), c_in if need_x else 0)
    for block in const.blocks:
        x_hat = _narrowed(_along_width(block.source, rows, block), x.dtype)  # (coefs, N, C_in)
        y_hat = _along_width(block.target, grad_rows, block)  # (coefs, N, C_out)
        y_hat *= scale[block.coefs]
        y_hat = _narrowed(y_hat, x.dtype)
        back = x_hat.new_empty(*x_hat.shape[:2], c_in if need_x else 0)
        for piece in _pieces(block, c_out * c_in, x.device):
            y_part, dfts = _at(y_hat, piece), _at(const.kernels[block.coefs], piece)
            if need_x:
                if spectra is None:
                    a_hat = [_spectra(dft, taps, weight, x.dtype) for dft in dfts]
                else:
                    a_hat = _at(spectra[block.coefs], piece)
                _product(y_part, a_hat, _at(back, piece), conjugate=True)
            if samples > 1:
                taps_grad += _taps_gradient_by_sample(dfts, y_part, _at(x_hat, piece), samples)
                continue
            a_grad = [x_hat.new_empty(len(dft), c_out, c_in) for dft in dfts]
            _product([y.mT for y in y_part], _at(x_hat, piece), a_grad, conjugate=True)
            for dft, part in zip(dfts, a_grad, strict=True):
                taps_grad.addmm_(dft.T, part.flatten(1).to(const.dtype))
        if need_x:
            _back_along_width(block.source, back.to(const.dtype), block, x_rows)
    size = (geometry.height, geometry.width)
    grad_x = _back_along_height(const.source, x_rows, size).to(x.dtype) if need_x else x.new_empty(0)
    return grad_x, grad_weight.to(weight.dtype)


def prepare(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> KeptFilter | None:
    """`forward` for many inputs like x, with the preconditioned spectra made once; None if they exceed KEPT_BYTES."""
    _, const = _constants(x, weight, stride, padding)
    if len(const.kernels) * weight.shape[0] * weight.shape[1] * x.element_size() > KEPT_BYTES:
        return None
    kept = _spectra(const.kernels, _taps(weight, const.dtype), weight, const.dtype)
    kept *= _scale(v, const).mT
    kept = kept.to(x.dtype)
    return lambda x, weight: forward(x, weight, v, stride, padding, kept)


# --- the steps of the products ---------------------------------------------------------------------------------------


def _constants(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Geometry, Constants]:
    """The geometry and its constants, at least float32: the transforms of bfloat16 products stay in float32."""
    geometry = Geometry(x.shape[2], x.shape[3], weight.shape[-1], stride, padding)
    return geometry, constants(geometry, torch.promote_types(x.dtype, torch.float32), x.device)


def _along_height(down: Tensor | None, images: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C, H, W) -> rows (N, P1, W, C), or one row of all pixels, (N, 1, H * W, C), if `down` is None."""
    images = images.permute(0, 2, 3, 1).contiguous().to(dtype)  # no copy of float32 on channels_last strides
    n, height, width, channels = images.shape
    if down is None:
        return images.view(n, 1, height * width, channels)
    return left(down, images.view(n, height, width * channels)).view(n, len(down), width, channels)


def _along_width(across: Tensor, rows: Tensor, block: Block) -> Tensor:
    """Rows (N, P1, W, C) -> the block's coefficients (coefs, N, C)."""
    taken = rows[:, block.rows]
    n, _, _, channels = taken.shape
    taken = left(across, taken.reshape(n * block.items, across.shape[1], channels))
    if block.items == 1:
        return taken.transpose(0, 1)
    return taken.view(n, block.items, 2, -1, channels).permute(2, 1, 3, 0, 4).flatten(0, 2)


def _new_rows(down: Tensor | None, like: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """Empty rows (P1, N, W, C): a plane for each, since bmm is fastest into contiguous memory."""
    return like.new_empty(like.shape[1], len(like), size[1] if down is not None else size[0] * size[1], channels)


def _back_along_width(across: Tensor, spectrum: Tensor, block: Block, rows: Tensor) -> None:
    """The transpose of `_along_width`, written into the block's rows of `rows` (P1, N, W, C)."""
    rows = rows[block.rows]
    if block.items == 1:
        for row, back in zip(rows, across.T.view(len(rows), rows.shape[2], -1), strict=True):
            left(back, spectrum.transpose(0, 1), out=row)
        return
    by_item = spectrum.unflatten(0, (2, block.items, -1)).permute(3, 1, 0, 2, 4)  # (N, items, re and im, P2, C)
    images = left(across.T, by_item.reshape(-1, across.shape[0], spectrum.shape[-1]))  # (N * items, rows * W, C)
    rows.copy_(images.view(spectrum.shape[1], len(rows), rows.shape[2], -1).transpose(0, 1))


def _back_along_height(down: Tensor | None, rows: Tensor, size: tuple[int, int]) -> Tensor:
    """The transpose of `_along_height`: (N, C, H, W), with channels_last strides."""
    p1, n, width, channels = rows.shape
    images = rows[0] if down is None else left(down.T, rows.view(p1, n, width * channels).transpose(0, 1))
    return images.view(n, *size, channels).permute(0, 3, 1, 2)


def _taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(k * k, C_out * C_in), so that the kernels' spectra at any frequencies are one product."""
    return weight.to(dtype).flatten(2).permute(2, 0, 1).flatten(1)


def _spectra(dft: Tensor, taps: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(coefs, k * k) -> (coefs, C_out, C_in), in the products' dtype."""
    return (dft @ taps).to(dtype).unflatten(1, weight.shape[:2])


def _few_spectra(const: Constants, taps: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The kernels' spectra at all coefficients in one product, or None if they exceed PIECE on a CPU."""
    few = not taps.is_cpu or len(const.kernels) * taps.shape[1] <= PIECE
    return _spectra(const.kernels, taps, weight, dtype) if few else None


def _scale(v: Tensor, const: Constants) -> Tensor:
    """V of a half spectrum (C_out, P1, P2 // 2 + 1) at every coefficient, (P1 * P2, 1, C_out)."""
    return v.flatten(1).T[const.half_spectrum].unsqueeze(1)


def _pieces(block: Block, kernels: int, device: torch.device) -> Iterator[tuple[slice, ...]]:
    """Slices of a block: the real coefficients, then (real parts, imaginary parts) of as many pairs as fit PIECE."""
    real, pairs = block.real, block.pairs
    if real:
        yield (slice(0, real),)
    step = max(1, PIECE // (2 * kernels) if device.type == "cpu" else pairs)
    for low in range(real, real + pairs, step):
        high = min(low + step, real + pairs)
        yield slice(low, high), slice(low + pairs, high + pairs)


def _at(spectrum: Tensor, piece: tuple[slice, ...]) -> list[Tensor]:
    return [spectrum[part] for part in piece]


def _product(a: Sequence[Tensor], b: Sequence[Tensor], out: Sequence[Tensor], *, conjugate: bool = False) -> None:
    """Write a b, or a conj(b), into `out` for every frequency; each is [real], or [re, im] of a complex tensor."""
    torch.bmm(a[0], b[0], out=out[0])
    if len(a) == 2:
        sign = -1 if conjugate else 1
        out[0].baddbmm_(a[1], b[1], alpha=-sign)
        torch.bmm(a[1], b[0], out=out[1])
        out[1].baddbmm_(a[0], b[1], alpha=sign)


def _taps_gradient_by_sample(dft: Sequence[Tensor], y: Sequence[Tensor], x: Sequence[Tensor], samples: int) -> Tensor:
    """(k * k, samples * C_out * C_in): the sum over a piece's frequencies and a sample's images of conj(K) Y conj(X).

    A sample has few images, often one, so a product over its images for each frequency would be tiny. Instead, K
    multiplies Y first, for each tap, and then one product for each sample sums over frequencies and images.
    """
    k_hat = [part.T[:, :, None, None] for part in dft]  # (k * k, coefs, 1, 1)
    both = [k_hat[0] * y[0]]  # (k * k, coefs, N, C_out)
    if len(y) == 2:
        both = [both[0] + k_hat[1] * y[1], k_hat[0] * y[1] - k_hat[1] * y[0]]
    of_y, of_x = (torch.cat(list(parts), dim=-3).unflatten(-2, (samples, -1)) for parts in (both, x))
    of_y, of_x = of_y.permute(0, 2, 4, 1, 3).flatten(3), of_x.transpose(0, 1).flatten(1, 2)
    return torch.matmul(of_y, of_x.to(of_y.dtype)).flatten(1)


def _narrowed(spectrum: Tensor, dtype: torch.dtype) -> Tensor:
    """The operand of a product in `dtype`: unchanged if it has that dtype, otherwise a contiguous copy."""
    return spectrum if spectrum.dtype == dtype else spectrum.to(dtype, memory_format=torch.contiguous_format)


# --- V ---------------------------------------------------------------------------------------------------------------


def inverse_root_of_gram(weight: Tensor, p1: int, p2: int, dilation: int = 1) -> Tensor:
    """V (C_out, P1, P2 // 2 + 1) of kernels narrower than float64, without transforming them.

    sum_j |A_oj(f)|^2 is the DFT of the summed autocorrelation of channel o's kernels. The Gram matrix
    G_o = sum_j vec(a_oj) vec(a_oj)^T, (k * k) x (k * k), contains that autocorrelation as sums over its entries at
    each lag. Near a spectral null the terms cancel, so the sum is in float64. There its error is 1e-16 of the channel's
    largest power, which is below the floor of `inverse_root` for float32 kernels.
    """
    taps = weight.flatten(2).double()  # (C_out, C_in, k * k)
    gram = torch.bmm(taps.transpose(1, 2), taps).flatten(1)  # (C_out, k^4)
    lags, cosines = autocorrelation(weight.shape[-1], (p1, p2), dilation, weight.device)
    power = (gram @ lags @ cosines).view(-1, p1, p2 // 2 + 1)
    return preconv_fft.inverse_root(power, weight.dtype)
