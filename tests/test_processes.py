"""Several processes that train one model: what they compute, and how they find each other."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

import models.build
from data_loader.batches import Normaliser
from models.norms import NORMS
from models.resnet import resnet18
from tests.runs import coco, final_state, launch, rows
from tests.sync_on_cpu import sync_batch_norm_on_cpu
from tests.test_faults_processes import start_two
from trainer.batch_statistics import share_statistics
from utils import world
from utils.errors import ConfigError
from utils.world import store_of_this_turn

BATCH_NORM = ("bn", "bncn", "conv_published", "bncn_published")
OWN_SHARE = "takes BatchNorm's statistics over its own share of the batch"
UNEVEN = "data_loader.args.batch_size=15"  # of which two processes have 7 and 8
# A sum over a batch is formed in two parts, so it rounds differently: by 2e-12 in the weights. In a float32 network
# rounding would now and then bring a ReLU's input to the other side of 0, which changes a gradient by far more.
ROUNDING = 1e-9


def far_apart(folder: Path, other: Path, epoch: int) -> float:
    """The largest difference of two runs' weights and buffers after `epoch`."""
    one, two = (final_state(each, epoch)["model"] for each in (folder, other))
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one if one[name].numel())


def in_float64() -> None:
    """Train a network of float64."""
    build, normalise = models.build.build_model, Normaliser.__call__
    models.build.build_model = lambda *args: build(*args).double()
    Normaliser.__call__ = lambda *args: normalise(*args).double()


def with_one_and_two(arguments: Callable[[Path], list[str]], place: Path, *prepare: Callable[[], object]) -> float:
    """How far apart one process and two are after two epochs."""
    one = launch(place, *arguments(place / "one"), prepare=[in_float64])
    assert one.code == 0, one.err
    for process in start_two(arguments(place / "two"), place, in_float64, *prepare):
        ended = process.end()
        assert ended.code == 0, ended.err
    return far_apart(place / "one", place / "two", 2)


@pytest.mark.slow
@pytest.mark.parametrize("arm", sorted(NORMS.keys() - set(BATCH_NORM)))
def test_two_processes_compute_what_one_does(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    def arguments(folder: Path) -> list[str]:
        return coco(coco_dir, folder, UNEVEN, "trainer.epochs=2", f"arch.args.norm={arm}")

    assert with_one_and_two(arguments, tmp_path) < ROUNDING


@pytest.mark.slow
def test_batch_norm_takes_each_process_s_statistics_and_says_so(coco_dir: Path, tmp_path: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        return coco(coco_dir, folder, UNEVEN, "trainer.epochs=2")

    assert with_one_and_two(arguments, tmp_path) > 10 * ROUNDING
    assert f"each of the 2 processes {OWN_SHARE}" in (tmp_path / "two" / "train.log").read_text()
    assert OWN_SHARE not in (tmp_path / "one" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("arm", BATCH_NORM)
def test_with_sync_batch_norm_it_takes_those_of_the_batch(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    """torch's SyncBatchNorm itself, with plain kernels in place of those that it has on CUDA alone."""

    def arguments(folder: Path) -> list[str]:
        more = ("trainer.sync_batch_norm=true", "trainer.diagnostics=true")
        return coco(coco_dir, folder, UNEVEN, "trainer.epochs=2", f"arch.args.norm={arm}", *more)

    assert with_one_and_two(arguments, tmp_path, sync_batch_norm_on_cpu) < ROUNDING
    assert "no effect: there is one process" in (tmp_path / "one" / "train.log").read_text()
    assert OWN_SHARE not in (tmp_path / "two" / "train.log").read_text()


@pytest.mark.slow
def test_a_run_with_sync_batch_norm_goes_on(coco_dir: Path, tmp_path: Path) -> None:
    arguments = coco(coco_dir, tmp_path / "run", "trainer.sync_batch_norm=true", arm="bncn")
    for epochs in (1, 2):
        more = ("-r", "auto", f"trainer.epochs={epochs}")
        for process in start_two([*arguments, *more], tmp_path, sync_batch_norm_on_cpu):
            ended = process.end()
            assert (ended.code, ended.err) == (0, "")
        assert len(rows(tmp_path / "run")) == epochs


def test_sync_batch_norm_needs_cuda() -> None:
    with pytest.raises(ConfigError, match="torch's SyncBatchNorm needs CUDA, and this run is on cpu"):
        share_statistics(resnet18("bn", width=4), True, torch.device("cpu"), 2)


@pytest.mark.parametrize("arm", sorted(NORMS))
def test_every_batch_norm_is_replaced_and_nothing_else(arm: str) -> None:
    model = resnet18(arm, width=4)
    before = {name: value.data_ptr() for name, value in model.state_dict(keep_vars=True).items() if value.numel()}
    kinds = [type(module) for module in model.modules()]
    share_statistics(model, True, torch.device("cuda"), 2)
    for old, new in zip(kinds, map(type, model.modules()), strict=True):
        assert new is (torch.nn.SyncBatchNorm if old is torch.nn.BatchNorm2d else old)
    after = {name: value.data_ptr() for name, value in model.state_dict(keep_vars=True).items() if value.numel()}
    assert before == after, "the same tensors under the same names"
    assert (torch.nn.SyncBatchNorm in map(type, model.modules())) == (arm in BATCH_NORM)


def _over_gloo() -> None:
    """NCCL gives each process a GPU of its own; gloo lets two share one."""
    real = dist.init_process_group
    dist.init_process_group = lambda backend, *rest: real("gloo", *rest)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("arm", BATCH_NORM)
def test_sync_batch_norm_on_cuda(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    two_gpus = torch.cuda.device_count() > 1

    def arguments(folder: Path) -> list[str]:
        more = ("trainer.sync_batch_norm=true", f"trainer.device={'cuda' if two_gpus else 'cuda:0'}")
        return coco(coco_dir, folder, UNEVEN, "trainer.epochs=2", f"arch.args.norm={arm}", *more)

    assert with_one_and_two(arguments, tmp_path, *(() if two_gpus else (_over_gloo,))) < 10 * ROUNDING


# --- how they find each other --------------------------------------------------------------------------------------


def test_a_turn_finds_nothing_of_an_earlier_one() -> None:
    """Of two processes with one store: the second comes first to the second turn, and waits for the first."""
    shared, found = dist.HashStore(), []

    def join(rank: int) -> None:
        found.append(store_of_this_turn(shared, rank, 2))

    def both() -> tuple[Store, Store]:
        threads = [threading.Thread(target=join, args=(rank,), daemon=True) for rank in (1, 0)]
        threads[0].start()
        threads[0].join(0.3)
        assert threads[0].is_alive(), "it goes on without the first process"
        threads[1].start()
        for thread in threads:
            thread.join(30)
        return found.pop(), found.pop()

    one, other = both()
    one.set("address", "old")
    assert other.get("address") == b"old"
    one, other = both()
    assert not one.check(["address"])
    one.set("address", "new")
    assert other.get("address") == b"new"


def test_a_first_process_that_never_comes_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "JOINING", world.JOINING / 1000)
    with pytest.raises(RuntimeError, match="the first process does not answer"):
        store_of_this_turn(dist.HashStore(), 1, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_gloo_uses_the_interface_that_leads_to_the_first_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "the user's")
    world._choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "the user's"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    world._choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
