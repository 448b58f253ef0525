"""Metrics: sums travel with their counts and are divided last.

Then the padding of a last batch, the number of devices and the place where a chunk
ends have no influence on what is reported.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbn.base import Array


class Metrics(NamedTuple):
    """Sums over examples.

    Attributes:
        loss: [] float32, the sum of losses.
        correct: [] float32, how many were classified right.
        num: [] float32, how many there were.
        bad: [] float32, how many training steps were not finite.
    """

    loss: Array
    correct: Array
    num: Array
    bad: Array


class Scores(NamedTuple):
    """Sums over examples of an evaluation.

    Attributes:
        sums: as in training.
        in_top5: [] float32, how many have their class among the five most likely; None
            where that is not counted.
    """

    sums: Metrics
    in_top5: Array | None


def no_metrics() -> Metrics:
    """Returns the sums over no example."""
    return Metrics(*(jnp.zeros((), jnp.float32) for _ in Metrics._fields))


def add_metrics(a: Metrics, b: Metrics) -> Metrics:
    """Returns the sums over the examples of both."""
    return Metrics(*(x + y for x, y in zip(a, b, strict=True)))


def measure(
    outputs: Array, labels: Array, mask: Array, task: str, label_smoothing: float = 0.0
) -> Metrics:
    """Returns the sums over the examples that `mask` counts.

    The loss is the cross entropy of softmax, or for regression the squared error.

    Args:
        outputs: [N, classes] logits, or [N, 1] predictions; float32.
        labels: [N] integers, or [N, 1] values.
        mask: [N] bool.
        task: 'classification' or 'regression'.
        label_smoothing: weight of the uniform distribution in the target.
    """
    if task == "regression":
        loss = jnp.sum((outputs - labels) ** 2, -1)
        right = jnp.zeros_like(loss)
    else:
        targets = jax.nn.one_hot(labels, outputs.shape[-1])
        targets = optax.smooth_labels(targets, label_smoothing)
        loss = optax.softmax_cross_entropy(outputs, targets)
        right = (jnp.argmax(outputs, -1) == labels).astype(jnp.float32)
    return Metrics(
        jnp.sum(jnp.where(mask, loss, 0)),
        jnp.sum(jnp.where(mask, right, 0)),
        jnp.sum(mask.astype(jnp.float32)),
        jnp.zeros((), jnp.float32),
    )


def count_top5(outputs: Array, labels: Array, mask: Array) -> Array:
    """Returns how many of the examples have their class among the five most likely.

    Args:
        outputs: [N, classes] logits; of equal ones the first are the most likely.
        labels: [N] integers.
        mask: [N] bool, which examples count.
    """
    likely = jax.lax.top_k(outputs, min(5, outputs.shape[-1]))[1]
    finite = jnp.isfinite(outputs).all(-1)
    among = (likely == labels[:, None]).any(-1) & finite & mask
    return jnp.sum(among.astype(jnp.float32))


def averages(
    metrics: Metrics, task: str, in_top5: Array | None = None
) -> dict[str, float | None]:
    """Returns the mean loss and, for classification, the accuracy; top-5 if counted.

    One that is not finite, or of no example, is None, as JSON has no other word for it.
    """
    loss, correct, num, _ = (float(np.asarray(m)) for m in metrics)
    mean = loss / num if num else math.nan
    values = {"loss": mean if math.isfinite(mean) else None}
    if task == "classification":
        values["accuracy"] = correct / num if num else None
    if in_top5 is not None:
        values["top5"] = float(np.asarray(in_top5)) / num if num else None
    return values
