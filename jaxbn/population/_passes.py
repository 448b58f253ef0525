"""Passes: a fixed model run over batches, and what is collected of each layer."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn.base import Array
from jaxbn.core import Moments
from jaxbn.population._collect import as_handler, merge_trees
from jaxbn.population._install import install
from jaxbn.tree import (
    Call,
    as_model,
    at_batch,
    is_measured,
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
    fixed: frozenset[str] = frozenset(),
    only: str | None = None,
) -> tuple[dict[str, Any], int]:
    """Returns what was collected of each layer, and the number of batches.

    Layers that are `fixed` normalize by their running statistics. With `only` no other
    layer is measured.
    """
    found, num, step, shape = None, 0, None, None
    for batch in batches:
        arrays, rest = split_arrays(batch)
        if step is None or rest != shape:
            step, shape = _step_of(job, fixed, only, rest), rest
        found = step(at_batch(variables, num), found, arrays)
        num += 1
    if found is None:
        raise ValueError("batches is empty, expected at least one; pass some data")
    return found, num


@functools.lru_cache(maxsize=64)
def _step_of(
    job: Job, fixed: frozenset[str], only: str | None, rest: Any
) -> Callable[..., dict[str, Any]]:
    """Returns `_step` compiled: to hash a model at each batch costs more than some."""
    return jax.jit(functools.partial(_step, job, fixed, only, rest))


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
    every = not any(look(job, variables, arrays, rest).values())
    run = watch(as_model(job.model, variables), as_handler(fixed, only, every))
    _, notes = run(variables, *args, **kwargs)
    new = {path: job.sample(Moments(**note)) for path, note in notes.items()}
    return new if found is None else merge_trees(job.merge, found, new)


def one_by_one(
    job: Job, variables: Any, stats: Any, batches: Iterable[Any]
) -> tuple[dict[str, Any], int]:
    """Returns what `measure` does, layer after layer in the order they are called."""
    batch = next(iter(batches), None)
    if batch is None:
        raise ValueError("batches is empty, expected at least one; pass some data")
    seen = look(job, variables, *split_arrays(batch))
    order = [path for path, train in seen.items() if train] or list(seen)
    found: dict[str, Any] = {}
    num = 0
    for path in order:
        here = with_stats(variables, install(stats, found))
        new, num = measure(job, here, batches, frozenset(found), path)
        found |= new
    return found, num


def look(job: Job, variables: Any, arrays: list[Any], rest: Any) -> dict[str, bool]:
    """Returns whether the batch normalizes in each layer that can be measured.

    By path, in the order they are first called; traced, not run, and kept.
    """
    leaves, tree = jax.tree.flatten((variables, arrays))
    shapes = [jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a)) for a in leaves]
    return _look(job, rest, tree, tuple(shapes))


@functools.lru_cache(maxsize=64)
def _look(job: Job, rest: Any, tree: Any, shapes: tuple) -> dict[str, bool]:
    seen: dict[str, bool] = {}

    def note(call: Call) -> tuple[Array, dict]:
        if is_measured(call):
            seen.setdefault(call.path, not call.use_running_average)
        return call.proceed(), {}

    def once(variables: Any, arrays: list[Any]) -> Any:
        args, kwargs = job.call(join_arrays(arrays, rest))
        model = as_model(job.model, variables)
        return watch(model, note)(variables, *args, **kwargs)[0]

    jax.eval_shape(once, *jax.tree.unflatten(tree, shapes))
    return seen


def as_call(batch: Any) -> tuple[tuple, dict[str, Any]]:
    """Returns a batch as arguments: a tuple's entries, anything else as it is."""
    return (batch if isinstance(batch, tuple) else (batch,)), {}
