"""Passes: a fixed model run over batches, and what is collected of each layer."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jaxbn.base import Array
from jaxbn.core import Moments
from jaxbn.population._collect import as_handler, merge_trees
from jaxbn.population._install import install
from jaxbn.tree import (
    Call,
    as_model,
    has_statistics,
    join_arrays,
    split_arrays,
    watch,
    with_stats,
)

CallOf = Callable[[Any], tuple[tuple, dict[str, Any]]]
"""A batch to the positional arguments and keywords of a model's call."""


class Job(NamedTuple):
    """What stays the same while batches pass; hashable, so that programs are kept.

    Attributes:
        model: a linen module, or the graph of an nnx module.
        call: a batch to the arguments of a call.
        sample: the moments of a batch to what is collected.
        merge: two of these to one.
    """

    model: Any
    call: CallOf
    sample: Callable
    merge: Callable


def measure(
    job: Job,
    variables: Any,
    batches: Iterable[Any],
    fixed: frozenset[str],
    only: str | None,
) -> tuple[dict[str, Any], int]:
    """Returns what was collected of each layer, and the number of batches.

    Layers that are `fixed` normalize by their running statistics. With `only` no other
    layer is measured.
    """
    found, num = None, 0
    for batch in batches:
        arrays, rest = split_arrays(batch)
        found = _step(job, fixed, only, rest, variables, found, arrays)
        num += 1
    if found is None:
        raise ValueError("batches is empty, expected at least one; pass some data")
    return found, num


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(
    job: Job,
    fixed: frozenset[str],
    only: str | None,
    rest: Any,
    variables: Any,
    found: Any,
    arrays: list[Any],
) -> dict[str, Any]:
    """Returns what was collected, with one more batch, given as `split_arrays` does."""
    args, kwargs = job.call(join_arrays(arrays, rest))
    run = watch(as_model(job.model, variables), as_handler(fixed, only))
    _, notes = run(variables, *args, **kwargs)
    new = {path: job.sample(Moments(**note)) for path, note in notes.items()}
    return new if found is None else merge_trees(job.merge, found, new)


def one_by_one(
    job: Job, variables: Any, stats: Any, batches: Iterable[Any]
) -> tuple[dict[str, Any], int]:
    """Returns what `_measure` does, layer after layer in the order they are called."""
    found: dict[str, Any] = {}
    num = 0
    for path in _in_order(job, variables, batches):
        here = with_stats(variables, install(stats, found))
        new, num = measure(job, here, batches, frozenset(found), path)
        found |= new
    return found, num


def _in_order(job: Job, variables: Any, batches: Iterable[Any]) -> list[str]:
    """Returns the paths of the layers with statistics, as they are first called."""
    order: list[str] = []

    def note(asked: Call) -> tuple[Array, dict]:
        if has_statistics(asked.state) and asked.path not in order:
            order.append(asked.path)
        return asked.proceed(), {}

    def once(variables: Any, arrays: list[Any], rest: Any) -> Any:
        args, kwargs = job.call(join_arrays(arrays, rest))
        model = as_model(job.model, variables)
        return watch(model, note)(variables, *args, **kwargs)[0]

    for batch in batches:
        arrays, rest = split_arrays(batch)
        jax.eval_shape(functools.partial(once, rest=rest), variables, arrays)
        return order
    raise ValueError("batches is empty, expected at least one; pass some data")


def as_call(batch: Any) -> tuple[tuple, dict[str, Any]]:
    """Returns a batch as arguments: a tuple's entries, anything else as it is."""
    return (batch if isinstance(batch, tuple) else (batch,)), {}
