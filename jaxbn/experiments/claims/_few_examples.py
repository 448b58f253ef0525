"""Few training images: the best normalization batch size, and what freezing costs.

The network of `normalization_batch_size` and its recipe, but trained on 2,000 images
for 60 epochs: what batch statistics do to generalization weighs more where the training
images can be learned by heart. Designed after those claims had not been decided with
10,000 images.

Claims.
1. The optimum is inside (Wu and Johnson 2021, figure 5): with precise statistics the
   test error at a normalization batch size (NBS) of 32 is smaller than at 4.
2. It is smaller at NBS 32 than at 256, the whole batch, too.
3. Frozen statistics cost the noise that regularizes (figure 6): at NBS 32, freezing
   precise statistics for the last fifth of training raises the test error.
4. At NBS 256 freezing raises the test error, too.
5. Ghost batches help large batches (Hoffer, Hubara and Soudry 2017): SGD batches of
   1,000 have a smaller test error normalized in ghost batches of 25 than as a whole,
   with running statistics, for as many epochs; the learning rate is twice that of
   batches of 256.

    python -m jaxbn.experiments few_examples --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. 1 and 2 were tried on the seeds 0 to 4
with 2,000 images, and no other number of them; 3 to 5 were stated before any run.
"""

import functools
from typing import Any

from jaxbn import batch_norm, ghost_norm
from jaxbn.experiments._draw import MARKERS, band, legend_below, spread
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._verdicts import TRIED, Verdict, greater, less
from jaxbn.experiments.claims._frozen_finetune import frozen_errors, train_twice
from jaxbn.experiments.claims._small_batches import MOMENTUM
from jaxbn.experiments.claims._sweep import (
    Size,
    plain_stats,
    population_errors,
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
POINTS = {"whole": "normalized as a whole", "ghosts": f"ghost batches of {GHOST}"}
NEW = "a new design, after 10,000 images had not decided; stated before any run of it"


def measure(settings: Settings) -> dict[str, Any]:
    """Returns test errors in percent; see the top of the file."""
    task = prepare(settings, SIZES[settings.size])
    regular, _, after = train_twice(task)
    found: dict[str, Any] = {"sizes": task.size.sizes, "regular": regular}
    found["frozen"] = frozen_errors(task, after)
    large = min(LARGE, len(task.images.train.labels) // GHOST * GHOST)
    norms = {"whole": batch_norm(momentum=MOMENTUM)}
    norms["ghosts"] = ghost_norm(size=GHOST, momentum=MOMENTUM)
    found["batch"] = large
    for name, norm in norms.items():
        runs = train(task, norm, batch=large, rate=2.0)
        stats = plain_stats(runs.batch_stats)
        found[name] = population_errors(task, runs, stats=stats)
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    sizes = found["sizes"].tolist()
    batches = f"SGD batches of {found['batch']:,}"
    columns = ("test error % at NBS", *map(str, sizes), batches)
    rows: list[tuple[Any, ...]] = [
        (f"{label}, precise statistics", *found[name].T, "")
        for name, label in CURVES.items()
    ]
    for name, label in POINTS.items():
        rest = [""] * len(sizes)
        rows.append((f"{batches}, {label}, running statistics", *rest, found[name]))
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
            "with few training images the test error is smaller at NBS 32 than at NBS "
            "4",
            regular[middle],
            regular[0],
            changed=TRIED,
            source="23.4 and 26.4 %",
        ),
        less(
            "with few training images the test error is smaller at NBS 32 than at the "
            "largest NBS",
            regular[middle],
            regular[-1],
            changed=TRIED,
            source="23.4 and 23.7 %",
        ),
        greater(
            "with few training images freezing the statistics raises the test error at "
            "NBS 32",
            frozen[middle],
            regular[middle],
            changed=NEW,
            source="from 23.4 to 24.3 %",
        ),
        greater(
            "with few training images freezing the statistics raises the test error at "
            "the largest NBS",
            frozen[-1],
            regular[-1],
            changed=NEW,
            source="from 23.7 to 24.5 %",
        ),
        less(
            f"with few training images ghost batches of {GHOST} lower the test error "
            f"of SGD batches of {LARGE:,}",
            found["ghosts"],
            found["whole"],
            changed=NEW,
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
    places = {"whole": found["batch"], "ghosts": GHOST}
    for i, (name, at) in enumerate(places.items(), 2):
        label = f"SGD batches of {found['batch']:,}, {POINTS[name]}"
        errors = found[name]
        style = {"fmt": MARKERS[i], "capsize": 3, "color": f"C{i}", "label": label}
        axes.errorbar(at, errors.mean(), yerr=spread(errors), **style)
    ticks = [*found["sizes"].tolist(), found["batch"]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("normalized together, examples")
    legend_below(figure, columns=2)
