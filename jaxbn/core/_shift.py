"""The shift: a number near the mean, about which deviations are summed.

A sum of deviations needs a number near the mean before the mean is known: a *shift*.
Any is right, a near one is accurate: at distance d from the mean of data of deviation
s, the variance loses about (d/s)^2 units in the last place. An element of the batch is
near by nature, and never farther than sqrt(n) s. It is an element and never a mean of
several: a compiler may compute a sum twice and round it twice, and then what is
subtracted from `x` is not what is added back to the mean.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbn.base import Array
from jaxbn.core._arrays import is_symbolic, reduction_axes, stats_dtype
from jaxbn.core._layout import laid_per_feature, left_to_compiler


def choose_shift(x: Array, weights: Array | None, features: tuple[int, ...]) -> Array:
    """Returns a number near each channel's mean, [C], in the dtype of statistics.

    The median of three elements that lie apart, so that one outlier does no harm; with
    weights, of elements that count most, since one that hardly counts may be anywhere.
    A constant to derivatives: all that depends on it is the same about any shift.
    """
    x = lax.stop_gradient(x)
    axes = reduction_axes(features, x.ndim)
    if any(n == 0 for n in x.shape):
        zeros = jnp.zeros([x.shape[a] for a in features], x.dtype)
        shift = laid_per_feature(zeros, x, features)
    elif weights is None:
        find = functools.partial(_middle_of_elements, axes=axes)
        shift = left_to_compiler(find, x, features=features)
    else:
        find = functools.partial(_middle_of_counted, features=features)
        shift = left_to_compiler(find, x, weights, features=features)
    return shift.astype(stats_dtype(x.dtype))


def _middle_of_elements(x: Array, axes: tuple[int, ...]) -> Array:
    """Returns the median of the elements at 1/6, 3/6 and 5/6 of `axes`."""
    return by_parts(median_of_three, *(_element_at(x, k, axes) for k in (1, 3, 5)))


def _middle_of_counted(x: Array, weights: Array, features: tuple[int, ...]) -> Array:
    """Returns the median of three elements of largest weight."""
    three = [_counted_near(x, weights, k, features) for k in (0, 1, 2)]
    return by_parts(median_of_three, *three)


def _element_at(x: Array, sixths: int, axes: tuple[int, ...]) -> Array:
    """Returns the element of each channel that lies at so many sixths of all `axes`."""
    where: list[Any] = [slice(None)] * x.ndim
    for a in axes:
        place = x.shape[a] * sixths // 6
        where[a] = jnp.asarray(place) if is_symbolic(place) else place
    return x[tuple(where)]


def _counted_near(
    x: Array, weights: Array, thirds: int, features: tuple[int, ...]
) -> Array:
    """Returns the element of largest weight of each channel, 0 where nothing counts.

    The first of them from so many thirds of the elements on, and round.
    """
    axes = reduction_axes(features, x.ndim)
    weights = jnp.moveaxis(weights, features, range(-len(features), 0))
    over, channels = weights.shape[: len(axes)], weights.shape[len(axes) :]
    weights = weights.reshape(-1, *channels)
    n = jnp.asarray(weights.shape[0])
    start = n * thirds // 3
    found = (jnp.argmax(jnp.roll(weights, -start, 0), 0) + start) % n
    places = []
    for size in reversed(over):
        places.insert(0, found % jnp.asarray(size))
        found = found // jnp.asarray(size)
    iota = jnp.indices([x.shape[a] for a in features], sparse=True)
    where = dict(zip(axes + features, (*places, *iota), strict=True))
    element = x[tuple(where[a] for a in range(x.ndim))]
    return jnp.where((weights != 0).any(0), element, 0)


def median_of_three(a: Array, b: Array, c: Array) -> Array:
    """Returns the median, which is one of the three."""
    return jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))


def by_parts(function: Callable[..., Array], *arrays: Array) -> Array:
    """Returns `function` of arrays, of their real and imaginary parts if complex."""
    if not jnp.iscomplexobj(arrays[0]):
        return function(*arrays)
    real, imag = (function(*map(part, arrays)) for part in (jnp.real, jnp.imag))
    return lax.complex(real, imag)
