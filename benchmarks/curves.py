"""Curves and a table of finished runs: python benchmarks/curves.py saved/small_*/* -o docs/curves.png

Prints a Markdown table of the last test accuracy of each experiment, as mean and spread over its seeds, and draws
the test accuracy of each arm by epoch, a panel for each noise rate.
"""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

#: Okabe and Ito's palette, told apart by colour-blind readers; each arm has a mark of its own as well.
STYLE = {"bn": ("#0072B2", "o"), "conv": ("#D55E00", "s"), "bncn": ("#009E73", "^")}
LABEL = {"bn": "bn: BatchNorm", "conv": "conv: ConvNorm", "bncn": "bncn: ConvNorm + BatchNorm"}
Key = tuple[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    args = parser.parse_args()
    runs: dict[Key, list[dict[str, list[float]]]] = defaultdict(list)
    for folder in sorted(args.runs):
        config = json.loads((folder / "config.json").read_text())
        runs[config["arch"]["args"]["norm"], config["label_noise"]["rate"]].append(columns(folder / "metrics.csv"))
    print(table(runs))
    draw(runs).savefig(args.output, dpi=110)


def columns(path: Path) -> dict[str, list[float]]:
    with open(path) as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def table(runs: dict[Key, list[dict[str, list[float]]]]) -> str:
    lines = ["| arm | noise | seeds | epochs | test accuracy, last epoch | best | train accuracy | seconds an epoch |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (arm, rate), found in sorted(runs.items(), key=lambda item: (item[0][1], list(STYLE).index(item[0][0]))):
        epochs = sorted({len(run["epoch"]) for run in found})
        cells = [
            arm,
            f"{rate:.0%}",
            str(len(found)),
            "-".join(map(str, epochs)),
            spread([run["test_accuracy"][-1] for run in found]),
            spread([max(run["test_accuracy"]) for run in found]),
            spread([run["train_accuracy"][-1] for run in found]),
            f"{statistics.median(s for run in found for s in run['seconds']):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    text = f"{100 * statistics.fmean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {100 * statistics.stdev(values):.2f}"


def draw(runs: dict[Key, list[dict[str, list[float]]]]) -> Figure:
    rates = sorted({rate for _, rate in runs})
    figure = Figure(figsize=(4.6 * len(rates), 3.8), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, rate in zip(panels, rates, strict=True):
        for arm, (colour, mark) in STYLE.items():
            for number, run in enumerate(runs.get((arm, rate), [])):
                label = LABEL[arm] if number == 0 else None
                values = [100 * value for value in run["test_accuracy"]]
                axes.plot(run["epoch"], values, color=colour, marker=mark, markersize=5, label=label)
        axes.set_title(f"{rate:.0%} label noise")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    panels[-1].legend(loc="lower right", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
