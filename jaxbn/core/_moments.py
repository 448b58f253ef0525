"""Moments: what one pass over a batch learns, in a form that merges exactly.

A batch is summed up by how much was counted, its mean and its sum of squared
deviations. Two such summaries merge into that of the union (Chan, Golub and
LeVeque), so batches, ghost batches and devices are all pooled the same way, and a
variance is only taken at the end, `m2 / total`.

Numerics. `E[x^2] - E[x]^2` loses everything once the mean is large against the
deviation: at mean 10^4 and deviation 1, float32 has no digit left. Here sums are
taken of `x - shift`, where `shift` is an element of the same batch, which needs one
read of `x` and no running mean that would have to converge first.
The mean itself stays in two parts, `shift + delta`: float32 spaces its numbers 10^-3
apart at 10^4, so that added up it would put every output off by up to 5e-4.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxbn._values import has_numbers, is_axis, shown
from jaxbn.base import Array, Axes
from jaxbn.core._arrays import as_inexact, check_bits, feature_axes, real_dot
from jaxbn.core._mask import as_weights, conceal, count
from jaxbn.core._shift import by_parts, choose_shift
from jaxbn.core._sums import deviation_sums


class Moments(NamedTuple):
    """The first two moments of what was counted, per channel.

    Attributes:
        total: [C] real, the sum of weights: the number of elements where there are
            none. Zero where nothing was counted; the other fields are then 0.
        shift: [C] a number near the mean; deviations are measured from it.
        delta: [C] the weighted mean of `x - shift`. The mean in two parts has more
            digits than their sum can hold.
        m2: [C] real, the weighted sum of squared deviations, `sum(w |x - mean|^2)`.
    """

    total: Array
    shift: Array
    delta: Array
    m2: Array

    @property
    def mean(self) -> Array:
        """The mean `shift + delta`, [C], rounded to its dtype."""
        return self.shift + self.delta

    @property
    def var(self) -> Array:
        """The biased variance `m2 / total`, [C]; 0 where nothing was counted."""
        return self.m2 / as_divisor(self.total)

    def by_parts(self) -> tuple[Array, Array, Array]:
        """Returns both parts of the mean, and the variance."""
        return self.shift, self.delta, self.var


def as_divisor(total: Array) -> Array:
    """Returns `total` where it is positive and 1 elsewhere: a divisor for sums."""
    return jnp.where(total > 0, total, 1)


def batch_moments(
    x: ArrayLike, *, axis: Axes = -1, mask: ArrayLike | None = None
) -> Moments:
    """Returns the moments of `x` over all axes but `axis`.

    total = sum(w),  mean = sum(w x) / total,  m2 = sum(w |x - mean|^2), with weight 1
    where there is no mask. One read of `x`.

    Args:
        x: [..., C] floating or complex; any rank from 1.
        axis: the feature axis, or several.
        mask: bool, or real weights >= 0; broadcastable to `x`, or to `x` without its
            feature axes. NaN and inf behind it (weight 0) are not seen. No gradient
            flows to it.

    Returns:
        Moments, each field [C], in at least float32; `total` and `m2` are real.

    Raises:
        ValueError: if `x` is not floating or complex, if `axis` is not one of its
            axes, or if `mask` does not broadcast to it.

    Example:
        >>> import jax.numpy as jnp
        >>> moments = batch_moments(jnp.array([[0.0], [2.0], [jnp.nan]]),
        ...                         mask=jnp.array([True, True, False]))
        >>> print(moments.total, moments.mean, moments.var)
        [2.] [1.] [1.]

    References:
        Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983.
    """
    x = as_inexact(x)
    features = feature_axes(axis, x.ndim)
    weights = as_weights(mask, x, features)
    return measure(conceal(x, weights), weights, features)


def measure(x: Array, weights: Array | None, features: tuple[int, ...]) -> Moments:
    """Returns the moments of a checked `x`; `weights` has its rank or is None."""
    total = count(x, weights, features)
    shift = choose_shift(x, weights, features)
    s1, shift, s2 = deviation_sums(x, shift, weights, features)
    return moments_about(shift, total, s1, s2)


def moments_about(shift: Array, total: Array, s1: Array, s2: Array) -> Moments:
    """Returns moments from the sums of w (x - shift) and of w |x - shift|^2."""
    delta = s1 / as_divisor(total)
    return Moments(total, shift, delta, jnp.maximum(s2 - real_dot(s1, delta), 0))


def tangent_of(moments: Moments, dmean: Array, dm2: Array) -> Moments:
    """Returns the tangent of moments; their total and shift are constants."""
    still = jnp.zeros_like(moments.total), jnp.zeros_like(moments.shift)
    return Moments(*still, dmean, dm2)


def merge_moments(moments: Moments, axis: int = 0) -> Moments:
    """Returns the moments of the union of what was measured apart.

    total = sum(total_k),  mean = sum(total_k mean_k) / total,
    m2 = sum(m2_k + total_k |mean_k - mean|^2). Parts that counted nothing are skipped,
    whatever they hold. Averaging the variances instead would lose the variance
    between the parts.

    Args:
        moments: fields stacked along `axis`, [K, C] for `axis=0`.
        axis: the axis to merge over.

    Returns:
        Moments without that axis.

    Raises:
        ValueError: if there is no such axis, or the fields are of several shapes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> shards = jnp.array([[[0.0], [2.0]], [[4.0], [14.0]]])
        >>> merged = merge_moments(jax.vmap(batch_moments)(shards))
        >>> merged.mean, merged.var
        (Array([5.], dtype=float32), Array([29.], dtype=float32))
    """
    check_moments(moments)
    if not is_axis(axis, moments.total.ndim):
        raise ValueError(
            f"axis is {shown(axis)}, expected one of the {moments.total.ndim} axes of "
            "the fields of moments; stack what was measured apart, along axis=0"
        )
    total, counted = moments.total, moments.total > 0
    shift, delta, m2 = (jnp.where(counted, field, 0) for field in moments[1:])
    whole = jnp.sum(total, axis)
    near = lax.stop_gradient(middle(shift, counted, axis))
    delta = jnp.where(counted, (shift - jnp.expand_dims(near, axis)) + delta, 0)
    merged = jnp.sum(total * delta, axis) / as_divisor(whole)
    spread = delta - jnp.expand_dims(merged, axis)
    m2 = jnp.sum(m2 + total * real_dot(spread, spread), axis)
    return Moments(whole, near, merged, m2)


def check_moments(moments: object) -> None:
    """Refuses what are no moments.

    Raises:
        ValueError: unless they are `Moments` of arrays of one shape.
    """
    if not isinstance(moments, Moments):
        raise ValueError(
            f"moments is {shown(moments)}, expected jaxbn.Moments; measure them by "
            "batch_moments"
        )
    shapes = [jnp.shape(f) if has_numbers(f) else shown(f) for f in moments]
    if not all(map(has_numbers, moments)) or len(set(shapes)) > 1:
        raise ValueError(
            f"moments has fields of shapes {shapes}, expected four arrays of one "
            "shape; measure them by batch_moments"
        )
    for name, field in moments._asdict().items():
        check_bits(f"moments.{name}", field)


def middle(x: Array, counted: Array, axis: int) -> Array:
    """Returns the middle of the range of what counts along `axis`, 0 for nothing."""

    def halfway(x: Array) -> Array:
        lowest = jnp.min(jnp.where(counted, x, jnp.inf), axis)
        highest = jnp.max(jnp.where(counted, x, -jnp.inf), axis)
        return jnp.where(jnp.any(counted, axis), lowest / 2 + highest / 2, 0)

    return by_parts(halfway, x)
