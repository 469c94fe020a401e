"""The interface of a model."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class BaseModel(nn.Module, ABC):
    """A classifier of images: (N, 3, H, W) float -> (N, num_classes) logits."""

    #: The paths of the layers from features to logits: other classes need others.
    head_paths: tuple[str, ...] = ("head",)
    #: Lines for the user about how the network was built.
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    def parameter_count(self) -> int:
        """Number of trainable scalars."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups. Parameters that a module names in `no_weight_decay` get no weight decay.

        In timm's networks that is a method, and the names may be paths.
        """
        exempt: set[int] = set()
        for module in self.modules():
            names: Any = getattr(module, "no_weight_decay", ())
            names = set(names() if callable(names) else names)
            exempt |= {id(each) for name, each in module.named_parameters() if names and name in names}
        decayed = [p for p in self.parameters() if id(p) not in exempt]
        plain = [p for p in self.parameters() if id(p) in exempt]
        groups = [{"params": decayed, "weight_decay": weight_decay}]
        return [*groups, {"params": plain, "weight_decay": 0.0}] if plain else groups
