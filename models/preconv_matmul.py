"""ConvNorm's filtered convolution as matrix products: no spatial convolution, no FFT.

The same function as models/preconv_fft.py. With activations in channels_last, that is (N, H, W, C), it is

    rows   = D x                      along H, for all frequencies: one product for each image
    X(f)   = F rows                   along W, for one frequency of the rows at a time, from here
    A(f)   = K w                      the kernels' spectra, from their k * k taps
    Y(f)   = V(f) X(f) A(f)^T         one complex product (N x C_in) (C_in x C_out) for each frequency
    y_rows = F'^T Y                   back along W, the kept columns alone, to here
    y      = D'^T y_rows              back along H, the kept rows alone

with the constant real matrices D, F, K, F', D' of models/preconv_constants.py. Between the two stages along H it goes
frequency by frequency: the operands then fit a core's cache, and no spectrum is ever written out whole. The backward
pass is the same products transposed. It makes X anew rather than keep it, for a tenth of the layer's time, because kept
spectra would take more memory than the activations.

On channels_last strides every product reads and writes in place; other strides cost a copy on the way in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models import preconv_fft
from models.preconv_constants import Band, Constants, Geometry, Side, autocorrelation, constants

PIECE = 2**22  # elements of the spectra that are made at a time, on a CPU
KEPT_BYTES = 2**26  # of one layer's spectra; a whole ResNet18 of width 64 keeps 0.5 GB


def preconditioner(weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """V of `preconv_fft.preconditioner`, without transforming the kernels.

    sum_j |A_oj(f)|^2 is the DFT of the summed autocorrelation of channel o's kernels, that is of the diagonals of the
    Gram matrix G_o = sum_j vec(a_oj) vec(a_oj)^T, (k * k) x (k * k). The sum cancels near a spectral null, so it is
    done in float64, where its error is 1e-16 of the channel's largest power: for float32 kernels that is below the
    floor of `inverse_root`. Kernels in float64, and devices without float64, take the oracle's way.
    """
    if weight.shape[-1] == 1 or weight.dtype == torch.float64 or weight.device.type == "mps":
        return preconv_fft.preconditioner(weight, grid)
    return _inverse_root_of_gram(weight.detach(), *grid)


@torch.library.custom_op("convnorm::preconditioner", mutates_args=())
def _inverse_root_of_gram(weight: Tensor, p1: int, p2: int) -> Tensor:
    taps = weight.flatten(2).double()  # (C_out, C_in, k * k)
    gram = torch.bmm(taps.transpose(1, 2), taps).flatten(1)  # (C_out, k^4)
    lags, cosines = autocorrelation(weight.shape[-1], (p1, p2), weight.device)
    power = (gram @ lags @ cosines).view(-1, p1, p2 // 2 + 1)
    return preconv_fft.inverse_root(power, weight.dtype)


@_inverse_root_of_gram.register_fake
def _(weight: Tensor, p1: int, p2: int) -> Tensor:
    return weight.new_empty(weight.shape[0], p1, p2 // 2 + 1)


@torch.library.custom_op("convnorm::filtered_conv", mutates_args=())
def filtered_conv(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Tensor:
    """Steps 1, 3 and 4 of the layer, as `preconv_fft.filtered_conv`; the output's strides are channels_last.

    The products run in x's dtype. It is an operator of its own, so that torch.compile takes it as one node and
    FakeTensorMode knows its shape.
    """
    return forward(x, weight, v, stride, padding)


@torch.library.custom_op("convnorm::filtered_conv_backward", mutates_args=())
def filtered_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, need_x: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of `filtered_conv` with respect to x (empty unless `need_x`) and to weight, V held constant."""
    return backward(grad, x, weight, v, stride, padding, need_x)


