"""What ConvNorm costs beside BatchNorm, and the trainer beside a bare loop: python -m benchmarks.speed [-o FOLDER]

Every figure is a ratio of two things that took turns in one process (peak memory: of two processes), but for three of
seconds and images a second at the end. The table has the
median of the turn-by-turn ratios, and their range. docs/performance.md explains them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import forget_peak, interleaved, machine, medians, ratio, resident_megabytes, set_up
from models.convert import convert_conv_norm
from models.preconv import PreConv2d
from models.resnet import resnet18
from utils.world import World

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, object]
IMAGENET = "ImageNet's form, 224x224, batch 8, one thread"


class Training:
    """One arm, its optimizer and a batch: `step()` trains on it, `evaluate()` runs it.

    With `imagenet` the network is torchvision's ResNet18, with a stem of 7x7 and a max-pooling, converted for bncn.
    """

    def __init__(
        self,
        arm: str,
        width: int = 64,
        batch: int = 128,
        size: int = 32,
        *,
        bf16: bool = False,
        imagenet: bool = False,
        device: str = "cuda" if torch.cuda.is_available() else "cpu",
    ) -> None:
        norm, _, method = arm.partition(":")
        torch.manual_seed(0)
        network = imagenet_resnet18(norm) if imagenet else resnet18(norm, width=width)
        self.model = network.to(device, memory_format=torch.channels_last)
        for module in self.model.modules():
            if isinstance(module, PreConv2d) and method:
                module.method = method
        settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **settings, foreach=device != "cpu")
        images = torch.randn(batch, 3, size, size)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.targets = torch.randint(10, (batch,)).to(device)
        self.autocast: AbstractContextManager = torch.autocast(device, dtype=torch.bfloat16) if bf16 else nullcontext()

    def step(self) -> None:
        self.model.train()
        with self.autocast:
            logits = self.model(self.images)
        loss = F.cross_entropy(logits.float(), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> None:
        if self.model.training:  # eval() drops what layers keep from batch to batch
            self.model.eval()
        with self.autocast:
            self.model(self.images)


def imagenet_resnet18(norm: str) -> nn.Module:
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    if norm == "bncn":
        convert_conv_norm(network)
    return network


def steps(rounds: int, arms: list[str], *, bf16: bool = False):
    """Timings of a step and of an evaluation of each arm."""
    trainings = {arm: Training(arm, bf16=bf16) for arm in arms}
    stepped = interleaved({arm: training.step for arm, training in trainings.items()}, rounds)
    # two to warm up: the first evaluation makes the spectra that the others keep
    evaluated = interleaved({arm: training.evaluate for arm, training in trainings.items()}, rounds, warm_up=2)
    return stepped, evaluated


def bar(what: str, figure: tuple[float, float, float], must: float | None, aim: float | None, **seconds: float) -> Row:
    """A row of the table: lower is better, but for the pipeline's, which says so. None is no bar."""
    low, high = figure[1:]
    return {"figure": what, "value": figure[0], "low": low, "high": high, "must": must, "aim": aim, "seconds": seconds}


def layer_rows(rounds: int) -> Iterator[Row]:
    stepped, evaluated = steps(rounds, ["bn", "bncn", "bncn:fft"])
    yield bar("training step, bncn / bn", ratio(stepped, "bncn", "bn"), 1.0, 0.8, **medians(stepped))
    yield bar("training step, bncn / bncn by fft", ratio(stepped, "bncn", "bncn:fft"), 0.4, 0.3, **medians(stepped))
    yield bar("evaluation, bncn / bn", ratio(evaluated, "bncn", "bn"), 1.05, 0.8, **medians(evaluated))
    yield from memory_rows(rounds)
    narrow, _ = steps(rounds, ["bn", "bncn"], bf16=True)
    gain = medians(narrow)["bn"] / medians(stepped)["bn"]
    what = f"training step in bf16, bncn / bn (bn in bf16 takes {gain:.2f} of its float32 time)"
    yield bar(what, ratio(narrow, "bncn", "bn"), None, None, **medians(narrow))


