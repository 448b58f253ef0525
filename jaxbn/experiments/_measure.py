"""Measuring trained runs: population statistics of fixed models, and their errors.

Models here are those to evaluate: the same layers, with a norm that needs no devices.
R runs lie along the first axis of their variables.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn.base import Array
from jaxbn.data import Split, eval_indices
from jaxbn.population import collect_moments, commit_moments, merge_collected

BATCH = 1000
"""Examples measured at a time, unless said otherwise."""


@functools.partial(jax.jit, static_argnames=("model", "batch", "apart"))
def precise(
    model: Any,
    params: Any,
    batch_stats: Any,
    inputs: Array,
    *,
    batch: int = BATCH,
    apart: bool = False,
) -> Any:
    """Returns the precise statistics of R runs over `inputs`, pooled (paper 3).

    Args:
        model: called as `model(x, train)`; its norm says what is normalized together
            while measuring, of the `batch` at hand.
        params: [R, ...].
        batch_stats: [R, ...], for their structure; {} is returned as it is.
        inputs: [N, ...], or [R, N, ...] if `apart`; what is left over from whole
            batches is left out.
        batch: examples a forward pass.
        apart: whether each run is measured over inputs of its own.
    """
    if not batch_stats:
        return batch_stats
    run = collect_moments(model)

    def one(params: Any, stats: Any, inputs: Array) -> Any:
        variables = {"params": params, "batch_stats": stats}
        size = min(batch, len(inputs))
        whole = inputs[: len(inputs) // size * size]
        batches = whole.reshape(-1, size, *inputs.shape[1:])

        def merge(total: Any, x: Array) -> tuple[Any, None]:
            return merge_collected(total, run(variables, x, True)[1]), None

        first = run(variables, batches[0], True)[1]
        return commit_moments(
            stats, lax.scan(merge, first, batches[1:])[0], momentum=0.0
        )

    return jax.vmap(one, (0, 0, 0 if apart else None))(params, batch_stats, inputs)


@functools.partial(jax.jit, static_argnames=("model", "train", "batch", "apart"))
def logits(
    model: Any,
    params: Any,
    batch_stats: Any,
    inputs: Array,
    *,
    train: bool = False,
    batch: int = BATCH,
    apart: bool = False,
) -> Array:
    """Returns what R runs say of `inputs`, [R, N, K].

    Args:
        model: called as `model(x, train)`, or with a mask `model(x, train, mask)`
            where `train` and the last batch is not whole.
        params: [R, ...].
        batch_stats: [R, ...]; what normalizes unless `train`.
        inputs: [N, ...], or [R, N, ...] if `apart`.
        train: whether mini-batches normalize themselves, in the order they come and as
            the model's norm says.
        batch: examples at a time; those of a mini-batch where `train`.
        apart: whether each run has inputs of its own.
    """

    def one(params: Any, stats: Any, inputs: Array) -> Array:
        variables = {"params": params, "batch_stats": stats}
        rows, mask = eval_indices(len(inputs), batch)

        def predict(chosen: tuple[Array, Array]) -> Array:
            rows, counts = chosen
            some = (counts,) if train and not mask.all() else ()
            updates = {"mutable": ["batch_stats"]} if train else {}
            found = model.apply(variables, inputs[rows], train, *some, **updates)
            return found[0] if train else found

        found = lax.map(predict, (jnp.asarray(rows), jnp.asarray(mask)))
        return found.reshape(-1, found.shape[-1])[: len(inputs)]

    return jax.vmap(one, (0, 0, 0 if apart else None))(params, batch_stats, inputs)


def errors(model: Any, params: Any, stats: Any, split: Split, **how: Any) -> np.ndarray:
    """Returns the error of R runs on a split in percent, [R]; `how` as for `logits`.

    An answer that is not finite is wrong: a net that diverged has an error of 100 %.
    """
    found = np.asarray(logits(model, params, stats, split.inputs, **how))
    right = (found.argmax(-1) == split.labels) & np.isfinite(found).all(-1)
    return 100 * (1 - right.mean(-1))


def shuffled_split(split: Split, seed: int = 0) -> Split:
    """Returns a split in an order of chance, for mini-batches drawn from it in turn."""
    order = np.random.default_rng(seed).permutation(len(split.labels))
    return Split(split.inputs[order], split.labels[order])
