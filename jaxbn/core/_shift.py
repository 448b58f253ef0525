"""Shifts: a number near the mean, known before the mean, to take deviations from.

Any shift is right, a near one is accurate: at distance d from the mean of data of
deviation s, the variance loses about (d/s)^2 units in the last place. An element of the
batch is near by nature, and never farther than sqrt(n) s.

A shift is an element, or half the sum of two, and never a mean of several: a compiler
may compute a sum or a quotient twice and round it twice (contracted into the addition
that follows, for one), and then what is subtracted from `x` is not what is added back
to the mean. That cost three digits when it was tried.

What a compiler sees twice it computes once, and an array `x - shift` that two sums read
is stored for them: on CPUs that is a pass more, and one more array from the forward to
the backward pass. So each sum over `x` takes a *turn* of its own at computing the same
shift, and each pass over `x` without a sum has it `settled`.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from jaxbn.base import Array
from jaxbn.core._axes import feature_shape, reduction_axes
from jaxbn.core._layout import laid_per_feature, left_to_compiler


def choose_shift(
    x: Array, weights: Array | None, features: tuple[int, ...], turn: int = 0
) -> Array:
    """Returns a number near each channel's mean, [C], in the dtype of `x`.

    The median of three elements that lie apart, so that one outlier does no harm; with
    weights, of elements that count most, since one that hardly counts may be anywhere.
    The same number each `turn`, by operations that differ, for three turns. A constant
    to derivatives: all that depends on it is the same about any shift.
    """
    x = lax.stop_gradient(x)
    axes = reduction_axes(features, x.ndim)
    if any(x.shape[a] == 0 for a in axes):
        zeros = jnp.zeros(feature_shape(x, features), x.dtype)
        return laid_per_feature(zeros, x, features)
    if weights is None:
        find = functools.partial(middle_of_elements, axes=axes, turn=turn)
        return left_to_compiler(find, x, features=features)
    find = functools.partial(middle_of_counted, features=features, turn=turn)
    return left_to_compiler(find, x, weights, features=features)


def middle_of_elements(x: Array, axes: tuple[int, ...], turn: int) -> Array:
    """Returns the median of the elements at 1/6, 3/6 and 5/6 of `axes`."""
    three = [element_at(x, fraction, axes) for fraction in (1 / 6, 3 / 6, 5 / 6)]
    return apart(median_of_three, *three[turn:], *three[:turn])


def middle_of_counted(
    x: Array, weights: Array, features: tuple[int, ...], turn: int
) -> Array:
    """Returns the median of three elements of largest weight."""
    three = [counted_near(x, weights, k, features) for k in (0, 1 / 3, 2 / 3)]
    return apart(median_of_three, *three[turn:], *three[:turn])


def element_at(x: Array, fraction: float, axes: tuple[int, ...]) -> Array:
    """Returns the element of each channel that lies at `fraction` of all `axes`."""
    whole = slice(None)
    where = (int(fraction * n) if a in axes else whole for a, n in enumerate(x.shape))
    return x[tuple(where)]


def median_of_three(a: Array, b: Array, c: Array) -> Array:
    """Returns the median, which is one of the three."""
    return jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))


def settled(shift: Array) -> Array:
    """Returns a shift as it is, computed before the pass over `x` that takes it.

    Divided by a one that XLA cannot tell to be one, because divisions are not repeated
    for every element as minima and maxima are (on a CPU a third of a layer).
    """
    return apart(lambda x: x / jnp.where(jnp.isnan(x), 2, 1).astype(x.dtype), shift)


def counted_near(
    x: Array, weights: Array, fraction: float, features: tuple[int, ...]
) -> Array:
    """Returns the element of largest weight of each channel, 0 where nothing counts.

    The first of them from `fraction` of the elements on, and round.
    """
    axes = reduction_axes(features, x.ndim)
    weights = jnp.moveaxis(weights, features, range(-len(features), 0))
    over, channels = weights.shape[: len(axes)], weights.shape[len(axes) :]
    weights = weights.reshape(-1, *channels)
    start = int(fraction * weights.shape[0])
    found = (jnp.argmax(jnp.roll(weights, -start, 0), 0) + start) % weights.shape[0]
    places = jnp.unravel_index(found, over)
    iota = jnp.indices(feature_shape(x, features), sparse=True)
    where = dict(zip(axes + features, (*places, *iota), strict=True))
    element = x[tuple(where[a] for a in range(x.ndim))]
    return jnp.where((weights != 0).any(0), element, 0)


def middle(x: Array, counted: Array, axis: int) -> Array:
    """Returns the middle of the range of what counts along `axis`, 0 for nothing."""

    def halfway(x: Array) -> Array:
        lowest = jnp.min(jnp.where(counted, x, jnp.inf), axis)
        highest = jnp.max(jnp.where(counted, x, -jnp.inf), axis)
        return jnp.where(jnp.any(counted, axis), lowest / 2 + highest / 2, 0)

    return apart(halfway, x)


def apart(function: Callable[..., Array], *arrays: Array) -> Array:
    """Returns `function` of arrays, of their real and imaginary parts if complex."""
    if not jnp.iscomplexobj(arrays[0]):
        return function(*arrays)
    real, imag = (function(*map(part, arrays)) for part in (jnp.real, jnp.imag))
    return lax.complex(real, imag)
