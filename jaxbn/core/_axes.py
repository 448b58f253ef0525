"""Axes: which ones hold features, which are reduced, and how channels meet `x`.

Everything per channel has the *feature shape*: the shape of `x` along its feature
axes in ascending order. `expand` gives such an array the rank of `x`.
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from jaxbn.base import Array, Axes


def feature_axes(axis: Axes, ndim: int) -> tuple[int, ...]:
    """Returns `axis` as ascending, non-negative, distinct axes of a rank `ndim` array.

    Flax keeps the order in which a tuple was written; ascending order is followed
    here, so that `axis=(1, -1)` and `axis=(-1, 1)` name the same parameters.

    Raises:
        ValueError: if `axis` is empty, out of range, not integer or repeated.
    """
    axes = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    if not all(isinstance(a, int | np.integer) for a in axes):
        raise ValueError(
            f"axis is {axis!r}, expected an int or a tuple of ints; for the last axis "
            "pass axis=-1"
        )
    if not axes:
        raise ValueError(
            "axis is empty, expected at least one feature axis; to normalize one "
            "feature add an axis to x (x[..., None]) and pass axis=-1"
        )
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(
                f"axis {a} is out of range for x with {ndim} axes, expected "
                f"{-ndim} <= axis < {ndim}; pass the axis of x that holds features"
            )
    canonical = tuple(sorted(int(a) % ndim for a in axes))
    if len(set(canonical)) != len(canonical):
        raise ValueError(
            f"axis {axis!r} names an axis of x (rank {ndim}) twice, expected distinct "
            "axes; remove the repetition"
        )
    return canonical


def reduction_axes(features: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Returns the axes of a rank `ndim` array that are not feature axes."""
    return tuple(a for a in range(ndim) if a not in features)


def feature_shape(x: Array, features: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of everything per channel: that of `x` along `features`."""
    return tuple(x.shape[a] for a in features)


def expand(per_channel: Array, features: tuple[int, ...], ndim: int) -> Array:
    """Returns `per_channel` with axes of length one where `x` is reduced."""
    return jnp.expand_dims(per_channel, reduction_axes(features, ndim))
