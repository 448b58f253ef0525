"""Small measuring passes: accumulated errors, and the estimator of the variance.

The part of `precise_statistics` that trains with ghost batches (paper, table 2 and
appendix).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbn import batch_norm, ghost_norm
from jaxbn.data import Split
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import errors, precise
from jaxbn.experiments._runs import classification, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments._verdicts import PILOT, Verdict, greater, jointly, less
from jaxbn.experiments.claims._precise_measures import cumulative
from jaxbn.models import create_model

DECAY = 5e-4
"""L2 of all models of the experiment."""


def measure_passes(
    model: Any,
    images: Images,
    seeds: np.ndarray,
    *,
    ghost: int,
    hidden: tuple[int, ...],
    epochs: int,
    passes: Sequence[int],
) -> dict[str, np.ndarray]:
    """Returns the errors of one model by the size of the measuring passes.

    `total` [S, passes]; `mean` [S] with means of variances in passes of 2; `by_class`
    [S, 2] with the total and the mean in passes of 100 of one class.
    """
    inputs, labels = images.train.inputs[:10_000], images.train.labels[:10_000]
    ghosts = create_model(
        "mlp", images.num_classes, ghost_norm(size=ghost), hidden=hidden
    )
    mean_of = batch_norm(momentum=None, unbiased=True)
    means = create_model("mlp", images.num_classes, mean_of, hidden=hidden)
    step = sgd(0.1, len(labels) // 256 * epochs, weight_decay=DECAY)
    runs, _ = fit(
        classification(ghosts),
        start(model, inputs[:2], seeds, step),
        Split(inputs, labels),
        at_random(seeds, len(labels), 256),
        range(epochs),
        optimizer=step,
    )
    sample, classes = inputs[: passes[-1]], labels[: passes[-1]]
    grouped = sample[np.argsort(classes, kind="stable")]

    def total(inputs: np.ndarray, batch: int) -> np.ndarray:
        stats = precise(model, runs.params, runs.batch_stats, inputs, batch=batch)
        return errors(model, runs.params, stats, images.test)

    def mean(inputs: np.ndarray, batch: int) -> np.ndarray:
        stats = cumulative(means, runs.params, runs.batch_stats, inputs, batch=batch)
        return errors(model, runs.params, stats, images.test)

    return {
        "total": np.stack([total(sample, batch) for batch in passes], -1),
        "mean": mean(sample, 2),
        "by_class": np.stack([total(grouped, 100), mean(grouped, 100)], -1),
    }


def on_passes(found: dict[str, Any]) -> list[Verdict]:
    """Returns the verdicts on the size of passes and on the estimator."""
    passes, sizes = found["passes"], np.asarray(found["sizes"]).tolist()
    parts = []
    for ghost, arm in passes.items():
        total = np.asarray(arm["total"])
        two = total[:, 0] - total[:, -1]
        hundred = np.abs(total[:, sizes.index(100)] - total[:, -1])
        parts += [
            greater(f"passes of 2, NBS {ghost}", two, by=0.4, chosen=PILOT),
            less(f"passes of 100, NBS {ghost}", hundred, by=-0.15, chosen=PILOT),
        ]
    arm = passes["32"]
    by_class = np.asarray(arm["by_class"])
    return [
        jointly(
            "precise statistics in passes of 2 images cost over 0.4 points more than "
            "in one pass, of 100 under 0.15",
            parts,
            source="28.8, 23.5 and 23.5 % with passes of 2, of 100 and a single one",
        ),
        greater(
            "in passes of 2 images the mean of variances is worse than the total "
            "variance",
            arm["mean"],
            np.asarray(arm["total"])[:, 0],
        ),
        greater(
            "in passes of one class each the mean of variances is worse than the total "
            "variance",
            by_class[:, 1],
            by_class[:, 0],
        ),
    ]
