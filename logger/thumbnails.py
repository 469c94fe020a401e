"""Small pictures in rows, each with the class that it was given or taken for; wrong ones have a frame."""

import io
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.text import visible

ACROSS = 6  # pictures in a row: TensorBoard's cards are some 400 pixels wide
MOST = 30  # pictures
_SIDE, _GAP, _LINE, _FRAME = 60, 6, 13, 2  # pixels
_LONGEST = 11  # characters of a class's name
_RED, _BLACK, _WHITE = (200, 30, 30), (0, 0, 0), (255, 255, 255)


def thumbnails(images: Tensor, named: Tensor, true: Tensor, classes: Sequence[str]) -> bytes:
    """A PNG of up to MOST images uint8 (N, 3, H, W), with the class `named` for each, int64 (N,).

    Where that is not the `true` class, the image has a red frame, and a second line says what it is. A class may be an
    output of the network beyond `classes`.
    """
    count = min(len(images), MOST)
    rows = -(-count // ACROSS)
    width, height = _SIDE + _GAP, _SIDE + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (ACROSS * width + _GAP, rows * height + _GAP), _WHITE)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    mode = "nearest" if images.shape[2] <= _SIDE else "area"  # nearest would leave pixels out
    shown = F.interpolate(images[:count].float(), size=(_SIDE, _SIDE), mode=mode).byte().permute(0, 2, 3, 1).cpu()
    for at, (pixels, says, is_) in enumerate(zip(shown.numpy(), named.tolist(), true.tolist(), strict=False)):
        left, top = _GAP + at % ACROSS * width, _GAP + at // ACROSS * height
        sheet.paste(Image.fromarray(pixels), (left, top))
        lines = [_name(says, classes)] if says == is_ else [_name(says, classes), f"is {_name(is_, classes)}"]
        colour = _BLACK if says == is_ else _RED
        if says != is_:
            edge = (left - _FRAME, top - _FRAME, left + _SIDE + _FRAME - 1, top + _SIDE + _FRAME - 1)
            pen.rectangle(edge, outline=_RED, width=_FRAME)
        for line, text in enumerate(lines):
            pen.text((left, top + _SIDE + 1 + line * _LINE), text, colour, font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def spread_over(images: int, most: int) -> Tensor:
    """Up to `most` positions, evenly spread over so many images: int64 (M,)."""
    return torch.linspace(0, images - 1, min(images, most)).round().long()


def _name(number: int, classes: Sequence[str]) -> str:
    return visible(classes[number], _LONGEST) if number < len(classes) else f"output {number}"
