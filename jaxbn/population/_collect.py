"""Collecting: what is kept of each batch at each layer, and how it is merged."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from jaxbn.base import Array
from jaxbn.core import Moments
from jaxbn.core._moments import as_divisor
from jaxbn.tree import Call, is_measured, merge_two, moments_of


def as_handler(
    fixed: frozenset[str] = frozenset(), only: str | None = None, every: bool = False
) -> Any:
    """Returns what measures the layers that are not `fixed`; `only` one if named.

    What the call has in evaluation is frozen and left alone, unless `every` layer is
    meant; so is a `frozen_norm`, whose statistics nothing is to move.
    """

    def measure(call: Call) -> tuple[Array, dict[str, Array]]:
        if not is_measured(call) or (call.use_running_average and not every):
            return call.proceed(), {}
        if call.path in fixed:
            return call.proceed(use_running_average=True), {}
        # What is normalized by the batch is measured as that: parts go by the mode.
        call = call._replace(use_running_average=False)
        y = call.proceed(use_running_average=False)
        if only not in (None, call.path):
            return y, {}
        moments = moments_of(call)
        if call.notes:  # It was called before, for the same batch.
            moments = merge_two(Moments(**call.notes), moments)
        return y, moments._asdict()

    return measure


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
    """Returns the merge of two results by layer; each may have some of its own."""
    both = {path: merge(a[path], b[path]) for path in a if path in b}
    return {**a, **b, **both}


DEFINITIONS: dict[str, tuple[Callable, Callable]] = {
    "pooled": (lambda moments: moments, merge_two),
    "averaged": (as_average, average_two),
}
"""What is kept of a batch, and how two of these become one."""
