"""Shifts: a number near the mean, known before the mean, to take deviations from.

Any shift is right, a near one is accurate: at distance d from the mean of data of
deviation s, the variance loses about (d/s)^2 units in the last place. An element of the
batch is near by nature, and never farther than sqrt(n) s.

A shift is an element, or half the sum of two, and never a mean of several: a compiler
may compute a sum or a quotient twice and round it twice (contracted into the addition
that follows, for one), and then what is subtracted from `x` is not what is added back
to the mean. That cost three digits when it was tried.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from jaxbn.base import Array
from jaxbn.core._axes import feature_shape, reduction_axes


def choose_shift(x: Array, weights: Array | None, features: tuple[int, ...]) -> Array:
    """Returns a number near each channel's mean, [C], in the dtype of `x`.

    Without weights the median of three elements, so that one outlier does no harm;
    with weights the first element that counts.
    """
    axes = reduction_axes(features, x.ndim)
    if any(x.shape[a] == 0 for a in axes):
        return jnp.zeros(feature_shape(x, features), x.dtype)
    if weights is not None:
        return first_counted(x, weights, features)
    return apart(median_of_three, *(element_at(x, k / 6, axes) for k in (1, 3, 5)))


def element_at(x: Array, fraction: float, axes: tuple[int, ...]) -> Array:
    """Returns the element of each channel that lies at `fraction` of all `axes`."""
    whole = slice(None)
    where = (int(fraction * n) if a in axes else whole for a, n in enumerate(x.shape))
    return x[tuple(where)]


def median_of_three(a: Array, b: Array, c: Array) -> Array:
    """Returns the median, which is one of the three."""
    return jnp.clip(c, jnp.minimum(a, b), jnp.maximum(a, b))


def first_counted(x: Array, weights: Array, features: tuple[int, ...]) -> Array:
    """Returns the first element of each channel that counts, 0 where none does."""
    axes = reduction_axes(features, x.ndim)
    counted = jnp.moveaxis(weights != 0, features, range(-len(features), 0))
    over, channels = counted.shape[: len(axes)], counted.shape[len(axes) :]
    counted = counted.reshape(-1, *channels)
    found = jnp.unravel_index(jnp.argmax(counted, 0), over)
    iota = jnp.indices(feature_shape(x, features), sparse=True)
    where = dict(zip(axes, found, strict=True)) | dict(zip(features, iota, strict=True))
    return jnp.where(counted.any(0), x[tuple(where[a] for a in range(x.ndim))], 0)


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