def shape_rows(rounds: int) -> Iterator[Row]:
    """bncn / bn at other widths, batches and sizes: (what, must, aim, turns, the shape)."""
    threads = torch.get_num_threads()
    stepped = [
        ("width 32, batch 128", 1.15, 1.0, 1, {"width": 32}),
        ("width 16, batch 64", 1.7, 1.2, 3, {"width": 16, "batch": 64}),
        ("width 64, batch 4", 1.7, 1.2, 3, {"batch": 4}),
        ("width 64, batch 32, 64x64", 1.25, 1.0, 1, {"batch": 32, "size": 64}),
        (IMAGENET, 3.0, 2.0, 1, {"batch": 8, "size": 224, "imagenet": True}),
    ]
    evaluated = [
        ("1 image", 1.6, 1.1, 5, {"batch": 1}),
        ("8 images", 1.6, 1.1, 3, {"batch": 8}),
        ("2 images of 128x128", 2.2, 1.3, 2, {"batch": 2, "size": 128}),
        (IMAGENET, 2.2, 1.3, 1, {"batch": 8, "size": 224, "imagenet": True}),
    ]
    for training, shapes in ((True, stepped), (False, evaluated)):
        for what, must, aim, turns, shape in shapes:
            torch.set_num_threads(1 if what == IMAGENET else threads)
            arms = {arm: Training(arm, **shape) for arm in ("bn", "bncn")}
            for each in arms.values():
                each.step()  # an evaluation uses what training has estimated
            runs = {arm: each.step if training else each.evaluate for arm, each in arms.items()}
            seconds = interleaved(runs, turns * rounds, warm_up=2)
            kind = "training step" if training else "evaluation"
            yield bar(f"{kind}, {what}, bncn / bn", ratio(seconds, "bncn", "bn"), must, aim, **medians(seconds))
    torch.set_num_threads(threads)


def memory_rows(rounds: int) -> Iterator[Row]:
    """Peak memory, and what keeping freed memory brings and costs: a process each, since it cannot be undone."""
    alone = {
        (arm, how): alone_in_a_process(arm, how, rounds) for arm in ("bn", "bncn") for how in ("keep", "give-back")
    }
    peaks = {f"{arm}, {how}": found["megabytes"] for (arm, how), found in alone.items()}
    value = peaks["bncn, keep"] / peaks["bn, keep"]
    yield bar("peak memory of a step above the idle process, bncn / bn", (value,) * 3, 1.5, 1.2) | {"megabytes": peaks}
    for arm in ("bn", "bncn"):
        kept, given_back = alone[arm, "keep"], alone[arm, "give-back"]
        value = kept["seconds"] / given_back["seconds"]
        yield bar(f"training step, freed memory kept / given back, {arm}", (value,) * 3, 1.0, 1.0)


def alone_in_a_process(arm: str, how: str, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.speed", "--rounds", str(rounds), "--alone", arm, how]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)


def measure_alone(arm: str, rounds: int) -> dict[str, float]:
    """Median seconds of a step, and the MB that steps take at their peak beyond model, optimizer and batch."""
    training = Training(arm)
    nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8)).sum().backward()  # libraries load before the idle process is weighed
    forget_peak()
    idle = resident_megabytes("VmRSS")
    seconds = medians(interleaved({"step": training.step}, rounds))["step"]
    return {"megabytes": resident_megabytes("VmHWM") - idle, "seconds": seconds}


# --- the trainer ---------------------------------------------------------------------------------------------------


@contextmanager
def quiet_trainer(count: int, *overrides: str, world: World | None = None) -> Iterator:
    """A trainer of the bn arm on `count` noise images in the TinyCOCO format, this process's of `world`."""
    from data_loader.build import build_data
    from models.build import build_model
    from parse_config import load_config
    from trainer.optim import build_optimizer
    from trainer.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        images = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8).numpy()
        import numpy as np

        np.savez(Path(folder) / "tinycoco.npz", images=images, labels=np.arange(count) % 10)
        options = [f"data_loader.args.data_dir={folder}", *overrides]
        config = load_config(ROOT / "configs" / "coco_bn_0noise.json", options)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = build_data(config, device, world)
        model = build_model(config, 10).to(device)
        yield Trainer(config, model, *build_optimizer(config, model), data, device, Path(folder), world)


def trainer_row(rounds: int) -> Row:
    with quiet_trainer(2400, "arch.args.width=16") as trainer:
        loader, model, optimizer = trainer.data.train, trainer.model, trainer.optimizer

        def bare() -> None:
            model.train()
            for batch in loader.batches(1):
                loss = F.cross_entropy(model(batch.images), batch.given)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        def ours() -> None:
            trainer.batch = 0
            trainer._train(1)

        seconds = interleaved({"trainer": ours, "bare": bare}, 2 * rounds)
    return bar(
        "trainer epoch / bare loop, bn, width 16", ratio(seconds, "trainer", "bare"), 1.03, 1.01, **medians(seconds)
    )


