"""What whole training loops cost: images a second, and seconds to an accuracy.

    python -m benchmarks.training [--repeats N] [--data_dir DIR] [--json FILE]

The loop of `train.py` beside a plain Flax loop, one jitted step a batch, and eager
torch: MLP 784-64-128-10 in batches of 64, ConvNet, ResNet-20. Chunks are the steps that
one program of ours takes. With prepared MNIST in DIR, also the seconds of training to
97 % and 98 % of its test split, scored every quarter of an epoch outside of the time.
"""

import time

import numpy as np

from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._loops import trainers
from benchmarks._turns import in_turn
from jaxbn.data import Dataset, Split, epoch_indices, load
from jaxbn.training import TrainConfig

SETTINGS = {
    "mlp": (64, 16384, (28, 28, 1)),
    "convnet": (64, 2048, (28, 28, 1)),
    "resnet20": (128, 512, (32, 32, 3)),
}
CHUNKS = (1, 8, 64, 256)
GOALS = (0.97, 0.98)
EPOCHS = 10


def config_of(model: str, batch_size: int) -> TrainConfig:
    """Returns the settings that all loops share."""
    return TrainConfig(
        model=model,
        norm="batch",
        batch_size=batch_size,
        optimizer="nesterov",
        learning_rate=0.02,
        weight_decay=0.0,
        schedule="constant",
        warmup_epochs=0.0,
        num_epochs=EPOCHS,
    )


def noise(num: int, shape: tuple[int, ...]) -> Dataset:
    """Returns a data set of that size: what is in it takes no time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num, *shape), np.uint8)
    split = Split(images, rng.integers(0, 10, num).astype(np.int32))
    flat = np.full(shape[-1], 0.5, np.float32)
    return Dataset("noise", split, split, 10, flat, flat, "classification")


def throughput(repeats: int) -> Figures:
    """Returns images a second by model and library, and by chunk for the MLP."""
    found: Figures = {}
    for model, (size, num, shape) in SETTINGS.items():
        rows = epoch_indices(0, num, size, 0)
        loops = trainers(config_of(model, size), noise(num, shape))
        runs = {k: lambda t=t, r=rows: t.advance(r) for k, t in loops.items()}
        times = in_turn(runs, repeats)
        found[model] = {k: rows.size / t.median * 1e3 for k, t in times.items()}
        if model == "mlp":
            cut = {n: np.split(rows, range(n, len(rows), n)) for n in CHUNKS}
            advance = loops["jaxbn"].advance
            runs = {
                str(n): lambda p=parts, go=advance: [go(part) for part in p]
                for n, parts in cut.items()
            }
            times = in_turn(runs, repeats)
            found["chunks"] = {n: rows.size / t.median * 1e3 for n, t in times.items()}
    return found


def seconds_to_goals(data_dir: str) -> Figures:
    """Returns seconds of training, compiling included, to each accuracy, by library."""
    size = SETTINGS["mlp"][0]
    dataset = load("mnist", data_dir=data_dir)
    found: Figures = {}
    for name, trainer in trainers(config_of("mlp", size), dataset).items():
        trainer.accuracy()
        spent, reached = 0.0, {}
        for epoch in range(EPOCHS):
            rows = epoch_indices(0, len(dataset.train.labels), size, epoch)
            quarter = len(rows) // 4
            for part in rows[: 4 * quarter].reshape(4, quarter, size):
                began = time.perf_counter()
                trainer.advance(part)
                spent += time.perf_counter() - began
                score = trainer.accuracy()
                for goal in GOALS:
                    if score >= goal:
                        reached.setdefault(str(goal), spent)
            if len(reached) == len(GOALS):
                break
        found[name] = reached
    return found


def measure(repeats: int = 3, data_dir: str = "") -> Figures:
    """Returns images a second, and seconds to an accuracy where there is MNIST."""
    found: Figures = {"images a second": throughput(repeats)}
    if data_dir:
        found["seconds to"] = seconds_to_goals(data_dir)
    return found


def table(figures: Figures) -> str:
    """Returns tables of what was measured."""
    speed = dict(figures["images a second"])
    chunks = speed.pop("chunks")
    names = list(speed["mlp"])
    lines = [
        [model, *(f"{row[n]:,.0f}" if n in row else "" for n in names)]
        for model, row in speed.items()
    ]
    parts = [markdown(["images a second", *names], lines)]
    steps = [[n, f"{images:,.0f}"] for n, images in chunks.items()]
    parts.append(markdown(["steps a program, mlp", "images a second"], steps))
    if "seconds to" in figures:
        rows = figures["seconds to"]
        goals = [
            [
                f"{float(g):.0%}",
                *(
                    f"{r[str(g)]:.1f}" if str(g) in r else "never"
                    for r in rows.values()
                ),
            ]
            for g in GOALS
        ]
        parts.append(markdown(["seconds to, MNIST", *rows], goals))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
