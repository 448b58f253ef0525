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

Where the plan cuts the array into lanes, the first axis of `x` is theirs, numbers per
channel are rows [groups, C] or [lanes, C], and u and v go back to the lanes at the end.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbn.base import Array, DType
from jaxbn.core._axes import expand, reduction_axes
from jaxbn.core._devices import are_mesh_axes, match_varying
from jaxbn.core._dtypes import real_dot, stats_dtype
from jaxbn.core._lanes import (
    cut,
    features_when_cut,
    join,
    measure_lanes,
    merge_lanes,
    sum_lanes,
    to_lanes,
)
from jaxbn.core._mask import conceal, fill, weigh
from jaxbn.core._moments import Moments, as_divisor
from jaxbn.core._normalize import inverse_deviation, standardize
from jaxbn.core._plan import Plan
from jaxbn.core._reduce import reduce_moments, sum_over_group
from jaxbn.core._remat import named_moments
from jaxbn.core._shift import choose_shift, settled


class Batch(NamedTuple):
    """What is fixed while tracing; hashable.

    Attributes:
        features: canonical feature axes of `x`, that of the lanes among them.
        epsilon: added to the variance.
        plan: what is normalized together.
        dtype: of the output.
    """

    features: tuple[int, ...]
    epsilon: float
    plan: Plan
    dtype: DType


def apply_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
    custom_derivative: bool,
) -> tuple[Array, Moments]:
    """Returns `x` normalized by its own moments, and those, a row each batch of lanes.

    The derivative is that of this file, where JAX knows the axes when it traces it.
    """
    plan, examples = batch.plan, reduction_axes(batch.features, x.ndim)[:1]
    written = custom_derivative and are_mesh_axes(plan.axis_name or ())
    function = normalize_batch if written else plain_batch
    if not plan.lanes:
        return function(x, scale, bias, weights, batch)
    (axis,) = examples
    weights = None if weights is None else cut(weights, axis, plan)
    batch = batch._replace(features=features_when_cut(batch.features, axis))
    y, moments = function(cut(x, axis, plan), scale, bias, weights, batch)
    return join(y, axis), moments


def plain_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
) -> tuple[Array, Moments]:
    """Returns `x` normalized by its own moments, and those; autodiff as JAX does it."""
    plan = batch.plan
    moments = merge_lanes(measure_lanes(x, weights, batch.features, plan), plan)
    moments = reduce_moments(moments, plan.axis_name, plan.axis_index_groups)
    return _normalize_by(moments, x, scale, bias, weights, batch), moments


def _normalize_by(
    moments: Moments,
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
) -> Array:
    """Returns `x` normalized by the moments of each batch in it."""
    plan = batch.plan
    back = functools.partial(to_lanes, plan=plan)
    y = standardize(
        conceal(x, weights),
        settled(back(moments.shift)),
        back(moments.delta),
        back(moments.var),
        _to_rows(scale, plan),
        _to_rows(bias, plan),
        batch.epsilon,
        batch.features,
    )
    return conceal(y.astype(batch.dtype), weights)


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
        y of the shape of `x`, and the moments of each normalization batch.
    """
    return plain_batch(x, scale, bias, weights, batch)


@normalize_batch.defjvp
def _derive(
    batch: Batch, primals: tuple, tangents: tuple
) -> tuple[tuple[Array, Moments], tuple[Array, Moments]]:
    x, scale, bias, weights = primals
    dx, dscale, dbias, _ = tangents
    _, moments = normalize_batch(x, None, None, weights, batch)
    moments = named_moments(moments)
    y = _normalize_by(moments, x, scale, bias, weights, batch)
    # What enters a checkpoint is all that is kept of what happens inside it.
    push = jax.checkpoint(functools.partial(_push, batch), prevent_cse=False)
    dy, dmean, dm2 = push((x, scale, weights, moments), (dx, dscale, dbias))
    still = jnp.zeros_like(moments.total), jnp.zeros_like(moments.shift)
    return (y, moments), (dy, Moments(*still, dmean, dm2))


def _push(batch: Batch, known: tuple, tangents: tuple) -> tuple[Array, Array, Array]:
    """Returns the tangents of y, mean and m2, linear in `tangents`.

    `x` is only ever read as `x - shift`; `delta`, still missing, is added per channel.
    Transposed, the sum becomes a pass and the pass a sum, with a shift of its own.
    """
    x, scale, weights, moments = known
    dx, dscale, dbias = tangents
    back = functools.partial(to_lanes, plan=batch.plan)
    scale, dscale, dbias = (_to_rows(p, batch.plan) for p in (scale, dscale, dbias))
    axes = reduction_axes(batch.features, x.ndim)
    spread = functools.partial(expand, features=batch.features, ndim=x.ndim)
    dtype = stats_dtype(x.dtype)
    shift = settled(back(moments.shift))
    own = choose_shift(x, weights, batch.features, turn=2).astype(dtype)
    x = fill(x.astype(dtype), weights, spread(shift))
    near, nearby = (x - spread(s) for s in (shift, own))
    dx = conceal(dx.astype(dtype), weights)
    counted = weigh(dx, weights)
    dnear, dsum = jnp.sum(real_dot(near, counted), axes), jnp.sum(counted, axes)
    dnear = dnear - real_dot(back(moments.delta), dsum)
    dsum, dsquares = _pool(batch.plan, dsum, dnear)

    n = as_divisor(moments.total)
    inverse = inverse_deviation(moments.var, batch.epsilon)
    gain = inverse if scale is None else inverse * scale
    u = -gain * (dsum / n)
    v = -gain * inverse * (dsquares / n)
    u = u if dbias is None else u + dbias
    v = (v if dscale is None else v + dscale) * inverse
    u, v = u - moments.delta * v, v.astype(u.dtype)
    if not _is_alone(batch.plan):
        uv = back(match_varying(jnp.stack([u, v], -1), like=near))
        u, v = uv[..., 0], uv[..., 1]
    u = u - (shift - own) * v
    dy = spread(back(gain)) * dx + spread(u) + nearby * spread(v)
    return conceal(dy.astype(batch.dtype), weights), dsum / n, 2 * dsquares


def _pool(plan: Plan, dsum: Array, dsquares: Array) -> tuple[Array, Array]:
    """Returns both sums over all that is normalized together, by one collective."""
    if _is_alone(plan):
        return dsum, dsquares
    both = jnp.stack([dsum, dsquares.astype(dsum.dtype)], -1)
    both = sum_lanes(both, plan)
    both = sum_over_group(both, plan.axis_name, plan.axis_index_groups)
    return both[..., 0], both[..., 1].real.astype(dsquares.dtype)


def _is_alone(plan: Plan) -> bool:
    """Returns whether what this device or lane has is all that is normalized."""
    return plan.lane_groups is None and not plan.axis_name


def _to_rows(per_channel: Array | None, plan: Plan) -> Array | None:
    """Returns a parameter [C] as every row has it, [1, C]."""
    return per_channel[None] if plan.lanes and per_channel is not None else per_channel
