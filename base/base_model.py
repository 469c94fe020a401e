"""The interface of a model."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class BaseModel(nn.Module, ABC):
    """A classifier of images: (N, 3, H, W) float -> (N, num_classes) logits."""

    head: nn.Module  # the last layer, from features to logits; other classes need another one

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    def parameter_count(self) -> int:
        """Number of trainable scalars."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups. Parameters that their module names in `no_weight_decay` get no weight decay."""
        exempt = {
            id(parameter)
            for module in self.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if name in getattr(module, "no_weight_decay", ())
        }
        decayed = [p for p in self.parameters() if id(p) not in exempt]
        plain = [p for p in self.parameters() if id(p) in exempt]
        groups = [{"params": decayed, "weight_decay": weight_decay}]
        return [*groups, {"params": plain, "weight_decay": 0.0}] if plain else groups
