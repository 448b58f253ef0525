"""Adjusting: normalized values moved by what their moments were, batch by batch.

    y = (gain * xhat + offset) * scale + bias

Batch renormalization corrects towards the running statistics in this way, and
adaptation mixes them with those of the batch: `gain` and `offset` are a ratio of two
deviations and a difference of two means in units of one.
"""

import functools
from collections.abc import Callable

from jaxbn.base import Array
from jaxbn.core._axes import expand, reduction_axes
from jaxbn.core._dtypes import stats_dtype
from jaxbn.core._fused import apply_batch
from jaxbn.core._lanes import cut, features_when_cut, join, to_lanes
from jaxbn.core._mask import conceal
from jaxbn.core._moments import Moments
from jaxbn.core._plan import Batch


def adjust_batch(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    batch: Batch,
    custom_derivative: bool,
    adjust: Callable[[Moments], tuple[Array, Array]],
) -> tuple[Array, Moments]:
    """Returns `(xhat * gain + offset) * scale + bias`, and the moments.

    `gain` and `offset` are what `adjust` makes of the moments, of their shape. They
    have the gradients that autodiff gives them; those of `xhat` are of this file.
    """
    plan, dtype = batch.plan, batch.dtype
    wide = batch._replace(dtype=stats_dtype(x.dtype))
    xhat, moments = apply_batch(x, None, None, weights, wide, custom_derivative)
    gain, offset = adjust(moments)
    if scale is not None:
        scale = scale[None] if plan.lanes else scale
        gain, offset = gain * scale, offset * scale
    if bias is not None:
        offset = offset + (bias[None] if plan.lanes else bias)
    gain, offset = to_lanes(gain, plan), to_lanes(offset, plan)
    features = batch.features
    if not plan.lanes:
        y = xhat * expand(gain, features, x.ndim) + expand(offset, features, x.ndim)
        return conceal(y.astype(dtype), weights), moments
    (axis,) = reduction_axes(features, x.ndim)[:1]
    features = features_when_cut(features, axis)
    spread = functools.partial(expand, features=features, ndim=x.ndim + 1)
    y = join(cut(xhat, axis, plan) * spread(gain) + spread(offset), axis)
    return conceal(y.astype(dtype), weights), moments
