"""Neighbouring channels of one position: sums over one axis and nothing else.

    y  = scale xhat + bias,    xhat = (x - m) r
    dy = scale (dx - dm - (x - m) r^2 dvar / 2) r + dscale xhat + dbias

as in `_over_positions`; here scale and bias vary within what is summed. CPUs: a sum
over 8 neighbours takes three times as long as adding them one by one, as long as the
sums are in a computation of their own (`apart`), not computed anew for each element.
[4096, 256] in 32 groups: 1.4 to 2.1 times batch norm, with plain sums 3.7.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn.base import Array, DType
from jaxbn.core._arrays import (
    expand,
    is_symbolic,
    real_dot,
    reduction_axes,
)
from jaxbn.core._linear import LinearPass, TangentSums, linear_pass
from jaxbn.core._mask import conceal, count, weigh
from jaxbn.core._moments import (
    Moments,
    as_divisor,
    measure,
    moments_about,
    tangent_of,
)
from jaxbn.core._normalize import inverse_deviation
from jaxbn.core._shift import choose_shift
from jaxbn.core._sums import apart, deviations

FEW = 16
"""Up to so many are added one by one."""


class Rows(NamedTuple):
    """What is fixed while tracing where the sums are over one axis; hashable."""

    axis: int
    epsilon: float
    dtype: DType


class RowPass(LinearPass):
    """`(gain * dx + offset + (x - shift) * slope) * scale`, of one axis summed over.

    Known are x, shift, gain, scale and weights (or None); linear in dx, offset, slope.
    """

    def __call__(self, known: tuple, linear: tuple) -> tuple[Array]:
        """Returns the tangent of `y`, 0 where the weight is 0."""
        x, shift, gain, scale, weights = known
        dx, offset, slope = linear
        wide = functools.partial(expand, features=self.features, ndim=x.ndim)
        near = conceal(x.astype(shift.dtype) - wide(shift), weights)
        dy = (wide(gain) * dx + wide(offset) + near * wide(slope)) * scale
        return (conceal(dy.astype(self.dtype), weights),)

    def transpose(self, known: tuple, cotangents: tuple) -> tuple[Array, Array, Array]:
        """Returns the transpose: gain * dy * scale and two sums."""
        (x, shift, gain, scale, weights), (dy,) = known, cotangents
        wide = functools.partial(expand, features=self.features, ndim=x.ndim)

        def cast(dy: Array, scale: Array, weights: Array | None) -> Array:
            return conceal(dy, weights).astype(shift.dtype) * scale

        def first(dy: Array, scale: Array, weights: Array | None) -> Array:
            return add(cast(dy, scale, weights), self.features)

        def second(
            dy: Array, scale: Array, weights: Array | None, x: Array, shift: Array
        ) -> Array:
            near = conceal(x.astype(shift.dtype) - wide(shift), weights)
            return add(near * cast(dy, scale, weights), self.features)

        given = dy, scale, weights
        sums = apart(first, shift, *given), apart(second, shift, *given, x, shift)
        return wide(gain) * cast(*given), *sums


def are_few(size: int) -> bool:
    """Returns whether so many neighbours are added one by one."""
    return not is_symbolic(size) and 0 < size <= FEW


def add(x: Array, features: tuple[int, ...]) -> Array:
    """Returns the sums over the one axis that is not of `features`."""
    (axis,) = reduction_axes(features, x.ndim)
    if not are_few(x.shape[axis]):
        return jnp.sum(x, axis)
    each = (lax.index_in_dim(x, k, axis, keepdims=False) for k in range(x.shape[axis]))
    return functools.reduce(jnp.add, each)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def over_channels(
    x: Array, scale: Array, bias: Array, weights: Array | None, rows: Rows
) -> tuple[Array, Moments]:
    """Returns y and the moments of each row; scale and bias have the rank of `x`."""
    features = reduction_axes((rows.axis,), x.ndim)  # All but the one summed over.
    few = are_few(x.shape[rows.axis])
    moments = (_measure_few if few else measure)(x, weights, features)
    wide = functools.partial(expand, features=features, ndim=x.ndim)
    near = conceal(x, weights).astype(moments.shift.dtype) - wide(moments.shift)
    gain = inverse_deviation(moments.var, rows.epsilon)
    xhat = near * wide(gain) - wide(moments.delta * gain)
    y = xhat * scale + bias
    return conceal(y.astype(rows.dtype), weights), moments


def _measure_few(x: Array, weights: Array | None, features: tuple[int, ...]) -> Moments:
    def sums(x: Array, weights: Array | None) -> tuple[Array, Array, Array]:
        shift = choose_shift(x, weights, features)
        near = x.astype(shift.dtype) - expand(shift, features, x.ndim)
        near = conceal(near, weights)
        counted = weigh(near, weights)
        return shift, add(counted, features), add(real_dot(near, counted), features)

    shift, s1, s2 = apart(sums, x, x, weights)
    return moments_about(shift, count(x, weights, features), s1, s2)


@over_channels.defjvp
def _derive_over_channels(rows: Rows, primals: tuple, tangents: tuple) -> Any:
    x, scale, _, weights = primals
    y, moments = over_channels(*primals, rows)
    kept = jax.checkpoint(
        functools.partial(_linear_over_channels, rows), prevent_cse=False
    )
    dy, dmean, dm2 = kept((x, scale, weights, moments), tangents[:3])
    return (y, moments), (dy, tangent_of(moments, dmean, dm2))


def _linear_over_channels(rows: Rows, known: tuple, tangents: tuple) -> tuple:
    x, scale, weights, moments = known
    dx, dscale, dbias = tangents
    features = reduction_axes((rows.axis,), x.ndim)
    wide = functools.partial(expand, features=features, ndim=x.ndim)
    dx, shift = dx.astype(moments.shift.dtype), moments.shift
    sums = TangentSums(features, dx.dtype)
    dsum, dnear = linear_pass(sums, (x, shift, weights), (dx,))
    n, delta = as_divisor(moments.total), moments.delta
    dsquares = dnear - real_dot(delta, dsum)
    gain = inverse_deviation(moments.var, rows.epsilon)
    slope = -(dsquares / n) * gain * gain * gain
    offset = -gain * dsum / n - delta * slope
    dtype = np.dtype(rows.dtype)
    linear = dx, offset, slope.astype(offset.dtype)
    known = x, shift, gain, scale, weights
    (dy,) = linear_pass(RowPass(features, dtype), known, linear)
    if dscale is not None:
        near = deviations(x, shift, weights, features)
        xhat = near * wide(gain) - wide(delta * gain)
        dy = dy + conceal((xhat * dscale + dbias).astype(dtype), weights)
    return dy, dsum / n, 2 * dsquares
