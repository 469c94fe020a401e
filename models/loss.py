"""Training losses: (N, C) logits and int64 (N,) targets -> the mean over the batch, a scalar."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from config_schema import GCE, MAE, SCE, CrossEntropy, Loss, SmoothedCrossEntropy
from utils.errors import ConfigError

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, with label smoothing (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567), a common answer to
    label noise. With `weights` (C,) it is the weighted mean."""
    weights = None if weights is None else weights.to(logits)
    return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)


def gce(logits: Tensor, targets: Tensor, q: float) -> Tensor:
    """Generalised cross-entropy (Zhang & Sabuncu 2018, https://arxiv.org/abs/1805.07836): (1 - p^q) / q of the
    target's probability p."""
    return -torch.expm1(q * _log_share(logits, targets)).mean() / q


def sce(logits: Tensor, targets: Tensor, alpha: float, beta: float, log_of_zero: float) -> Tensor:
    """Symmetric cross-entropy (Wang et al. 2019, https://arxiv.org/abs/1908.06112). In the reverse cross-entropy each
    class but the target counts `log_of_zero` times its probability."""
    log_share = _log_share(logits, targets)
    return (-alpha * log_share + beta * log_of_zero * torch.expm1(log_share)).mean()


def mae(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over the classes of the distance between probability and target (Ghosh et al. 2017,
    https://arxiv.org/abs/1712.09482): 2 (1 - p) of the target's probability p."""
    return -2.0 * torch.expm1(_log_share(logits, targets)).mean()


def _log_share(logits: Tensor, targets: Tensor) -> Tensor:
    """The logarithm of each target's probability (N,). expm1 of it keeps its digits where the probability nears 1."""
    return logits.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)


def class_weights(
    asked: Literal["balanced"] | Sequence[float] | None, labels: Tensor | None, outputs: int | None
) -> Tensor | None:
    """The weights (C,) of the classes, on the device of `labels`, which are those of the training images.

    "balanced" is the number of labels over that of the classes which have any and over that of the class's labels; a
    class without labels gets 0.

    Raises:
        ConfigError: there are more or fewer weights than `outputs`, or no labels to balance.
    """
    if asked is None:
        return None
    if asked == "balanced":
        if labels is None or len(labels) == 0:
            raise ConfigError("loss.args.class_weights: there are no training labels to balance")
        counts = labels.bincount(minlength=outputs or 0).float()
        present = counts > 0
        return torch.where(present, len(labels) / (present.sum() * counts), 0.0)
    if outputs is not None and len(asked) != outputs:
        raise ConfigError(f"loss.args.class_weights: {len(asked)} weights for {outputs} classes; give one for each")
    return torch.tensor(asked, device=None if labels is None else labels.device)


def build_loss(loss: Loss, labels: Tensor | None = None, outputs: int | None = None) -> Criterion:
    """The criterion of a network of so many `outputs` that is trained on `labels` (N,), on their device.

    Raises:
        ConfigError: the weights of the classes do not fit.
    """
    match loss:
        case CrossEntropy():
            weights = class_weights(loss.args.class_weights, labels, outputs)
            return partial(cross_entropy, smoothing=loss.args.label_smoothing, weights=weights)
        case SmoothedCrossEntropy():
            return partial(cross_entropy, smoothing=loss.args.smoothing)
        case GCE():
            return partial(gce, q=loss.args.q)
        case SCE():
            return partial(sce, alpha=loss.args.alpha, beta=loss.args.beta, log_of_zero=loss.args.A)
        case MAE():
            return mae
