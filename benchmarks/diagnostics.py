"""What trainer.diagnostics costs: python -m benchmarks.diagnostics --threads 1

For ResNet18, a training step, the gradient norms of a step and the rows of an epoch, and from these the share that
diagnostics add to the training of an epoch of 2,720 images (TinyCOCO's training set, 22 batches of 128).
"""

import argparse

from benchmarks.harness import interleaved, machine, medians, set_up
from benchmarks.speed import quiet_trainer

STEPS = 22
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--arms", nargs="+", default=["bn", "conv", "bncn", "conv_published"])
    args = parser.parse_args()
    set_up(args.threads)
    print(machine())
    print("| width | arm | training step, s | gradient norms of a step, ms | rows of an epoch, s | added to an epoch |")
    print("|---|---|---|---|---|---|")
    for width in args.widths:
        for arm in args.arms:
            print(measured(arm, width, args.rounds), flush=True)


def measured(arm: str, width: int, rounds: int) -> str:
    """A row of the table."""
    settings = (f"arch.args.norm={arm}", f"arch.args.width={width}", "trainer.diagnostics=true")
    with quiet_trainer(2 * BATCH, *settings) as trainer:
        batch = next(iter(trainer.data.train.batches(1)))
        trainer.model.train()
        work = {
            "step": lambda: trainer.train_step(batch),  # its gradient norms are in it
            "norms": trainer.diagnostics.add_gradients,
            "rows": lambda: trainer.diagnostics.rows(1),
        }
        step, norms, rows = medians(interleaved(work, rounds)).values()
    plain = step - norms
    added = (STEPS * norms + rows) / (STEPS * plain)
    return f"| {width} | {arm} | {plain:.3f} | {1000 * norms:.2f} | {rows:.2f} | {100 * added:.1f} % |"


if __name__ == "__main__":
    main()