def forward(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, prepared: Sequence[Tensor] | None = None
) -> Tensor:
    """The products of the module's docstring; `prepared` holds V(f) A(f) by band, (count, coefs, C_out, C_in)."""
    n, (c_out, c_in) = x.shape[0], weight.shape[:2]
    const = _constants(x, weight, stride, padding)
    kernels = _Kernels(weight, const.dtype, x.dtype)
    rows = _along_height(const.source, x)
    y_rows = _new_rows(const.target, rows, c_out)
    for number, band in enumerate(const.bands):
        scale = None if prepared is not None else _by_coefficient(v, band)
        spectra = kernels.whole(band) if prepared is None else prepared[number]
        for chunk in _chunks(number, band, x.device):
            x_hat = _narrowed(_along_width(const.source, rows, chunk), x.dtype)  # (coefs, N, C_in)
            y_hat = x.new_empty(chunk.coefs, n, c_out)
            source = chunk.gather(band.kernels if spectra is None else spectra)
            for piece in chunk.pieces(c_in * c_out, x.device):
                a_hat = [kernels.spectra(source[part]) if spectra is None else source[part] for part in piece]
                _bmm(_at(x_hat, piece), [a.mT for a in a_hat], _at(y_hat, piece))
            y_hat = y_hat.to(const.dtype)
            if scale is not None:
                y_hat *= chunk.gather(scale)
            _back_along_width(const.target, y_hat, chunk, y_rows)
    return _back_along_height(const.target, y_rows).to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, need_x: bool
) -> tuple[Tensor, Tensor]:
    n, (c_out, c_in) = x.shape[0], weight.shape[:2]
    const = _constants(x, weight, stride, padding)
    kernels = _Kernels(weight, const.dtype, x.dtype)
    rows, grad_rows = _along_height(const.source, x), _along_height(const.target, grad)
    x_rows = _new_rows(const.source, rows, c_in if need_x else 0)
    for number, band in enumerate(const.bands):
        scale = _by_coefficient(v, band)
        spectra = kernels.whole(band) if need_x else None
        for chunk in _chunks(number, band, x.device):
            x_hat = _narrowed(_along_width(const.source, rows, chunk), x.dtype)  # (coefs, N, C_in)
            y_hat = _along_width(const.target, grad_rows, chunk)  # (coefs, N, C_out)
            y_hat *= chunk.gather(scale)
            y_hat = _narrowed(y_hat, x.dtype)
            back = x.new_empty(chunk.coefs, n, c_in if need_x else 0)
            dft = chunk.gather(band.kernels)  # (coefs, k * k)
            source = dft if spectra is None else chunk.gather(spectra)
            for piece in chunk.pieces(c_in * c_out, x.device):
                y_piece = _at(y_hat, piece)
                if need_x:
                    a_hat = [kernels.spectra(source[part]) if spectra is None else source[part] for part in piece]
                    _bmm(y_piece, a_hat, _at(back, piece), conjugate=True)
                a_grad = [x.new_empty(len(y), c_out, c_in) for y in y_piece]
                _bmm([y.mT for y in y_piece], _at(x_hat, piece), a_grad, conjugate=True)
                for part, of_part in zip(piece, a_grad, strict=True):
                    kernels.add_gradient(dft[part], of_part)
            if need_x:
                _back_along_width(const.source, back.to(const.dtype), chunk, x_rows)
    grad_x = _back_along_height(const.source, x_rows).to(x.dtype) if need_x else x.new_empty(0)
    return grad_x, kernels.gradient()


