"""Statistics of the test batch mixed into the running ones, on noisy images.

A network of 3 hidden layers of 128, trained on clean images (batches of 256, of which
32 are normalized together), is tested on clean ones and with Gaussian noise of 0.25 of
the range of brightness, in batches of n = 2 to 128, with

    mean = (N mean_running + n mean_batch) / (N + n),   var likewise

for N of 0 (the batch alone), 16, 64 and infinity; the running statistics are precise
ones. Networks trained at other normalization batch sizes (NBS) are tested on clean
batches of n = NBS.

Claims (Schneider et al. 2020; Nado et al. 2020).
1. In large batches noisy images are classified better with their own statistics: at
   n = 128 the error with N = 0 is over 1 point below that with N infinite.
2. In small batches the running statistics help: at n = 8 the error with N = 16 is over
   4 points below that with N = 0.
3. In between a mixture is better than either: at n = 32 the error with N = 16 is below
   those with N = 0 and N infinite.
4. In large batches N does not matter: at n = 128 the errors with N = 16 and 0 are
   within 0.5 points.
5. Clean images have nothing to gain or to lose: at n = 128 the error with N = 16 is
   within 0.5 points of that with N infinite.

    python -m jaxbn.experiments adaptive_inference --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds come from pilot runs, but for
that of 5, which was set before the first run.
"""

import functools
import math
from typing import Any

import numpy as np

from jaxbn import adaptive_norm
from jaxbn.data import Split
from jaxbn.experiments._draw import MARKERS, band
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._measure import errors
from jaxbn.experiments._runs import Runs
from jaxbn.experiments._verdicts import BEFORE, PILOT, Verdict, jointly, less, within
from jaxbn.experiments.claims._small_batches import (
    evaluate,
    label_errors,
    plain_norms,
    stack,
)
from jaxbn.experiments.claims._sweep import (
    Size,
    Task,
    population_errors,
    precise_stats,
    prepare,
    train,
    whole_batches,
)

SOURCE = "Schneider et al. 2020; Nado et al. 2020"
PRIORS = (0, 16, 64)
"""N, in examples; infinity comes apart, as it does not depend on n."""
NOISE = 0.25
"""The deviation of the noise, of images on [0, 1]."""
TRAINED = 32
"""The NBS of the network that is tested on noise."""
BATCHES = (2, 4, 8, 16, 32, 128)
"""Test examples that come together, n."""
SIZES = {
    "smoke": Size(512, 256, 3, (4, 32), options=(("hidden", (32,)),), batch=32),
    "small": Size(10_000, 4_992, 15, (2, 4, 8, 16, 32)),
    "full": Size(
        None, 9_984, 30, (2, 4, 8, 16, 32), model="resnet20", options=(), pool=1
    ),
}
INFERENCE = {
    "running": "running",
    "precise": "precise",
    "N 16": "precise, N 16 mixed with n = NBS",
    "N 0": "batch of n = NBS alone",
}


def measure(settings: Settings) -> dict[str, Any]:
    """Returns errors in percent; see the top of the file."""
    batches = BATCHES if settings.size != "smoke" else (8, 32, 128)
    task = prepare_whole(settings, batches)
    test = task.images.test
    splits = {"noisy": noisy(task, test), "clean": test}
    found: dict[str, Any] = {"batches": batches, "sizes": task.size.sizes}
    trained = []
    for size, norm in plain_norms(task.size.sizes).items():
        runs = train(task, norm)
        known = runs._replace(batch_stats=precise_stats(task, runs))
        one = evaluate(task, runs)
        one |= {
            f"N {prior}": adapted(task, known, test, prior, size) for prior in (0, 16)
        }
        trained.append(one)
        if size == TRAINED:
            found |= {
                name: over_batches(task, known, split, batches)
                for name, split in splits.items()
            }
    found["trained"] = stack(trained)
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    batches = found["batches"]
    columns = ("test error % on", "statistics", *(f"n = {n}" for n in batches))
    rows: list[tuple[Any, ...]] = [
        (
            name,
            f"N = {'infinity' if prior == 'infinite' else prior}",
            *pad(each.T, len(batches)),
        )
        for name in ("noisy", "clean")
        for prior, each in found[name].items()
    ]
    sizes = [f"n = NBS = {n}" for n in found["sizes"]]
    rows.append(("nets of other NBS", "statistics", *pad(sizes, len(batches))))
    for key, label in INFERENCE.items():
        rows.append(("clean", label, *pad(found["trained"][key].T, len(batches))))
    return Result(
        columns,
        rows,
        verdicts(found),
        functools.partial(draw, found),
        found,
        figsize=(10, 4.8),
    )


