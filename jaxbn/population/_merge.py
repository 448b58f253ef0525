"""Pooling: the statistics of many batches as those of all their examples together."""

from typing import Any

import jax.numpy as jnp
from jax import tree_util

from jaxbn.base import Array
from jaxbn.core import Moments, merge_moments


def pool_batch_stats(batch_stats: Any, counts: Array) -> Any:
    """Returns the statistics of the union of batches measured one by one.

    For every layer, by the law of total variance,

        mean = sum(n_k mean_k) / n
        var = sum(n_k (var_k + |mean_k - mean|^2)) / n

    computed from deviations. With `var_k` the biased variance of each batch of one
    fixed model these are the precise statistics of Wu and Johnson, equal to those of a
    single batch of everything in the first layer; deeper layers have seen inputs
    normalized by their own batch. (fvcore's default does the same from mean squares,
    which cancel; averaging the variances alone would lose what lies between batches.)

    Args:
        batch_stats: a tree like Flax's `batch_stats`, of dicts that hold 'mean' and
            'var', each stacked over K batches: [K, C]. Other entries beside them, such
            as 'count', are taken from the last batch.
        counts: [K] how many examples each batch counted; one of 0 has no say.

    Returns:
        The tree without the axis of batches, in the same dtypes.

    Raises:
        ValueError: if a 'mean' has no 'var' beside it.

    Example:
        >>> import jax.numpy as jnp
        >>> stats = {'bn': {'mean': jnp.array([[1.], [5.]]), 'var': jnp.zeros((2, 1))}}
        >>> pool_batch_stats(stats, jnp.array([1, 3]))
        {'bn': {'mean': Array([4.], dtype=float32), 'var': Array([3.], dtype=float32)}}

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
    """
    if isinstance(batch_stats, dict) and "mean" in batch_stats:
        return _pool_layer(batch_stats, counts)
    if isinstance(batch_stats, dict):
        return {k: pool_batch_stats(v, counts) for k, v in batch_stats.items()}
    return tree_util.tree_map(lambda leaf: leaf[-1], batch_stats)


def _pool_layer(layer: dict[str, Array], counts: Array) -> dict[str, Array]:
    if "var" not in layer:
        raise ValueError(
            f"a layer of batch_stats has {sorted(layer)}, expected 'mean' and 'var'; "
            "pass the statistics of batch norm layers"
        )
    mean, var = layer["mean"], layer["var"]
    total = jnp.asarray(counts, var.dtype)
    total = jnp.broadcast_to(total.reshape(-1, *(1,) * (var.ndim - 1)), var.shape)
    merged = merge_moments(Moments(total, mean, jnp.zeros_like(mean), var * total))
    pooled = {"mean": merged.mean.astype(mean.dtype), "var": merged.var}
    rest = {key: value[-1] for key, value in layer.items()}
    return {**rest, **pooled}
