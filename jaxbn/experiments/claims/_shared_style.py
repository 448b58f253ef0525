"""Small groups that share a style: their own statistics, or those of the population.

The groups of `normalization_batch_size`, with 2 and 4 examples: each group has a
contrast and a brightness of its own and is normalized by itself (NBS 2 and 4), in
training and, with mini-batch statistics, at test. Designed after mini-batch statistics
had been worse than population ones at NBS 2 for examples drawn at random: the images of
a detector's batch have more in common than those.

Claims (Wu and Johnson 2021, figure 5: mini-batch statistics at NBS 2).
1. At NBS 2 mini-batch statistics at test time are better than population statistics.
2. At NBS 4 mini-batch statistics at test time are better than population statistics.

    python -m jaxbn.experiments shared_style --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. On the seeds 0 to 4, with 8 epochs, the
first made a difference of less than a point, the second one of more than 20. A fully
connected net is given only the signs of differences at NBS 2, whatever is shared.
"""

import functools
from typing import Any

import numpy as np

from jaxbn import batch_norm
from jaxbn.experiments._draw import bars, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._verdicts import TRIED, Verdict, less
from jaxbn.experiments.claims._styled_groups import (
    dressed,
    in_styles,
    precise_errors,
)
from jaxbn.experiments.claims._sweep import (
    Size,
    Task,
    minibatch_errors,
    prepare,
    train,
)

SOURCE = "Wu and Johnson 2021, sections 4.1 and 4.2, figure 5"
SIZES = {
    "smoke": Size(512, 256, 3, (2, 4), options=(("hidden", (32,)),), batch=64),
    "small": Size(10_000, 4_864, 8, (2, 4)),
    "full": Size(None, None, 30, (2, 4), "resnet20", (), 1),
}
KINDS = {"population": "population statistics", "own": "the group's own"}
LABELS = {**KINDS, "own": "statistics of the group itself"}
"""Of the kinds, in the table and in the picture."""


def measure(settings: Settings) -> dict[str, Any]:
    """Returns test errors in percent; see the top of the file."""
    task = prepare(settings, SIZES[settings.size])
    each = [measure_groups(task, group) for group in task.size.sizes]
    found = {kind: np.stack([one[kind] for one in each], 1) for kind in KINDS}
    return {"sizes": task.size.sizes, **found}


def measure_groups(task: Task, group: int) -> dict[str, np.ndarray]:
    """Returns the errors of nets trained on groups of so many examples, [S]."""
    batch, images = task.size.batch, task.images
    known = dressed(images.train, 0, batch, group)
    test = dressed(images.test, 1, batch, group)
    norm = batch_norm(normalization_batch_size=group)
    runs = train(task, norm, wrap=in_styles(group))
    model = task.model(norm)
    return {
        "population": precise_errors(task, model, runs, known, test),
        "own": minibatch_errors(task, model, runs, test),
    }


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    columns = ("test error % at NBS", *map(str, found["sizes"]))
    rows = [(label, *found[kind].T) for kind, label in LABELS.items()]
    drawn = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), drawn, found, (7, 4.5))


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims."""
    return [
        less(
            f"in groups of one style, mini-batch statistics at test time beat "
            f"population statistics at NBS {size}",
            found["own"][:, i],
            found["population"][:, i],
            changed=TRIED,
            source=source,
        )
        for i, (size, source) in enumerate(((2, "26.0 and 32.5 %"), (4, "")))
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the test errors as bars."""
    axes = figure.subplots()
    names = [f"groups of {size}" for size in found["sizes"]]
    bars(axes, names, {label: found[kind] for kind, label in LABELS.items()})
    axes.set(ylabel="test error, %")
    legend_below(figure, columns=2)
