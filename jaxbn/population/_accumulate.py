"""Accumulating: several micro-batches, absorbed by the running statistics as one.

With gradients accumulated over micro-batches, a norm that absorbs each of them moves k
times a step and never sees the variance between them. Here each forward pass hands out
what it measured, the moments are merged, and the statistics move once:

    run = collect_moments(model)
    output, moments = run(variables, x, train=True)         each micro-batch
    total = merge_collected(total, moments)
    batch_stats = commit_moments(batch_stats, total)        once a step
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbn._values import shown
from jaxbn.base import Array, AxisName
from jaxbn.core import Moments, merge_replicas, update_running
from jaxbn.core._devices import axis_names
from jaxbn.core._moments import check_moments
from jaxbn.population._collect import as_handler, merge_trees
from jaxbn.tree import find_layers, merge_two, replace_layers, watch

Collected = dict[str, Moments]
"""Moments by the path of the layer."""


def collect_moments(model: Any) -> Callable[..., tuple[Any, Collected]]:
    """Returns `run(variables, *args, **kwargs) -> (output, moments)`.

    The model runs as it is called, in training; nothing of its running statistics is
    moved. Layers that the call has in evaluation are frozen and have no moments. Pure,
    differentiable, and of one structure, so that it may be scanned over micro-batches.

    Moments are of the array at hand, whatever axis the layer normalizes over: of
    several devices, pool them by `pool_collected` before they are committed.

    Args:
        model: a linen or nnx module, as for `jaxbn.tree.watch`.

    Returns:
        `run`; moments carry no gradient.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=False)
        >>> x = jnp.array([[0.0], [2.0], [7.0], [11.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> run = collect_moments(model)
        >>> first, second = (run(variables, part)[1] for part in (x[:2], x[2:]))
        >>> moments = merge_collected(first, second)
        >>> commit_moments(variables['batch_stats'], moments, momentum=0.0)
        {'mean': Array([5.], dtype=float32), 'var': Array([18.5], dtype=float32)}
    """
    watched = watch(model, as_handler())

    def run(variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, Collected]:
        output, notes = watched(variables, *args, **kwargs)
        moments = {path: Moments(**note) for path, note in notes.items()}
        return output, lax.stop_gradient(moments)

    return run


def merge_collected(a: Collected, b: Collected) -> Collected:
    """Returns the moments of both, layer by layer.

    Args:
        a: what one micro-batch gave.
        b: what another one gave, of the same model.

    Returns:
        Their union's, by the law of total variance; see `jaxbn.merge_moments`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbn import batch_moments
        >>> one, two = ({'bn': batch_moments(jnp.array([[v]]))} for v in (1.0, 5.0))
        >>> merge_collected(one, two)['bn'].var
        Array([4.], dtype=float32)
    """
    _check_collected(a)
    _check_collected(b)
    for path in a:
        if path in b and a[path].total.shape != b[path].total.shape:
            raise ValueError(
                f"a has moments of shape {a[path].total.shape} of layer {path!r} and b "
                f"{b[path].total.shape}, expected one shape; merge those of one model"
            )
    return merge_trees(merge_two, a, b)


def pool_collected(moments: Collected, axis_name: AxisName) -> Collected:
    """Returns the moments of all devices; all layers travel in one collective.

    Args:
        moments: what this device collected, by layer.
        axis_name: the axis of pmap, vmap or shard_map that devices lie along.

    Returns:
        The same on all devices: their union's, by the law of total variance.

    Raises:
        ValueError: if there is no such axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxbn import batch_moments
        >>> def measure(x):
        ...     return pool_collected({'bn': batch_moments(x)}, 'devices')
        >>> x = jnp.array([[[0.0]], [[4.0]]])
        >>> jax.vmap(measure, axis_name='devices')(x)['bn'].var
        Array([[4.],
               [4.]], dtype=float32)
    """
    _check_collected(moments)
    layers = list(moments.values())
    if not axis_names(axis_name):
        raise ValueError(
            f"axis_name is {shown(axis_name)}, expected the name of an axis of "
            "devices; what is of one device needs no pooling"
        )
    if not layers:
        return {}
    fields = zip(*layers, strict=True)
    packed = [jnp.concatenate([jnp.ravel(a) for a in field]) for field in fields]
    pooled = merge_replicas(Moments(*packed), axis_name)
    ends = list(itertools.accumulate(layer.total.size for layer in layers))
    parts = [jnp.split(field, ends[:-1]) for field in pooled]
    shaped = zip(moments.items(), zip(*parts, strict=True), strict=True)
    return {
        path: Moments(*(a.reshape(layer.total.shape) for a in fields))
        for (path, layer), fields in shaped
    }


def commit_moments(
    batch_stats: Any,
    moments: Collected,
    *,
    momentum: float | Array | None = 0.99,
    unbiased: bool = False,
    debias: bool = False,
    skip_nonfinite: bool = True,
) -> Any:
    """Returns the statistics after absorbing `moments` as those of one batch.

    In the first layer that is what a single large batch would have done; deeper layers
    have seen inputs that each micro-batch normalized by itself, as their gradients did.

    Args:
        batch_stats: of the model, linen's or an `nnx.State`.
        moments: what was collected.
        momentum: the weight of the old value, as for `jaxbn.bn_apply`.
        unbiased: likewise.
        debias: likewise; layers need a 'count' then, as for momentum=None.
        skip_nonfinite: likewise.

    Returns:
        A tree like `batch_stats`; layers without moments are as they were, and so are
        entries that only a norm's own update moves, such as the 'shuffles' of
        `shuffled`; 'count' moves where `debias` or momentum=None asks for it, as the
        schedule of `batch_renorm` does.

    Raises:
        ValueError: if moments are of a layer that `batch_stats` does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbn import batch_moments
        >>> stats = {'bn': {'mean': jnp.zeros(1), 'var': jnp.ones(1)}}
        >>> moments = {'bn': batch_moments(jnp.array([[1.0], [5.0]]))}
        >>> commit_moments(stats, moments, momentum=0.5)['bn']['mean']
        Array([1.5], dtype=float32)
    """
    _check_collected(moments)
    layers = find_layers(batch_stats)
    unknown = sorted(set(moments) - set(layers))
    if unknown:
        raise ValueError(
            f"moments are of layers {unknown}, which batch_stats does not have, "
            f"expected some of {sorted(layers)}; pass the statistics of the same model"
        )
    rule = {"momentum": momentum, "unbiased": unbiased, "debias": debias}
    rule["skip_nonfinite"] = skip_nonfinite
    moved = {
        path: update_running(layer, moments[path], **rule) if path in moments else layer
        for path, layer in layers.items()
    }
    return replace_layers(batch_stats, moved)


def _check_collected(moments: object) -> None:
    """Refuses what is not moments by layer."""
    if not isinstance(moments, Mapping):
        raise ValueError(
            f"the moments are {shown(moments)}, expected moments by the path of the "
            "layer; pass what collect_moments gave"
        )
    for found in moments.values():
        check_moments(found)
