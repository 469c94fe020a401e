"""Multiply-adds of ConvNorm's matrix products beside those of the plain convolutions: python -m benchmarks.floor

Counted from the matrices that the layer really uses, for ResNet18 of width 64 on 32x32 images, for each image. A lower
bound of the time: it leaves out all that is not a product (copies, V, the kernels' spectra, the affine part).
"""

from dataclasses import dataclass

import torch

from models.preconv_constants import Geometry, constants


@dataclass(frozen=True)
class Layer:
    c_in: int
    c_out: int
    size: int
    stride: int
    count: int

    def plain(self) -> int:
        height, width = Geometry(self.size, self.size, 3, self.stride, 1).out
        return 9 * self.c_in * self.c_out * height * width

    def counts(self) -> tuple[int, int, int]:
        """Of the frequency products, of the input's transform, and of the output's."""
        geometry = Geometry(self.size, self.size, 3, self.stride, 1)
        const = constants(geometry, torch.float32, torch.device("cpu"))
        products = sum(block.real + 4 * block.pairs for block in const.blocks)
        # what takes one channel of an image to its coefficients: the stage along H, then those along W
        into, out = (
            (0 if down is None else down.numel() * width) + sum(block.items * matrix.numel() for block, matrix in along)
            for down, width, along in (
                (const.source, geometry.width, [(block, block.source) for block in const.blocks]),
                (const.target, geometry.out[1], [(block, block.target) for block in const.blocks]),
            )
        )
        return products * self.c_in * self.c_out, into * self.c_in, out * self.c_out


LAYERS = [
    Layer(3, 64, 32, 1, 1),
    Layer(64, 64, 32, 1, 4),
    Layer(64, 128, 32, 2, 1),
    Layer(128, 128, 16, 1, 3),
    Layer(128, 256, 16, 2, 1),
    Layer(256, 256, 8, 1, 3),
    Layer(256, 512, 8, 2, 1),
    Layer(512, 512, 4, 1, 3),
]


def main() -> None:
    print("Million multiply-adds for each image; ratios are ours / plain.\n")
    print("| layer | how many | plain, forward | products | transforms | forward | forward and backward |")
    print("|---|---|---|---|---|---|---|")
    plain_sum, ours_sum, forward_sum, plain_forward = 0, 0, 0, 0
    for layer in LAYERS:
        plain = layer.plain()
        products, into, out = layer.counts()
        first = layer.c_in == 3  # the images want no gradient
        plain_both = plain * (2 if first else 3)
        # backward: the input's transform again, the gradient's, and the one back; a product for each gradient
        both = (products + into + out) + (products + into + out if first else 2 * products + 2 * into + out)
        name = f"{layer.c_in} > {layer.c_out}, {layer.size}x{layer.size}" + (", stride 2" if layer.stride == 2 else "")
        figures = [plain, products, into + out]
        cells = [f"{figure / 1e6:.1f}" for figure in figures]
        ratios = [f"{(products + into + out) / plain:.2f}", f"{both / plain_both:.2f}"]
        print(f"| {name} | {layer.count} | " + " | ".join(cells + ratios) + " |")
        plain_sum += layer.count * plain_both
        ours_sum += layer.count * both
        forward_sum += layer.count * sum((products, into, out))
        plain_forward += layer.count * plain
    print(
        f"| all | 17 | {plain_forward / 1e6:.0f} | | | {forward_sum / plain_forward:.2f} | {ours_sum / plain_sum:.2f} |"
    )


if __name__ == "__main__":
    main()