def pipeline_row(rounds: int) -> Row:
    """Images per second of an epoch of crops and flips, ours against torchvision's transforms in a DataLoader."""
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, images: Tensor) -> None:
            self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Tensor:
            return transform(self.images[index])

    with quiet_trainer(40000) as trainer:
        loader = trainer.data.train
        pictures = Pictures(trainer.data.dataset.images[:4000])
        workers = {f"{n} workers": DataLoader(pictures, 128, shuffle=True, num_workers=n) for n in (0, 2)}
        functions: dict[str, Callable[[], object]] = {"ours": lambda: [None for _ in loader.batches(1)]}
        functions |= {name: lambda other=other: [None for _ in other] for name, other in workers.items()}
        seconds = interleaved(functions, rounds)
    counts = {"ours": loader.sample_count, **dict.fromkeys(workers, len(pictures))}
    speed = {name: counts[name] / value for name, value in medians(seconds).items()}
    best = max(speed[name] for name in workers)
    row = bar(
        "batch pipeline / torchvision DataLoader, images per second (higher is better)",
        (speed["ours"] / best,) * 3,
        15,
        40,
    )
    return row | {"images_per_second": speed}


def start_rows() -> Iterator[Row]:
    """Seconds from the start of the program, of a whole process."""
    demo = ["-c", "configs/demo.json"]
    with tempfile.TemporaryDirectory() as folder:
        one_step = ["trainer.epochs=1", "data_loader.args.subset=160", f"trainer.save_dir={folder}"]
        for what, must, arguments in (
            ("seconds to --help", 0.5, ["--help"]),
            ("seconds to a config error", 1.0, [*demo, "optimizer.args.lrr=1"]),
            ("seconds of a whole run of one step of the demo", 15.0, [*demo, *one_step]),
        ):
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, check=False)
                taken.append(time.perf_counter() - start)
            taken.sort()
            yield bar(what, (taken[1], taken[0], taken[-1]), must, must)


# --- the table -----------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    lines = ["| figure | measured | range | must | aim |", "|---|---|---|---|---|"]
    for row in rows:
        spread = f"{row['low']:.2f}-{row['high']:.2f}" if row["low"] != row["high"] else ""
        bars = " | ".join("" if row[name] is None else f"{row[name]:g}" for name in ("must", "aim"))
        lines.append(f"| {row['figure']} | {row['value']:.2f} | {spread} | {bars} |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    shown = [row for row in rows[::-1] if row["must"] is not None]
    figure = Figure(figsize=(9, 0.45 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    shares = [_share(row) for row in shown]
    axes.barh(range(len(shown)), shares, color=["#0072b2" if share <= 1 else "#d55e00" for share in shares])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [str(row["figure"]).split(" (")[0] for row in shown], fontsize=8)
    for place, row in enumerate(shown):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(shares[place] + 0.02, place, f"{row['value']:.2f}", va="center", fontsize=8, bbox=box)
    axes.set_xlabel("share of what is allowed (left of the line is within it)")
    axes.margins(x=0.12)
    figure.savefig(path, dpi=120)


def _share(row: Row) -> float:
    value, must = float(str(row["value"])), float(str(row["must"]))
    return must / value if "higher is better" in str(row["figure"]) else value / must


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("saved/bench"), help="folder for the JSON and the plot"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each comparison that are counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", action="store_true", help="only the rows at other widths, batches and sizes")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        set_up(args.threads, keep=args.alone[1] == "keep")
        print(json.dumps(measure_alone(args.alone[0], args.rounds)))
        return
    set_up(args.threads)
    rows: list[Row] = []
    sources: list[Iterable[Row]] = [shape_rows(args.rounds)]
    if not args.shapes:
        sources[:0] = [layer_rows(args.rounds)]
        sources += [(row(args.rounds) for row in (trainer_row, pipeline_row)), start_rows()]
    for source in sources:
        for row in source:
            rows.append(row)
            print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    stem = args.output / time.strftime("speed_%Y%m%d_%H%M%S")
    stem.with_suffix(".json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    plot(rows, stem.with_suffix(".png"))
    print(table(rows))
    print(f"wrote {stem}.json and {stem}.png")


if __name__ == "__main__":
    main()
