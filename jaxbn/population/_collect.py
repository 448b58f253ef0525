"""Collecting: what is kept of each batch at each layer, and how it is merged."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from jaxbn.base import Array
from jaxbn.core import Moments, batch_moments, merge_moments
from jaxbn.core._moments import as_divisor
from jaxbn.tree import Call, has_statistics


def as_handler(fixed: frozenset[str], only: str | None) -> Any:
    """Returns what measures the layers that are not `fixed`; `only` one if named."""

    def measure(call: Call) -> tuple[Array, dict[str, Array]]:
        if not has_statistics(call.state):
            return call.proceed(), {}
        if call.path in fixed:
            return call.proceed(use_running_average=True), {}
        y = call.proceed(use_running_average=False)
        if only not in (None, call.path):
            return y, {}
        moments = moments_of(call)
        if call.notes:  # It was called before, for the same batch.
            moments = merge_two(Moments(**call.notes), moments)
        return y, moments._asdict()

    return measure


def moments_of(call: Call) -> Moments:
    """Returns the moments of what a layer is given, of the shape of its statistics.

    Raises:
        ValueError: if it has several rows of statistics and does not say of what.
    """
    moments = each_part(
        call, lambda mask: batch_moments(call.x, axis=call.axis, mask=mask)
    )
    if moments.total.shape != call.state["mean"].shape:
        raise ValueError(
            f"layer {call.path!r} has statistics of shape "
            f"{call.state['mean'].shape} for data with {moments.total.shape}, expected "
            "the same, or a norm that says in parts= of which examples each row is"
        )
    return moments


def merge_two(a: Moments, b: Moments) -> Moments:
    """Returns the moments of both."""
    return merge_moments(Moments(*(jnp.stack(pair) for pair in zip(a, b, strict=True))))


def each_part(call: Call, measure: Callable[[Any], Any]) -> Any:
    """Returns `measure(mask)`, stacked over the parts if a layer has several rows."""
    if call.parts is None:
        return measure(call.mask)
    train = not call.use_running_average
    parts = call.parts(call.x, train, mask=call.mask, **call.overrides)
    return jax.vmap(measure)(parts)


class Average(NamedTuple):
    """Means of batches and of their variances, each batch weighing the same.

    Attributes:
        total: [C] how many batches had anything to count.
        mean: [C] the average of their means.
        var: [C] the average of their unbiased variances.
    """

    total: Array
    mean: Array
    var: Array


def as_average(moments: Moments) -> Average:
    """Returns the average of a single batch."""
    counted = (moments.total > 0).astype(moments.total.dtype)
    return Average(counted, moments.mean, moments.m2 / as_divisor(moments.total - 1))


def average_two(a: Average, b: Average) -> Average:
    """Returns the average of the batches of both."""
    total = a.total + b.total
    weight = b.total / as_divisor(total)
    mixed = (old + weight * (new - old) for old, new in zip(a[1:], b[1:], strict=True))
    return Average(total, *mixed)


def share(found: dict[str, Any], merge: Callable) -> dict[str, Any]:
    """Returns the merge of what all processes have measured."""
    everywhere = multihost_utils.process_allgather(found)
    rows = [
        jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), everywhere)
        for i in range(jax.process_count())
    ]
    return functools.reduce(functools.partial(merge_trees, merge), rows)


def merge_trees(merge: Callable, a: dict[str, Any], b: dict[str, Any]) -> dict:
    """Returns the merge of two results, layer by layer."""
    return {path: merge(a[path], b[path]) for path in a}


DEFINITIONS: dict[str, tuple[Callable, Callable]] = {
    "pooled": (lambda moments: moments, merge_two),
    "averaged": (as_average, average_two),
}
"""What is kept of a batch, and how two of these become one."""
