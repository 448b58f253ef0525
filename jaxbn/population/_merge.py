"""Merging: the statistics of replicas, or of batches, as those of all examples.

What devices measured apart is pooled by the law of total variance,

    mean = sum(n_k mean_k) / n
    var = sum(n_k (var_k + |mean_k - mean|^2)) / n

computed from deviations. Averaging the variances, as Flax's ImageNet example and timm
do across replicas, loses what lies between them; taking those of the first device
forgets the others.
"""

import itertools
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import as_array, has_numbers, shown
from jaxbn.base import Array, AxisName
from jaxbn.core import Moments, merge_replicas, stacks_along
from jaxbn.tree import find_layers, replace_layers


def merge_batch_stats(
    batch_stats: Any,
    counts: ArrayLike | None = None,
    *,
    axis_name: AxisName | None = None,
) -> Any:
    """Returns the statistics of the union of what replicas, or batches, have seen.

    With `var` the biased variance of each batch of one fixed model these are the
    precise statistics of Wu and Johnson, equal to those of a single batch of everything
    in the first layer; deeper layers have seen inputs normalized by their own batch.
    (fvcore's default does the same from mean squares, which cancel.)

    Args:
        batch_stats: a tree like Flax's `batch_stats`, or an `nnx.State`, of layers that
            hold 'mean' and 'var': [K, ...] each, stacked over K replicas. Other arrays,
            such as 'count', are taken from the last one.
        counts: [K] how many examples each has seen; one of 0 has no say. None: all the
            same. Where all are 0 the result is mean 0 and var 1, as of a new layer.
        axis_name: instead of stacked arrays, those of this device, to be merged along
            an axis of pmap, vmap or shard_map: [...] each, and `counts` []. All layers
            travel in one collective. Other arrays stay as they are. Under jit, an axis
            of the mesh in context that the K replicas lie along: one collective too.
            Of both kinds: stacked along the latter in each of the former.

    Returns:
        The tree without the axis of replicas, in the same dtypes.

    Raises:
        ValueError: if a 'mean' has no 'var' of its shape beside it, the arrays are not
            all stacked K times, or `counts` is not [K].

    Example:
        >>> import jax.numpy as jnp
        >>> stats = {'bn': {'mean': jnp.array([[1.], [5.]]), 'var': jnp.zeros((2, 1))}}
        >>> merge_batch_stats(stats, [1, 3])
        {'bn': {'mean': Array([4.], dtype=float32), 'var': Array([3.], dtype=float32)}}

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
    """
    stacked = axis_name is None or stacks_along(axis_name)
    layers = find_layers(batch_stats)
    norms = {path: layer for path, layer in layers.items() if "mean" in layer}
    _check_norms(norms)
    replicas = _num_replicas(layers) if stacked else ()
    merged = {
        path: {name: value[-1] if stacked else value for name, value in layer.items()}
        for path, layer in layers.items()
    }
    if norms:
        mean, var = (_pack(norms, name, replicas) for name in ("mean", "var"))
        total = _for_each_channel(counts, replicas, var)
        moments = Moments(total, mean, jnp.zeros_like(mean), var * total)
        moments = merge_replicas(moments, axis_name)
        _unpack(moments, [merged[path] for path in norms])
    return replace_layers(batch_stats, merged)


def _num_replicas(layers: dict[str, dict[str, Array]]) -> tuple[int, ...]:
    """Returns the leading axis (K,) of all arrays, () where there are none."""
    stacked = {
        f"{path}/{name}": jnp.shape(value)[:1]
        for path, layer in layers.items()
        for name, value in layer.items()
    }
    if len(set(stacked.values())) > 1 or {(), (0,)} & set(stacked.values()):
        raise ValueError(
            f"the arrays of batch_stats are stacked {stacked} times, expected all "
            "alike; give every array a leading axis of replicas, or pass axis_name"
        )
    return next(iter(stacked.values()), ())


def _check_norms(norms: dict[str, dict[str, Array]]) -> None:
    for path, layer in norms.items():
        for name in {"mean", "var"} & set(layer):
            value = layer[name]
            if not has_numbers(value) or jnp.result_type(value).itemsize < 2:
                raise ValueError(
                    f"batch_stats has {shown(value)} as {name!r} of layer {path!r}, "
                    "expected numbers of 16 bits or more; pass the statistics of a "
                    "model"
                )
        if "var" not in layer:
            raise ValueError(
                f"the layer {path!r} of batch_stats has {sorted(layer)}, expected "
                "'mean' and 'var'; pass the statistics of batch norm layers"
            )
        shapes = jnp.shape(layer["mean"]), jnp.shape(layer["var"])
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the layer {path!r} of batch_stats has mean {shapes[0]} and var "
                f"{shapes[1]}, expected one shape; pass the statistics of one model"
            )


def _pack(
    layers: dict[str, dict[str, Array]], name: str, replicas: tuple[int, ...]
) -> Array:
    """Returns the arrays called `name` of all layers as one, [K, N] or [N]."""
    arrays = [jnp.asarray(layer[name]) for layer in layers.values()]
    flat = [array.reshape(*replicas, -1) for array in arrays]
    return jnp.concatenate(flat, -1)


def _unpack(moments: Moments, layers: list[dict[str, Array]]) -> None:
    """Puts the parts of `moments` [N] in place of what the layers hold."""
    ends = list(itertools.accumulate(layer["mean"].size for layer in layers))
    var = jnp.where(moments.total > 0, moments.var, 1)
    for name, merged in (("mean", moments.mean), ("var", var)):
        for part, layer in zip(jnp.split(merged, ends[:-1]), layers, strict=True):
            old = layer[name]
            part = part if jnp.iscomplexobj(old) else part.real
            layer[name] = part.reshape(old.shape).astype(old.dtype)


def _for_each_channel(
    counts: ArrayLike | None, replicas: tuple[int, ...], like: Array
) -> Array:
    """Returns the counts, one a replica, for every channel."""
    counts = as_array("counts", 1 if counts is None else counts)
    if counts.shape not in ((), replicas):
        raise ValueError(
            f"counts has shape {counts.shape}, expected {replicas}, one a replica; "
            "pass how many examples each has seen"
        )
    counts = counts.astype(like.dtype)
    return jnp.broadcast_to(counts.reshape(*counts.shape, 1), like.shape)
