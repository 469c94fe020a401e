"""Decides whether the images of a dataset are kept in memory."""

from dataclasses import dataclass

import torch

from utils.memory import available_memory

_BYTES = 7  # for a pixel: 3 as decoded, 4 as the loaders keep it
_SHARE = 0.5  # of what is available; the network, and all else on the machine, have the rest


@dataclass(frozen=True)
class Room:
    """`asked` is data_loader.args.in_memory. Each of the `processes`, which may all be on this machine, keeps all
    images, and on a GPU they lie in its memory too."""

    asked: bool | None = True
    processes: int = 1
    device: torch.device | None = None

    def holds(self, images: int, height: int, width: int) -> bool:
        """Whether so many images are to be kept in memory."""
        if self.asked is not None:
            return self.asked
        needed = images * height * width * _BYTES
        fits = needed * self.processes <= _SHARE * available_memory()
        if self.device is not None and self.device.type == "cuda":
            fits = fits and needed <= _SHARE * torch.cuda.mem_get_info(self.device)[0]
        return fits
