"""Batch renormalization of small batches, against batch norm.

A network of 3 hidden layers of 128 is trained on batches of 256, of which 2, 4, ... or
all 256 are normalized together (NBS). Batch renormalization starts as batch norm; from
the end of the first epoch to that of a third of them its limits open to r 3 and d 5.
Its running statistics, momentum 0.9, absorb the whole batch of 256.

Claims (Ioffe 2017).
1. At small NBS it helps: at NBS 4 the test error with running statistics is lower than
   batch norm's by more than 1.5 points.
2. At large NBS it changes little: at the largest the two are within 0.6 points.
3. Batch renormalization needs the batch less: its errors at NBS 4 and the largest
   differ by less than half of what batch norm's do.

    python -m jaxbn.experiments renorm_small_batch --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds come from pilot runs.
"""

import functools
from typing import Any

import numpy as np

from jaxbn import batch_renorm
from jaxbn.base import Norm
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._verdicts import PILOT, Verdict, less, within
from jaxbn.experiments.claims._small_batches import (
    MOMENTUM,
    arm_of,
    draw_arms,
    plain_norms,
    rows_of,
)
from jaxbn.experiments.claims._sweep import Size, Task, prepare

SOURCE = "Ioffe 2017, Batch Renormalization"
SIZES = {
    "smoke": Size(512, 256, 3, (4, 32), options=(("hidden", (32,)),), batch=32),
    "small": Size(10_000, 4_864, 15, (2, 4, 8, 16, 32, 256)),
    "full": Size(
        None,
        None,
        30,
        (2, 4, 8, 16, 32, 64, 256),
        model="resnet20",
        options=(),
        pool=1,
    ),
}
ARMS = ("batch norm", "batch renormalization")


def measure(settings: Settings) -> dict[str, Any]:
    """Returns errors in percent; see the top of the file."""
    task = prepare(settings, SIZES[settings.size])
    sizes = task.size.sizes
    both = plain_norms(sizes), renorms(task)
    arms = {name: arm_of(task, norms) for name, norms in zip(ARMS, both, strict=True)}
    found = {"sizes": sizes, "arms": arms}
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    sizes, arms = found["sizes"], found["arms"]
    columns = ("test error % at NBS", *map(str, sizes))
    rows = rows_of(arms)
    return Result(
        columns,
        rows,
        verdicts(found),
        functools.partial(draw_arms, arms, sizes),
        found,
        figsize=(10, 4.5),
    )


def renorms(task: Task) -> dict[int, Norm]:
    """Returns batch renormalization of each size, its schedule in epochs."""
    epoch = len(task.images.train.labels) // task.size.batch
    end = max(task.size.epochs // 3, 1) * epoch
    schedule = {"warmup_steps": epoch, "r_steps": end, "d_steps": end}
    return {
        size: batch_renorm(normalization_batch_size=size, momentum=MOMENTUM, **schedule)
        for size in task.size.sizes
    }


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    four = list(found["sizes"]).index(4)
    plain, renorm = (found["arms"][name]["running"] for name in ARMS)
    spreads = [errors[:, four] - errors[:, -1] for errors in (plain, renorm)]
    return [
        less(
            "at NBS 4 batch renormalization is over 1.5 points better than batch norm",
            renorm[:, four],
            plain[:, four],
            by=1.5,
            chosen=PILOT,
        ),
        within(
            "at the largest NBS batch renormalization and batch norm are within 0.6 "
            "points",
            renorm[:, -1],
            plain[:, -1],
            0.6,
            chosen=PILOT,
        ),
        less(
            "from NBS 4 to the largest, batch renormalization's error changes less "
            "than half as much as batch norm's",
            np.abs(spreads[1]),
            np.abs(spreads[0]) / 2,
        ),
    ]
