"""The training pass: moments and normalization joined, with a written derivative.

`normalize_batch` is the composition of the other bricks and nothing else:
`plain_batch` spells it out and is what autodiff is compared against. Left to itself
autodiff keeps several arrays of the size of `x` between forward and backward, in
float32 even for bfloat16 inputs, and reduces over devices more than once each way. The
derivative written in `_tangents` keeps `x` and a handful of numbers per channel.

Where the plan cuts the array into lanes, the first axis of `x` is theirs, numbers per
channel are rows [groups, C] or [lanes, C], and come back to the lanes by `to_lanes`.
"""

import functools

import jax
import jax.numpy as jnp

from jaxbn.base import Array
from jaxbn.core._axes import reduction_axes
from jaxbn.core._devices import are_mesh_axes
from jaxbn.core._lanes import (
    cut,
    features_when_cut,
    join,
    measure_lanes,
    merge_lanes,
    to_lanes,
    to_rows,
)
from jaxbn.core._mask import conceal
from jaxbn.core._moments import Moments
from jaxbn.core._normalize import standardize
from jaxbn.core._plan import Batch
from jaxbn.core._reduce import reduce_moments
from jaxbn.core._remat import named_moments
from jaxbn.core._shift import settled
from jaxbn.core._tangents import push


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
        to_rows(scale, plan),
        to_rows(bias, plan),
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
    kept = jax.checkpoint(functools.partial(push, batch), prevent_cse=False)
    dy, dmean, dm2 = kept((x, scale, weights, moments), (dx, dscale, dbias))
    still = jnp.zeros_like(moments.total), jnp.zeros_like(moments.shift)
    return (y, moments), (dy, Moments(*still, dmean, dm2))