def prepare_whole(settings: Settings, batches: tuple[int, ...]) -> Task:
    """Returns the task, its test examples a multiple of all `batches`."""
    task = prepare(settings, SIZES[settings.size])
    test = whole_batches(task.images.test, math.lcm(*batches))
    return task._replace(images=task.images._replace(test=test))


def pad(cells: Any, count: int) -> list[Any]:
    """Returns so many cells, the last ones empty."""
    return [*cells, *[""] * (count - len(cells))]


def noisy(task: Task, split: Split) -> Split:
    """Returns a split with Gaussian noise in its inputs, the same every time."""
    noise = np.random.default_rng(0).standard_normal(split.inputs.shape)
    scaled = np.float32(NOISE) * noise.astype(np.float32) / task.images.std
    return Split((split.inputs + scaled).astype(np.float32), split.labels)


def adapted(task: Task, runs: Runs, split: Split, prior: int, n: int) -> np.ndarray:
    """Returns the errors where n examples come together, [S]."""
    model = task.model(adaptive_norm(prior_count=prior))
    return errors(model, runs.params, runs.batch_stats, split, batch=n)


def over_batches(
    task: Task, runs: Runs, split: Split, batches: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Returns the errors [S, n] for each N, by its name."""
    found = {
        str(prior): np.stack([adapted(task, runs, split, prior, n) for n in batches], 1)
        for prior in PRIORS
    }
    alone = population_errors(task, runs, split, stats=runs.batch_stats)
    return {**found, "infinite": np.repeat(alone[:, None], len(batches), 1)}


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    at = {n: list(found["batches"]).index(n) for n in (8, 32, 128)}

    def error(prior: int | str, n: int, images: str = "noisy") -> np.ndarray:
        return found[images][str(prior)][:, at[n]]

    few, some, many = at
    return [
        less(
            "in batches of 128 noisy images, the batch's statistics are over 1 point "
            "better than the running ones",
            error(0, many),
            error("infinite", many),
            by=1,
            chosen=PILOT,
            source="mCE 76.7 to 62.2 of a ResNet-50 on ImageNet-C",
        ),
        less(
            "in batches of 8 noisy images, a mixture (N = 16) is over 4 points better "
            "than the batch alone",
            error(16, few),
            error(0, few),
            by=4,
            chosen=PILOT,
        ),
        jointly(
            "in batches of 32 noisy images, a mixture (N = 16) is better than batch or "
            "running statistics alone",
            [
                less("minus batch alone", error(16, some), error(0, some)),
                less("minus running", error(16, some), error("infinite", some)),
            ],
        ),
        within(
            "in batches of 128 noisy images, a mixture (N = 16) is within 0.5 points "
            "of the batch alone",
            error(16, many),
            error(0, many),
            0.5,
            chosen=PILOT,
        ),
        within(
            "in batches of 128 clean images, a mixture (N = 16) is within 0.5 points "
            "of running statistics",
            error(16, many, "clean"),
            error("infinite", many, "clean"),
            0.5,
            chosen=BEFORE,
        ),
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the errors over n with noise and without, and over the NBS of training."""
    panels = figure.subplots(1, 3)
    for axes, images in zip(panels, ("noisy", "clean"), strict=False):
        for i, (prior, each) in enumerate(found[images].items()):
            style = {"marker": MARKERS[i], "markersize": 4, "color": f"C{i}"}
            band(axes, found["batches"], each, f"N {prior}", **style)
        finish(axes, found["batches"], "examples that come together, n")
        axes.set_title(f"{images} images, trained at NBS {TRAINED}", fontsize=10)
        axes.legend(fontsize=9)
    right = panels[2]
    for i, (key, label) in enumerate(INFERENCE.items()):
        style = {"marker": MARKERS[i], "markersize": 4, "color": f"C{(5, 3, 1, 0)[i]}"}
        band(right, found["sizes"], found["trained"][key], label, **style)
    right.set_yscale("log")
    right.set_ylim(top=2 * right.get_ylim()[1])  # Room for the legend.
    finish(right, found["sizes"], "normalized together in training, NBS")
    right.set_title("clean images, statistics at test", fontsize=10)
    right.legend(fontsize=9, loc="upper right")


def finish(axes: Any, sizes: tuple[int, ...], label: str) -> None:
    """Labels the axes of a panel."""
    axes.set(xlabel=label, ylabel="test error, %", yscale="log")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    label_errors(axes)
