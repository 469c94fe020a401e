"""torch's SyncBatchNorm on the CPU, which has no kernels for it: plain ones, for tests."""

import functools
from unittest import mock

import torch
from torch import Tensor, nn

import trainer.trainer

_kept: list[torch.library.Library] = []  # a library that is collected takes its kernels along


def sync_batch_norm_on_cpu() -> None:
    """In this process, give torch the kernels and the trainer leave to use them."""
    library = torch.library.Library("aten", "IMPL")
    _kept.append(library)
    for name, kernel in (
        ("batch_norm_stats", stats),
        ("batch_norm_gather_stats_with_counts", gather_stats),
        ("batch_norm_elemt", normalise),
        ("batch_norm_backward_reduce", backward_sums),
        ("batch_norm_backward_elemt", backward),
    ):
        library.impl(name, kernel, "CPU")
    nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None  # it would refuse the CPU
    forward = nn.SyncBatchNorm.forward

    def forward_on_cpu(self, x):
        with mock.patch.object(torch._C, "_get_privateuse1_backend_name", return_value="cpu"):  # a device that it takes
            return forward(self, x)

    nn.SyncBatchNorm.forward = forward_on_cpu
    real = trainer.trainer.share_statistics

    @functools.wraps(real)
    def on_cuda(model, wanted, device, processes):
        return real(model, wanted, torch.device("cuda"), processes)

    trainer.trainer.share_statistics = on_cuda


def _by_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.mean((0, 2, 3)), (x.var((0, 2, 3), correction=0) + eps).rsqrt()


def gather_stats(x, mean, invstd, running_mean, running_var, momentum, eps, counts) -> tuple[Tensor, Tensor]:
    """Those of all from those of each process: mean and invstd (processes, C), counts (processes,)."""
    share = (counts / counts.sum()).unsqueeze(1)
    whole = (share * mean).sum(0)
    variance = (share * (invstd**-2 - eps + (mean - whole) ** 2)).sum(0)
    running_mean.lerp_(whole, momentum)
    running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
    return whole, (variance + eps).rsqrt()


def normalise(x, weight, bias, mean, invstd, eps) -> Tensor:
    return (x - _by_channel(mean)) * _by_channel(invstd * weight) + _by_channel(bias)


def backward_sums(grad, x, mean, invstd, weight, *wanted) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sum_dy, sum_dy_xmu = grad.sum((0, 2, 3)), (grad * (x - _by_channel(mean))).sum((0, 2, 3))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def backward(grad, x, mean, invstd, weight, sum_dy, sum_dy_xmu, count) -> Tensor:
    along = (x - _by_channel(mean)) * _by_channel(invstd**2 * sum_dy_xmu / count.sum())
    return (grad - _by_channel(sum_dy / count.sum()) - along) * _by_channel(invstd * weight)
