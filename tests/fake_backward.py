"""Backward through a graph of fake CUDA tensors where there is no CUDA device.

Autograd's engine asks the driver for the context of each device in the graph, even of fake tensors, and fails without
a GPU. Its nodes are callable, so this walks them itself.
"""

from typing import Any

import torch
from torch import Tensor


def backward(loss: Tensor) -> dict[int, Tensor]:
    """Gradient of the scalar `loss` for each leaf that requires one, by the leaf's id()."""
    root = loss.grad_fn
    assert root is not None
    waiting = _count_users(root)
    arrived: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    leaves: dict[int, Tensor] = {}
    ready = [root]
    while ready:
        node = ready.pop()
        grads = arrived.pop(node)
        if hasattr(node, "variable"):  # AccumulateGrad
            assert grads[0] is not None
            assert grads[0].shape == node.variable.shape
            leaves[id(node.variable)] = grads[0]
            continue
        apply: Any = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
        results = apply(*grads)
        results = results if isinstance(results, tuple) else (results,)
        for (child, slot), grad in zip(node.next_functions, results, strict=False):
            if child is None:
                continue
            slots = arrived.setdefault(child, [None] * len(child._input_metadata))
            if grad is not None:
                grad = grad.sum_to_size(child._input_metadata[slot].shape)  # as the engine does for broadcast inputs
                before = slots[slot]
                slots[slot] = grad if before is None else before + grad
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    return leaves


def _count_users(root: Any) -> dict[Any, int]:
    counts: dict[Any, int] = {root: 0}
    stack = [root]
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None:
                if child not in counts:
                    counts[child] = 0
                    stack.append(child)
                counts[child] += 1
    return counts
