"""The training pass: moments and normalization joined, with a written derivative.

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
shard_map alike; being a JVP rule it also serves forward mode, higher derivatives and
gradients of the moments returned. Left to itself autodiff keeps several arrays of the
size of `x`, in float32 even for bfloat16; here `x` and a few numbers per channel are.

Where the plan cuts the array into shards, the first axis of `x` is theirs, numbers per
channel are [groups, C], and come back to the shards by `to_shards`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn.base import Array, State
from jaxbn.core._arrays import real_dot, reduction_axes, stats_dtype
from jaxbn.core._by_index import PassByIndex, SumsByIndex, take_by_index
from jaxbn.core._devices import are_mesh_axes, match_varying
from jaxbn.core._linear import (
    TangentPass,
    TangentSums,
    is_transposed_plainly,
    linear_pass,
)
from jaxbn.core._mask import conceal
from jaxbn.core._moments import Moments, as_divisor, tangent_of
from jaxbn.core._normalize import gain_and_offset, inverse_deviation, rescale
from jaxbn.core._plan import Batch, Plan
from jaxbn.core._reduce import reduce_moments, sum_over_group
from jaxbn.core._remat import named_moments
from jaxbn.core._shards import (
    cut,
    features_when_cut,
    join,
    measure_shards,
    merge_shards,
    per_group,
    sum_shards,
    to_shards,
)

Adjust = Callable[[Moments], tuple[Array, Array]]


def apply_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
    custom_derivative: bool,
    adjust: Adjust | None = None,
    index: Array | None = None,
) -> tuple[Array, Moments]:
    """Returns `x` normalized by its own moments, and those of each batch in it.

    What `adjust` makes of the moments, a gain and an offset of their shape, comes
    between: `y = (gain * xhat + offset) * scale + bias`, with the derivatives that
    autodiff gives them. The derivative of the rest is that of this file, where JAX
    still knows the axes when it traces it. `index`, [N], is the group of each example
    where the plan has them by index.
    """
    axis = reduction_axes(batch.features, x.ndim)[:1]
    x, weights, batch = _cut(x, weights, batch)
    on_mesh = are_mesh_axes(batch.plan.axis_name or ())
    written = custom_derivative and on_mesh
    # With a written derivative the moments are numbers: it differentiates them itself.
    # To autodiff what a mask hides has to be hidden before it is summed.
    known = lax.stop_gradient(x) if written else conceal(x, weights)
    measure = _measure_once if on_mesh else _measure
    measured = measure(known, weights, index, batch)
    scale, bias = (per_group(p, batch) for p in (scale, bias))

    def normalize(
        scale: Array | None, bias: Array | None, known: Moments
    ) -> tuple[Array, Moments]:
        given = x, scale, bias, weights, index
        if not written:
            return plain_normalize(*given, *known.by_parts(), batch), known
        return normalize_batch(*given, known, batch)

    if adjust is None:
        y, moments = normalize(scale, bias, measured)
        return _join(y, axis, batch.plan), moments
    # The moments as functions of `x`; this output is not used and not computed.
    _, moments = normalize(None, None, measured)
    gain, offset = adjust(moments)
    if scale is not None:
        gain, offset = gain * scale, offset * scale
    offset = offset if bias is None else offset + bias
    y, _ = normalize(gain, offset, measured)
    return _join(y, axis, batch.plan), moments


def apply_stored(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
    index: Array | None,
    state: State,
) -> Array:
    """Returns `x` normalized by stored statistics, those of each example's group."""
    if index is None:
        batch = batch._replace(plan=Plan())
    axis = reduction_axes(batch.features, x.ndim)[:1]
    x, weights, batch = _cut(x, weights, batch)
    scale, bias = (per_group(p, batch) for p in (scale, bias))
    stored = state["mean"], None, state["var"]
    y = plain_normalize(x, scale, bias, weights, index, *stored, batch)
    return _join(y, axis, batch.plan)


def _measure(
    x: Array, weights: Array | None, index: Array | None, batch: Batch
) -> Moments:
    plan = batch.plan
    moments = measure_shards(x, weights, batch.features, plan, index)
    moments = merge_shards(moments, plan)
    return reduce_moments(moments, plan.axis_name, plan.axis_index_groups)


_measure_once = jax.jit(_measure, static_argnames="batch")
"""Jitted: what is not differentiated is not traced again where the rest is."""


def _cut(
    x: Array, weights: Array | None, batch: Batch
) -> tuple[Array, Array | None, Batch]:
    """Returns what was given with the shards of the plan in front, if it has any."""
    if not batch.plan.shards:
        return x, weights, batch
    (axis,) = reduction_axes(batch.features, x.ndim)[:1]
    weights = None if weights is None else cut(weights, axis, batch.plan)
    features = features_when_cut(batch.features, axis, batch.plan)
    return cut(x, axis, batch.plan), weights, batch._replace(features=features)


