"""The images over which BatchNorm takes its statistics when several processes share each batch."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import ConfigError
from utils.optional import needed

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def share_statistics(model: nn.Module, wanted: bool, device: torch.device, processes: int) -> list[str]:
    """Replace every BatchNorm in `model` by torch's SyncBatchNorm if that is `wanted` and there are several processes.
    Parameters and buffers stay the same objects, and their names stay. Returns what the user should be told.

    Raises:
        ConfigError: it is wanted, and `device` is no CUDA device.
    """
    if processes == 1:
        return ["trainer.sync_batch_norm has no effect: there is one process"] if wanted else []
    if not wanted:
        has_any = any(isinstance(module, _BatchNorm) for module in model.modules())
        said = f"each of the {processes} processes takes BatchNorm's statistics over its own share of the batch"
        return [f"{said}; trainer.sync_batch_norm=true takes them over the whole batch (CUDA)"] if has_any else []
    if device.type != "cuda":
        raise ConfigError(f"trainer.sync_batch_norm: torch's SyncBatchNorm needs CUDA, and this run is on {device}")
    if any(isinstance(module, _BatchNorm) and type(module) not in _PLAIN for module in model.modules()):
        # timm's BatchNorm has an activation in it, which torch's own conversion would drop
        needed("timm.layers", "trainer.sync_batch_norm in a network of timm's").convert_sync_batchnorm(model)
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return []
