"""Groups that share a style: a small stand-in for the regions of one image.

A detector's head sees many regions of each image, which have its lighting in common.
Here 16 random examples make a group, and each group gets a contrast and a brightness
of its own, drawn anew at every step:

    x' = exp(0.8 a) x + 1.4 b,      a, b ~ N(0, 1) of the group

(1.4 deviations of a pixel are about 0.5 of the range of brightness.) The statistics of
one group alone remove its style; those of the population cannot.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn import batch_norm, shuffled
from jaxbn.base import Array, Norm
from jaxbn.data import Split
from jaxbn.experiments._measure import errors, precise
from jaxbn.experiments._runs import Loss, Runs, axis_of
from jaxbn.experiments._verdicts import PILOT, Verdict, greater, jointly, less, within
from jaxbn.experiments.claims._sweep import (
    PLAIN,
    Task,
    minibatch_errors,
    plain_stats,
    train,
    whole_batches,
)
from jaxbn.training import ConfigError
from jaxbn.training._parallel import Parallel

GROUP = 16
"""Examples that share a style."""
ARMS = ("group", "2 groups", "shuffled", "all", "no norm")
"""What is normalized together."""


def check_groups(batch: int, devices: int | None) -> None:
    """Refuses devices that would have to share a group.

    Raises:
        ConfigError: (a ValueError) that says how many may be.
    """
    here = batch // (devices or 1)
    if here % GROUP:
        raise ConfigError(
            f"num_devices is {devices}, so that each has {here} examples of a batch of "
            f"{batch}, expected a multiple of {GROUP}, a group that shares a style; "
            f"use {batch // GROUP} devices or fewer, or a larger size"
        )


def dress(
    key: Array, x: Array, *, group: int = GROUP, axis_name: str | None = None
) -> Array:
    """Returns examples [N, ...] in the styles of their groups; N divides by `group`.

    With an `axis_name` the groups of all devices are drawn, so that a batch has the
    same styles however many devices share it.
    """
    here = len(x) // group
    everywhere = here if axis_name is None else here * lax.axis_size(axis_name)
    styles = jax.random.normal(key, (everywhere, 2))
    if axis_name is not None:
        styles = lax.dynamic_slice_in_dim(
            styles, lax.axis_index(axis_name) * here, here
        )
    styles = jnp.repeat(styles, group, 0)
    styles = styles.reshape(len(x), 2, *(1,) * (x.ndim - 1))
    return jnp.exp(0.8 * styles[:, 0]) * x + 1.4 * styles[:, 1]


def dressed(split: Split, seed: int, batch: int, group: int = GROUP) -> Split:
    """Returns a split in fixed styles, cut to whole batches."""
    inputs, labels = whole_batches(split, batch)
    styled = dress(jax.random.key(seed), jnp.asarray(inputs), group=group)
    return Split(np.asarray(styled), labels)


def norms_of(axis_name: str | None) -> dict[str, Norm | None]:
    """Returns the norm of each arm, where a batch lies along `axis_name`."""
    one = {"normalization_batch_size": GROUP, "axis_name": axis_name}
    two = {**one, "normalization_batch_size": 2 * GROUP}
    apart = shuffled(batch_norm(**one), axis_name=axis_name)
    everything = batch_norm(axis_name=axis_name)
    norms = (batch_norm(**one), batch_norm(**two), apart, everything, None)
    return dict(zip(ARMS, norms, strict=True))


def run_heads(
    task: Task, parallel: Parallel | None
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the errors of each arm, [S] each, in percent.

    'pop' is with precise statistics of the training groups, normalized together while
    measuring as they were in training; 'mb' with those of the single test group.
    """
    axis = axis_of(parallel)
    batch, images = task.size.batch, task.images
    known, test = dressed(images.train, 0, batch), dressed(images.test, 1, batch)
    alone = task.model(batch_norm(normalization_batch_size=GROUP))
    norms = norms_of(axis)
    how: dict[str, Any] = {"wrap": in_styles(axis_name=axis), "parallel": parallel}
    trained = {  # Without a norm the full rate diverges.
        name: train(task, norm, rate=1.0 if norm else 0.2, **how)
        for name, norm in norms.items()
    }
    found = {}
    for name, runs in trained.items():
        if norms[name] is None:
            found[name] = {"pop": errors(task.model(None), runs.params, {}, test)}
            continue
        alike = task.model(norms_of(None)[name])
        found[name] = {
            "pop": precise_errors(task, alike, runs, known, test),
            "mb": minibatch_errors(task, alone, runs, test),
        }
    return found


def in_styles(
    group: int = GROUP, axis_name: str | None = None
) -> Callable[[Loss], Loss]:
    """Returns `wrap(loss)`, the loss of a batch in the styles of its groups."""

    def wrap(loss: Loss) -> Loss:
        def styled(params: Any, stats: Any, batch: Any, key: Array) -> Any:
            x = jnp.asarray(batch.inputs)
            inputs = dress(key, x, group=group, axis_name=axis_name)
            return loss(params, stats, batch._replace(inputs=inputs), key)

        return styled

    return wrap


def precise_errors(
    task: Task, model: Any, runs: Runs, known: Split, test: Split
) -> np.ndarray:
    """Returns the test errors with precise statistics of groups in percent, [S].

    Args:
        task: of the runs.
        model: which normalizes, while measuring, what was normalized in training.
        runs: of it.
        known: training groups to measure.
        test: groups to test on.
    """
    inputs, batch = known.inputs, task.size.batch
    stats = precise(model, runs.params, runs.batch_stats, inputs, batch=batch)
    return errors(task.model(PLAIN), runs.params, plain_stats(stats), test)


def head_verdicts(heads: dict[str, Any]) -> list[Verdict]:
    """Returns the verdicts on the arms, claims 6 to 8 of the sweep."""
    ours = {"chosen": PILOT}
    pop = {name: errors["pop"] for name, errors in heads.items()}
    return [
        greater(
            "trained on groups of one style, a group's own statistics are over 20 "
            "points better than the population's",
            pop["group"],
            heads["group"]["mb"],
            by=20,
            chosen=PILOT,
            source="box AP 41.5 against 30.7",
        ),
        jointly(
            "with groups of one style, population statistics do better the more groups "
            "training normalizes together",
            [
                greater(
                    "1 minus 2 groups", pop["group"], pop["2 groups"], by=15, **ours
                ),
                greater(
                    "1 minus shuffled", pop["group"], pop["shuffled"], by=25, **ours
                ),
                greater("1 minus all groups", pop["group"], pop["all"], by=25, **ours),
                within("shuffled minus all", pop["shuffled"], pop["all"], 3, **ours),
            ],
            changed="population statistics are measured as groups were normalized in "
            "training, not 1,000 examples together",
            source="box AP 30.7, 40.1, 41.7 and 41.7",
        ),
        less(
            "with groups of one style, normalizing all groups together is at most 1 "
            "point worse than no norm",
            pop["all"],
            pop["no norm"],
            by=-1,
            chosen=PILOT,
            source="box AP 41.7 against 41.1",
        ),
    ]