def _join(y: Array, axis: tuple[int, ...], plan: Plan) -> Array:
    return join(y, axis[0], plan) if plan.shards else y


def plain_normalize(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    index: Array | None,
    shift: Array,
    delta: Array | None,
    var: Array,
    batch: Batch,
) -> Array:
    """Returns `x` normalized by the mean `shift + delta` and variance of each batch."""
    gain, offset = gain_and_offset(var, delta, scale, bias, batch.epsilon)
    if index is not None:
        offset = jnp.zeros_like(gain) if offset is None else offset
        shift, gain, offset = take_by_index(index, shift, gain, offset)
    elif batch.plan.shards:
        shift, gain = to_shards(shift, batch.plan), to_shards(gain, batch.plan)
        offset = None if offset is None else to_shards(offset, batch.plan)
    y = rescale(conceal(x, weights), shift, gain, offset, batch.features)
    return conceal(y.astype(batch.dtype), weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(6,))
def normalize_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    index: Array | None,
    moments: Moments,
    batch: Batch,
) -> tuple[Array, Moments]:
    """Returns `plain_normalize`, and the moments, which have to be those of `x`.

    Args:
        x: any shape, floating or complex; cut into shards where the plan has them.
        scale: [C], [groups, C] where there are shards, or None.
        bias: likewise.
        weights: of the rank of `x`, broadcastable to it, bool or real; or None.
        index: [N] the group of each example, or None.
        moments: of `x`; both results are differentiated as functions of it.
        batch: what is fixed.
    """
    given = x, scale, bias, weights, index, *moments.by_parts()
    return plain_normalize(*given, batch), moments


@normalize_batch.defjvp
def _derive(
    batch: Batch, primals: tuple, tangents: tuple
) -> tuple[tuple[Array, Moments], tuple[Array, Moments]]:
    x, scale, bias, weights, index, moments = primals
    dx, dscale, dbias, *_ = tangents
    moments = named_moments(moments)
    # From here on functions of `x`, to higher derivatives.
    y, moments = normalize_batch(x, scale, bias, weights, index, moments, batch)
    linear = functools.partial(_linear, batch=batch)
    if is_transposed_plainly(x):
        # What enters a checkpoint is all that is kept of what happens inside it.
        linear = jax.checkpoint(linear, prevent_cse=False)
    dy, dmean, dm2 = linear((x, scale, weights, index, moments), (dx, dscale, dbias))
    return (y, moments), (dy, tangent_of(moments, dmean, dm2))


def _linear(known: tuple, tangents: tuple, batch: Batch) -> tuple[Array, Array, Array]:
    """Returns the tangents of y, mean and m2, linear in `tangents`.

    `x` is only ever read as `x - shift`; `delta`, still missing, is added per channel.
    """
    x, scale, weights, index, moments = known
    dx, dscale, dbias = tangents
    features, dtype, plan = batch.features, np.dtype(batch.dtype), batch.plan
    wide = stats_dtype(x.dtype)
    sums, normalized = TangentSums(features, wide), TangentPass(features, dtype)
    back, counted = functools.partial(to_shards, plan=plan), (weights,)
    if index is not None:
        sums, normalized = SumsByIndex(features, wide), PassByIndex(features, dtype)
        counted = weights, index
    dx, shift = dx.astype(wide), back(moments.shift)
    dsum, dnear = linear_pass(sums, (x, shift, *counted), (dx,))
    dnear = dnear - real_dot(back(moments.delta), dsum)
    dsum, dsquares = _pool(plan, dsum, dnear)

    n = as_divisor(moments.total)
    inverse = inverse_deviation(moments.var, batch.epsilon)
    gain = inverse if scale is None else inverse * scale
    u = -gain * (dsum / n)
    v = -gain * inverse * (dsquares / n)
    u = u if dbias is None else u + dbias
    v = (v if dscale is None else v + dscale) * inverse
    u, v = u - moments.delta * v, v.astype(u.dtype)
    if not _is_alone(plan):
        uv = back(match_varying(jnp.stack([u, v], -1), like=dx))
        u, v = uv[..., 0], uv[..., 1]
    known = x, shift, back(gain), *counted
    (dy,) = linear_pass(normalized, known, (dx, u, v))
    return dy, dsum / n, 2 * dsquares


def _pool(plan: Plan, dsum: Array, dsquares: Array) -> tuple[Array, Array]:
    """Returns both sums over all that is normalized together, by one collective."""
    if _is_alone(plan):
        return dsum, dsquares
    both = jnp.stack([dsum, dsquares.astype(dsum.dtype)], -1)
    both = sum_shards(both, plan)
    both = sum_over_group(both, plan.axis_name, plan.axis_index_groups)
    return both[..., 0], both[..., 1].real.astype(dsquares.dtype)


def _is_alone(plan: Plan) -> bool:
    """Returns whether what this device or shard has is all that is normalized."""
    return plan.shard_groups is None and not plan.axis_name
