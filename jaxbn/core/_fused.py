"""The training pass: moments and normalization joined, with a written derivative.

`normalize_batch` is the composition of the other bricks and nothing else:
`plain_batch` spells it out and is what autodiff is compared against. Left to itself
autodiff keeps several arrays of the size of `x` between forward and backward, in
float32 even for bfloat16 inputs, and reduces over devices more than once each way. The
derivative written here keeps `x` and a handful of numbers per channel.

With n = total, v = var + epsilon, xhat = (x - mean) / sqrt(v), g = scale / sqrt(v), a
tangent dx moves the moments by

    dmean = sum(w dx) / n        dvar / 2 = sum(w (x - mean) dx) / n

and the output by (Ioffe and Szegedy 2015, section 3, in forward form)

    dy = g dx + u + xhat v,      u = dbias  - g dmean
                                 v = dscale - g dvar / (2 sqrt(v))

Everything is linear in the tangents, so JAX transposes it: the two sums become the
element-wise terms of the gradient and u, v become its two sums, sum(dy) and
sum(dy xhat), which also are the gradients of bias and scale. Both pairs cross devices
stacked, so each direction has one collective, under pmap, vmap and both kinds of
shard_map alike; and being a JVP rule it also serves forward mode, higher derivatives
and gradients of the moments returned.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbn.base import Array, AxisIndexGroups, AxisName, DType
from jaxbn.core._axes import expand, reduction_axes
from jaxbn.core._devices import match_varying
from jaxbn.core._dtypes import real_dot, real_dtype, stats_dtype
from jaxbn.core._mask import conceal
from jaxbn.core._moments import Moments, as_divisor, measure
from jaxbn.core._normalize import inverse_deviation, standardize
from jaxbn.core._reduce import reduce_moments, sum_over_group


class Batch(NamedTuple):
    """What is fixed while tracing; hashable.

    Attributes:
        features: canonical feature axes of `x`.
        epsilon: added to the variance.
        axis_name: over which devices are pooled, or None.
        axis_index_groups: which of them together, or None for all.
        dtype: of the output.
    """

    features: tuple[int, ...]
    epsilon: float
    axis_name: AxisName | None
    axis_index_groups: AxisIndexGroups | None
    dtype: DType


def plain_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
) -> tuple[Array, Moments]:
    """Returns `x` normalized by its own moments, and those; autodiff as JAX does it."""
    local = measure(x, weights, batch.features)
    moments = reduce_moments(local, batch.axis_name, batch.axis_index_groups)
    y = standardize(
        conceal(x, weights),
        moments.shift,
        moments.delta,
        moments.var,
        scale,
        bias,
        batch.epsilon,
        batch.features,
    )
    return conceal(y.astype(batch.dtype), weights), moments


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def normalize_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
) -> tuple[Array, Moments]:
    """Returns what `plain_batch` does, differentiated by the rule of this file.

    Args:
        x: any shape, floating or complex.
        scale: [C] or None.
        bias: [C] or None.
        weights: of the rank of `x`, broadcastable to it, bool or real; or None.
        batch: what is fixed.

    Returns:
        y of the shape of `x`, and the moments of the whole normalization batch.
    """
    return plain_batch(x, scale, bias, weights, batch)


@normalize_batch.defjvp
def _derive(
    batch: Batch, primals: tuple, tangents: tuple
) -> tuple[tuple[Array, Moments], tuple[Array, Moments]]:
    x, scale, bias, weights = primals
    dx, dscale, dbias, _ = tangents
    y, moments = normalize_batch(x, scale, bias, weights, batch)
    # What enters a checkpoint is all that is kept of what happens inside it.
    push = jax.checkpoint(functools.partial(_push, batch), prevent_cse=False)
    dy, dmean, dm2 = push((x, scale, weights, moments), (dx, dscale, dbias))
    still = jnp.zeros_like(moments.total), jnp.zeros_like(moments.shift)
    return (y, moments), (dy, Moments(*still, dmean, dm2))


def _push(batch: Batch, known: tuple, tangents: tuple) -> tuple[Array, Array, Array]:
    """Returns the tangents of y, mean and m2, linear in `tangents`.

    `x` is only ever read as `x - shift`; `delta`, still missing, is added per channel.
    """
    x, scale, weights, moments = known
    dx, dscale, dbias = tangents
    axes = reduction_axes(batch.features, x.ndim)
    spread = functools.partial(expand, features=batch.features, ndim=x.ndim)
    dtype = stats_dtype(x.dtype)
    near = conceal(x.astype(dtype) - spread(moments.shift), weights)
    dx = conceal(dx.astype(dtype), weights)
    counted = dx if weights is None else dx * weights.astype(real_dtype(dtype))
    dsum, dnear = jnp.sum(counted, axes), jnp.sum(real_dot(near, counted), axes)
    dsum, dsquares = _pool(batch, dsum, dnear - real_dot(moments.delta, dsum))

    n = as_divisor(moments.total)
    inverse = inverse_deviation(moments.var, batch.epsilon)
    gain = inverse if scale is None else inverse * scale
    u = -gain * (dsum / n)
    v = -gain * inverse * (dsquares / n)
    u = u if dbias is None else u + dbias
    v = (v if dscale is None else v + dscale) * inverse
    u, v = match_varying(
        jnp.stack([u - moments.delta * v, v.astype(u.dtype)]), like=near
    )
    dy = spread(gain) * dx + spread(u) + near * spread(v)
    return conceal(dy.astype(batch.dtype), weights), dsum / n, 2 * dsquares


def _pool(batch: Batch, dsum: Array, dsquares: Array) -> tuple[Array, Array]:
    """Returns both sums over all devices of the normalization batch."""
    both = jnp.stack([dsum, dsquares.astype(dsum.dtype)])
    both = sum_over_group(both, batch.axis_name, batch.axis_index_groups)
    return both[0], both[1].real.astype(dsquares.dtype)