class _Kernels:
    """The taps of all kernels; from them the spectra, in the products' dtype; and back to them the gradient."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, product_dtype: torch.dtype) -> None:
        self.weight, self.product_dtype = weight, product_dtype
        # (k * k, C_out * C_in), so that the spectra at any frequencies are one product
        self.taps = weight.to(dtype).flatten(2).permute(2, 0, 1).flatten(1)
        self.grad: Tensor | None = None

    def spectra(self, dft: Tensor) -> Tensor:
        """(coefs, k * k) -> (coefs, C_out, C_in)"""
        return (dft @ self.taps).to(self.product_dtype).unflatten(1, self.weight.shape[:2])

    def whole(self, band: Band) -> Tensor | None:
        """All spectra of a band at once, (count, coefs, C_out, C_in), or None where that is too much at a time."""
        count, coefs, _ = band.kernels.shape
        if self.taps.is_cpu and count * coefs * self.taps.shape[1] > PIECE:
            return None
        return self.spectra(band.kernels.flatten(0, 1)).unflatten(0, (count, coefs))

    def add_gradient(self, dft: Tensor, of_spectra: Tensor) -> None:
        if self.grad is None:
            self.grad = torch.zeros_like(self.taps)
        self.grad.addmm_(dft.T, of_spectra.flatten(1).to(self.taps.dtype))

    def gradient(self) -> Tensor:
        assert self.grad is not None
        c_out, c_in, k, _ = self.weight.shape
        return self.grad.view(k * k, c_out, c_in).permute(1, 2, 0).reshape(self.weight.shape).to(self.weight.dtype)


def prepare(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Callable[[Tensor], Tensor] | None:
    """`filtered_conv` for many inputs like x, with the preconditioned spectra made once; None if beyond KEPT_BYTES."""
    const = _constants(x, weight, stride, padding)
    coefs = sum(band.half_spectrum.numel() for band in const.bands)
    if coefs * weight.shape[0] * weight.shape[1] * x.element_size() > KEPT_BYTES:
        return None
    kernels, prepared = _Kernels(weight, const.dtype, const.dtype), []
    for band in const.bands:
        spectra = kernels.spectra(band.kernels.flatten(0, 1)).unflatten(0, band.half_spectrum.shape)
        spectra *= _by_coefficient(v, band).mT  # (count, coefs, C_out, 1)
        prepared.append(spectra.to(x.dtype))
    return lambda x: forward(x, weight, v, stride, padding, prepared)


def _by_coefficient(v: Tensor, band: Band) -> Tensor:
    """V of a half spectrum (C_out, P1, P2 // 2 + 1) at a band's coefficients, (count, coefs, 1, C_out)."""
    return v.flatten(1).T[band.half_spectrum].unsqueeze(2)


@dataclass(frozen=True)
class _Chunk:
    """Some items of a band that are computed together, from item `start` on: one on a CPU, all on a GPU."""

    number: int  # of the band
    band: Band
    start: int
    count: int

    @property
    def first_row(self) -> int:
        return self.band.first + self.start * self.band.rows

    @property
    def coefs(self) -> int:
        return self.count * (self.band.real + 2 * self.band.pairs)

    def gather(self, by_item: Tensor) -> Tensor:
        """(items of the band, coefs of one, ...) -> (coefs of the chunk, ...): real ones, real and imaginary parts."""
        return _parted(by_item[self.start : self.start + self.count])

    def pieces(self, channels: int, device: torch.device) -> Iterator[tuple[slice, ...]]:
        """The chunk's real coefficients, then pairs of (real parts, imaginary parts) whose spectra fit the cache."""
        real, pairs = self.band.real, self.count * self.band.pairs
        if real:
            yield (slice(0, real),)
        step = max(1, PIECE // (2 * channels)) if device.type == "cpu" else max(1, pairs)
        for low in range(real, real + pairs, step):
            high = min(low + step, real + pairs)
            yield slice(low, high), slice(low + pairs, high + pairs)


def _chunks(number: int, band: Band, device: torch.device) -> Iterator[_Chunk]:
    count = 1 if device.type == "cpu" else band.count
    for start in range(0, band.count, count):
        yield _Chunk(number, band, start, count)


def _along_height(side: Side, images: Tensor) -> Tensor:
    """(N, C, height, width) -> rows (N, P1, width, C), or where there is no such stage, (N, height, width, C)."""
    images = images.permute(0, 2, 3, 1).contiguous().to(side.dtype)  # no copy of float32 on channels_last strides
    if side.down is None:
        return images
    n, height, width, channels = images.shape
    return _left(side.down, images.view(n, height, width * channels)).view(n, len(side.down), width, channels)


def _along_width(side: Side, rows: Tensor, chunk: _Chunk) -> Tensor:
    """Rows (N, P1, width, C) -> the chunk's coefficients (coefs, N, C)."""
    n, _, width, channels = rows.shape
    matrix = side.across[chunk.number]
    taken = rows[:, chunk.first_row :][:, : chunk.count * matrix.shape[1] // width]
    taken = taken.reshape(n, chunk.count, matrix.shape[1], channels)
    if chunk.count == 1:
        return _left(matrix, taken[:, 0]).transpose(0, 1)
    return _parted(torch.matmul(matrix, taken).permute(1, 2, 0, 3))


def _new_rows(side: Side, like: Tensor, channels: int) -> Tensor:
    """Rows to be written: a plane for each (P1, N, width, C), since bmm is fastest into contiguous memory."""
    if side.down is None:
        return like.new_empty(1, like.shape[0], side.height * side.width, channels)
    return like.new_empty(side.down.shape[0], like.shape[0], side.width, channels)


def _back_along_width(side: Side, spectrum: Tensor, chunk: _Chunk, rows: Tensor) -> None:
    """The transpose of `_along_width`, into `rows`."""
    back = side.across[chunk.number].T  # (rows * width, coefs)
    if chunk.count == 1:
        for row, matrix in zip(rows[chunk.first_row :], back.view(-1, rows.shape[2], back.shape[1]), strict=False):
            _left(matrix, spectrum.transpose(0, 1), out=row)
        return
    by_item = _unparted(spectrum, chunk.count).permute(2, 0, 1, 3)  # (N, count, coefs, C)
    n, width, channels = rows.shape[1:]
    images = torch.matmul(back, by_item).view(n, chunk.count * len(back) // width, width, channels)
    rows[chunk.first_row :][: images.shape[1]] = images.transpose(0, 1)


def _back_along_height(side: Side, rows: Tensor) -> Tensor:
    """The transpose of `_along_height`: (N, C, height, width), with channels_last strides."""
    p1, n, width, channels = rows.shape
    images = rows[0] if side.down is None else _left(side.down.T, rows.view(p1, n, width * channels).transpose(0, 1))
    return images.view(n, side.height, side.width, channels).permute(0, 3, 1, 2)


def _parted(by_item: Tensor) -> Tensor:
    """(count, 2 * pairs, ...) -> (2 * count * pairs, ...): all items' real parts, then all imaginary parts.

    A band of several items has no real coefficients, and a single item is in that order already.
    """
    if by_item.shape[0] == 1:
        return by_item[0]
    return by_item.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2)


def _unparted(parted: Tensor, count: int) -> Tensor:
    return parted.unflatten(0, (2, count, -1)).transpose(0, 1).flatten(1, 2)


def _narrowed(spectrum: Tensor, dtype: torch.dtype) -> Tensor:
    """The operand of a product, in its dtype: a float32 one as it lies, a narrower one copied to be contiguous."""
    return spectrum if spectrum.dtype == dtype else spectrum.to(dtype, memory_format=torch.contiguous_format)


def _left(matrix: Tensor, batch: Tensor, out: Tensor | None = None) -> Tensor:
    """matrix (m, k) @ batch (N, k, n) for every one of the batch."""
    return torch.bmm(matrix.expand(batch.shape[0], -1, -1), batch, out=out)


Parts = Sequence[Tensor]  # a real tensor, or the real and the imaginary part of a complex one


def _at(spectrum: Tensor, piece: tuple[slice, ...]) -> Parts:
    return [spectrum[part] for part in piece]


def _bmm(a: Parts, b: Parts, out: Parts, *, conjugate: bool = False) -> None:
    """a b, or a conj(b), for every frequency, into `out`."""
    torch.bmm(a[0], b[0], out=out[0])
    if len(a) == 2:
        sign = -1 if conjugate else 1
        out[0].baddbmm_(a[1], b[1], alpha=-sign)
        torch.bmm(a[1], b[0], out=out[1])
        out[1].baddbmm_(a[0], b[1], alpha=sign)


def _constants(x: Tensor, weight: Tensor, stride: int, padding: int) -> Constants:
    """For products in bfloat16 the transforms stay in float32: they take little of the time and all of the range."""
    geometry = Geometry(x.shape[2], x.shape[3], weight.shape[-1], stride, padding)
    return constants(geometry, torch.promote_types(x.dtype, torch.float32), x.device)


@filtered_conv.register_fake
def _(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Tensor:
    height, width = Geometry(x.shape[2], x.shape[3], weight.shape[-1], stride, padding).out
    return x.new_empty(x.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2)


@filtered_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, need_x: bool
) -> tuple[Tensor, Tensor]:
    n, channels, height, width = x.shape
    grad_x = x.new_empty(n, height, width, channels).permute(0, 3, 1, 2) if need_x else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.stride, ctx.padding = inputs[: 6 if len(inputs) > 5 else 5]
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    x, weight, v = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_weight = filtered_conv_backward(grad, x, weight, v, ctx.stride, ctx.padding, need_x)
    return grad_x if need_x else None, grad_weight, None, None, None


def _second_gradients(ctx: Any, of_x: Tensor, of_weight: Tensor) -> tuple[Tensor | None, ...]:
    """Of `filtered_conv_backward`, whose forward is linear in x and in weight: the same two operators again."""
    grad, x, weight, v = ctx.saved_tensors
    rest = (v, ctx.stride, ctx.padding)
    of_x = of_x if of_x.numel() else torch.zeros_like(x)
    of_grad = filtered_conv(of_x, weight, *rest) + filtered_conv(x, of_weight, *rest)
    onto_x, _ = filtered_conv_backward(grad, x, of_weight, *rest, True)
    _, onto_weight = filtered_conv_backward(grad, of_x, weight, *rest, False)
    return of_grad, onto_x, onto_weight, None, None, None, None


filtered_conv.register_autograd(_gradients, setup_context=_keep)
filtered_conv_backward.register_autograd(_second_gradients, setup_context=_keep)
