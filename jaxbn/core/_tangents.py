"""The derivative of the training pass, written for one read of what is kept.

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

import jax.numpy as jnp

from jaxbn.base import Array
from jaxbn.core._axes import expand, reduction_axes
from jaxbn.core._devices import match_varying
from jaxbn.core._dtypes import real_dot, stats_dtype
from jaxbn.core._lanes import sum_lanes, to_lanes, to_rows
from jaxbn.core._mask import conceal, fill, weigh
from jaxbn.core._moments import as_divisor
from jaxbn.core._normalize import inverse_deviation
from jaxbn.core._plan import Batch, Plan
from jaxbn.core._reduce import sum_over_group
from jaxbn.core._shift import choose_shift, settled


def push(batch: Batch, known: tuple, tangents: tuple) -> tuple[Array, Array, Array]:
    """Returns the tangents of y, mean and m2, linear in `tangents`.

    `x` is only ever read as `x - shift`; `delta`, still missing, is added per channel.
    Transposed, the sum becomes a pass and the pass a sum, with a shift of its own.
    """
    x, scale, weights, moments = known
    dx, dscale, dbias = tangents
    back = functools.partial(to_lanes, plan=batch.plan)
    scale, dscale, dbias = (to_rows(p, batch.plan) for p in (scale, dscale, dbias))
    axes = reduction_axes(batch.features, x.ndim)
    spread = functools.partial(expand, features=batch.features, ndim=x.ndim)
    dtype = stats_dtype(x.dtype)
    shift = settled(back(moments.shift))
    own = choose_shift(x, weights, batch.features, turn=2).astype(dtype)
    x = fill(x.astype(dtype), weights, spread(shift))
    near, nearby = (x - spread(s) for s in (shift, own))
    dx = conceal(dx.astype(dtype), weights)
    counted = weigh(dx, weights)
    # In this order: transposed, XLA then writes the gradient over the slope.
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
