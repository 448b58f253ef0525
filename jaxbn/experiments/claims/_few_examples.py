"""Few training images: is there a best normalization batch size, and what is freezing?

The network of `normalization_batch_size` and its recipe, but trained on 2,000 images
for 60 epochs: what batch statistics do to generalization weighs more where the training
images can be learned by heart. Designed after those claims had not been decided with
10,000 images.

Claims.
1. The optimum is inside (Wu and Johnson 2021, figure 5): with precise statistics the
   test error at a normalization batch size (NBS) of 32 is smaller than at 4, and
2. than at 256, the whole batch.
3. Frozen statistics cost the noise that regularizes (figure 6): at NBS 32, the last
   fifth of training with frozen precise statistics ends with a larger test error; and
4. at NBS 256.
5. Ghost batches help large batches (Hoffer, Hubara and Soudry 2017): of SGD batches of
   1,000, ghost batches of 25 have a smaller test error than the whole, with running
   statistics, for as many epochs; the learning rate is twice that of batches of 256.

    python -m jaxbn.experiments few_examples --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. 1 and 2 were tried on the seeds 0 to 4
with 2,000 images, and no other number of them; 3 to 5 were stated before any run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn import batch_norm, ghost_norm
from jaxbn.experiments._draw import MARKERS, band, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._runs import Runs
from jaxbn.experiments._verdicts import Verdict, greater, less
from jaxbn.experiments.claims._frozen_finetune import finish_frozen
from jaxbn.experiments.claims._small_batches import MOMENTUM
from jaxbn.experiments.claims._sweep import (
    Size,
    plain_stats,
    population_errors,
    precise_stats,
    prepare,
    train,
)

SOURCE = "Wu and Johnson 2021, sections 4.2 and 4.3; Hoffer, Hubara and Soudry 2017"
SIZES = {
    "smoke": Size(512, 300, 5, (4, 32, 64), options=(("hidden", (32,)),), batch=64),
    "small": Size(2_000, 5_000, 60, (4, 8, 16, 32, 64, 256)),
    "full": Size(5_000, None, 100, (4, 8, 16, 32, 64, 256), "resnet20", (), 1),
}
CURVES = {"regular": "regular", "frozen": "last fifth frozen"}
LARGE, GHOST = 1000, 25


def measure(settings: Settings) -> dict[str, Any]:
    """Returns test errors in percent; see the top of the file."""
    size = SIZES[settings.size]
    task = prepare(settings, size)
    at = size.epochs * 4 // 5
    halted: list[Runs] = []
    regular = []

    def halt(epoch: int, runs: Runs) -> None:
        if epoch == at - 1:
            halted.append(runs._replace(batch_stats=precise_stats(task, runs)))

    for together in size.sizes:
        norm = batch_norm(normalization_batch_size=together)
        regular.append(population_errors(task, train(task, norm, observe=halt)))
    before = jax.tree.map(lambda *each: jnp.concatenate(each), *halted)
    after = finish_frozen(task, before, range(at, size.epochs))
    frozen = population_errors(task, after, stats=after.batch_stats)
    large = min(LARGE, len(task.images.train.labels) // GHOST * GHOST)
    norms = {"whole": batch_norm(momentum=MOMENTUM)}
    norms["ghosts"] = ghost_norm(size=GHOST, momentum=MOMENTUM)
    found: dict[str, Any] = {"sizes": size.sizes, "batch": large}
    for name, norm in norms.items():
        runs = train(task, norm, batch=large, rate=2.0)
        stats = plain_stats(runs.batch_stats)
        found[name] = population_errors(task, runs, stats=stats)
    found["regular"] = np.stack(regular, 1)
    found["frozen"] = np.stack(np.split(frozen, len(size.sizes)), 1)
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    sizes = found["sizes"].tolist()
    columns = ("test error % at NBS", *map(str, sizes))
    rows: list[tuple[Any, ...]] = [
        (label, *found[name].T) for name, label in CURVES.items()
    ]
    rest = [""] * (len(sizes) - 1)
    label = f"batch {found['batch']:,}"
    rows.append((f"{label}, whole, running statistics", *rest, found["whole"]))
    rows.append((f"{label}, ghosts of {GHOST}", found["ghosts"], *rest))
    return Result(
        columns,
        rows,
        verdicts(found),
        functools.partial(draw, found),
        found,
        figsize=(9, 5),
    )


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims."""
    middle = found["sizes"].tolist().index(32)
    regular, frozen = found["regular"].T, found["frozen"].T
    return [
        less(
            "the test error is smaller at NBS 32 than at 4",
            regular[middle],
            regular[0],
            source="23.4 and 26.4 %",
        ),
        less(
            "the test error is smaller at NBS 32 than at the largest",
            regular[middle],
            regular[-1],
            source="23.4 and 23.7 %",
        ),
        greater(
            "freezing costs accuracy at NBS 32",
            frozen[middle],
            regular[middle],
            source="from 23.4 to 24.3 %",
        ),
        greater(
            "freezing costs accuracy at the largest NBS",
            frozen[-1],
            regular[-1],
            source="from 23.7 to 24.5 %",
        ),
        less(
            f"ghost batches of {GHOST} lower the error of batches of {LARGE:,}",
            found["ghosts"],
            found["whole"],
        ),
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the test errors against the NBS, those of large batches as points."""
    axes = figure.subplots()
    axes.set_ylabel("test error, %")
    axes.set_xscale("log", base=2)
    lines = ("-", "--")
    for (name, label), line, marker in zip(
        CURVES.items(), lines, MARKERS, strict=False
    ):
        band(axes, found["sizes"], found[name], label, marker=marker, linestyle=line)
    points = {"whole": found["batch"], "ghosts": GHOST}
    for i, (name, at) in enumerate(points.items(), 2):
        label = f"batch {found['batch']:,}, {name}"
        errors = found[name]
        style = {"fmt": MARKERS[i], "capsize": 3, "color": f"C{i}", "label": label}
        axes.errorbar(at, errors.mean(), yerr=errors.std(), **style)
    ticks = [*found["sizes"].tolist(), found["batch"]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("normalized together, examples")
    legend_below(figure)
