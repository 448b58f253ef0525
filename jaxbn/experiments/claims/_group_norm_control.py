"""Group norm, with and without weight standardization, beside batch norm.

A network of 3 hidden layers of 128 is trained as by 8 workers that have N = 2 to 32
examples each: batches of 8 N, of which N are normalized together, the learning rate
proportional to N. Group norm, 8 groups of 16 features, knows no batch, and neither do
standardized kernels.

Claims (Wu and He 2018; Qiao et al. 2019).
1. Batch norm needs the batch: its test error at N = 2 is over 2 points larger than at
   N = 32, with precise statistics.
2. Group norm does not need the batch: its test errors at N = 2 and 32 are within 1
   point.
3. Group norm with weight standardization does not need the batch either: its test
   errors at N = 2 and 32 are within 1 point.
4. At N = 2 group norm is over 2 points better than batch norm.
5. At N = 32 batch norm is better than group norm, which lacks its noise.

    python -m jaxbn.experiments group_norm_control --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds were set before the first run,
without a pilot.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxbn import batch_norm, group_norm, standardize_kernels
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._measure import errors
from jaxbn.experiments._runs import Loss, Runs
from jaxbn.experiments._verdicts import BEFORE, Verdict, greater, less, within
from jaxbn.experiments.claims._small_batches import (
    MOMENTUM,
    Arm,
    draw_arms,
    evaluate,
    rows_of,
    stack,
)
from jaxbn.experiments.claims._sweep import Size, Task, prepare, train

SOURCE = "Wu and He 2018; Qiao et al. 2019"
WORKERS = 8
SIZES = {
    "smoke": Size(512, 300, 4, (2, 8), options=(("hidden", (32,)),)),
    "small": Size(10_000, 5_000, 10, (2, 4, 8, 16, 32)),
    "full": Size(
        None, None, 30, (2, 4, 8, 16, 32), model="resnet20", options=(), pool=1
    ),
}
GROUP = group_norm(8)


def measure(settings: Settings) -> dict[str, Any]:
    """Returns errors in percent; see the top of the file."""
    task = prepare(settings, SIZES[settings.size])
    sizes = task.size.sizes
    arms = {
        "batch norm": stack([evaluate(task, fit_batch(task, n)) for n in sizes]),
        "group norm": stack([group_errors(task, n) for n in sizes]),
        "group norm, standardized kernels": stack(
            [group_errors(task, n, standardized) for n in sizes]
        ),
    }
    found = {"sizes": sizes, "arms": arms}
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    sizes, arms = found["sizes"], found["arms"]
    columns = ("test error % with examples a worker", *map(str, sizes))
    return Result(
        columns,
        rows_of(arms),
        verdicts(found),
        functools.partial(draw_arms, arms, sizes, xlabel="examples a worker, N"),
        found,
        figsize=(10, 4.5),
    )


def workers(n: int) -> dict[str, Any]:
    """Returns how 8 workers of `n` examples each train, as `train` takes it."""
    return {"batch": WORKERS * n, "rate": n / 32}


def fit_batch(task: Task, n: int) -> Runs:
    """Returns runs whose workers normalize their own examples together."""
    norm = batch_norm(normalization_batch_size=n, momentum=MOMENTUM)
    return train(task, norm, **workers(n))


def group_errors(
    task: Task, n: int, change: Callable[[Any], Any] = lambda params: params
) -> Arm:
    """Returns the test errors of group norm with `change(params)`, [S].

    There are no statistics, so that both ways to evaluate are one.
    """

    def wrap(loss: Loss) -> Loss:
        return lambda params, *rest: loss(change(params), *rest)

    runs = train(task, GROUP, wrap=wrap, **workers(n))
    params = jax.vmap(change)(runs.params)
    error = errors(task.model(GROUP), params, {}, task.images.test)
    return {"running": error, "precise": error}


def standardized(params: Any) -> Any:
    """Returns parameters whose hidden kernels are standardized; the head's is not."""
    return standardize_kernels(params, where=lambda path: not path.startswith("head"))


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held, with precise statistics."""
    batch, group, standard = (arm["precise"] for arm in found["arms"].values())
    few, many = found["sizes"][0], found["sizes"][-1]
    return [
        greater(
            f"with batch norm, {few} examples a worker give a test error over 2 points "
            f"above that with {many}",
            batch[:, 0],
            batch[:, -1],
            by=2,
            chosen=BEFORE,
        ),
        within(
            f"with group norm, the test errors with {few} and {many} examples a worker "
            "are within 1 point",
            group[:, 0],
            group[:, -1],
            1,
            chosen=BEFORE,
        ),
        within(
            f"with group norm and standardized kernels, {few} and {many} examples a "
            "worker are within 1 point",
            standard[:, 0],
            standard[:, -1],
            1,
            chosen=BEFORE,
        ),
        less(
            f"with {few} examples a worker group norm is over 2 points better than "
            "batch norm",
            group[:, 0],
            batch[:, 0],
            by=2,
            chosen=BEFORE,
            source="by 10.6 points, ResNet-50 on ImageNet",
        ),
        less(
            f"with {many} examples a worker batch norm is better than group norm",
            batch[:, -1],
            group[:, -1],
        ),
    ]
