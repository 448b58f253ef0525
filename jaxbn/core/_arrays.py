"""Arrays: which axes hold features, and what dtype statistics are computed in.

Everything per channel has the *feature shape*: the shape of `x` along its feature
axes in ascending order. `expand` gives such an array the rank of `x`.

Half precision holds 11 (float16) or 8 (bfloat16) significant bits: fine for an
activation, useless for a sum over a batch. Statistics are computed in at least
float32, whatever the input; only the output returns to the dtype of the input.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import export

from jaxbn._values import as_array, shown
from jaxbn.base import Array, Axes, DType


def feature_axes(axis: Axes, ndim: int) -> tuple[int, ...]:
    """Returns `axis` as ascending, non-negative, distinct axes of a rank `ndim` array.

    Flax keeps the order in which a tuple was written; ascending order is followed
    here, so that `axis=(1, -1)` and `axis=(-1, 1)` name the same parameters.

    Raises:
        ValueError: if `axis` is empty, out of range, not integer or repeated.
    """
    axes = axes_of(axis)
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


def axes_of(axis: Axes) -> tuple[int, ...]:
    """Returns the axes named, as a tuple in the order written.

    Raises:
        ValueError: if there are none, or others than ints.
    """
    several = isinstance(axis, Iterable) and getattr(axis, "ndim", 1) > 0
    axes: tuple[Any, ...] = tuple(axis) if several else (axis,)
    if not all(isinstance(a, int | np.integer) for a in axes):
        raise ValueError(
            f"axis is {shown(axis)}, expected an int or a tuple of ints; for the last "
            "axis pass axis=-1"
        )
    if not axes:
        raise ValueError(
            "axis is empty, expected at least one feature axis; to normalize one "
            "feature add an axis to x (x[..., None]) and pass axis=-1"
        )
    return axes


def reduction_axes(features: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Returns the axes of a rank `ndim` array that are not feature axes."""
    return tuple(a for a in range(ndim) if a not in features)


def feature_shape(x: Array, features: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of everything per channel: that of `x` along `features`."""
    return tuple(x.shape[a] for a in features)


def expand(per_channel: Array, features: tuple[int, ...], ndim: int) -> Array:
    """Returns `per_channel` with axes of length one where `x` is reduced."""
    return jnp.expand_dims(per_channel, reduction_axes(features, ndim))


def is_symbolic(size: Any) -> bool:
    """Returns whether a dimension is known by name only, as `jax.export` has them."""
    return export.is_symbolic_dim(size)


def is_jet(x: Any) -> bool:
    """Returns whether `x` is traced by `jax.experimental.jet`, here and now."""
    return type(x).__module__ == "jax.experimental.jet"


def stats_dtype(dtype: DType) -> np.dtype:
    """Returns the dtype of sums and means over data of `dtype`: float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> stats_dtype(jnp.bfloat16), stats_dtype(jnp.complex64)
        (dtype('float32'), dtype('complex64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


def real_dtype(dtype: DType) -> np.dtype:
    """Returns the dtype of variances and counts over data of `dtype`: always real."""
    return np.zeros((), stats_dtype(dtype)).real.dtype


def as_inexact(x: object, name: str = "x") -> Array:
    """Returns `x` as an array of a floating or complex dtype.

    Raises:
        ValueError: if `x` holds integers, booleans or floats of less than 16 bits.
    """
    x = as_array(name, x)
    check_bits(name, x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(
            f"{name} has dtype {x.dtype}, expected a floating or complex dtype; cast "
            "it, for example x.astype(jnp.float32) / 255 for images"
        )
    return x


def check_bits(name: str, array: Any) -> None:
    """Refuses floats of 8 bits and less, which JAX promotes to no other dtype.

    Raises:
        ValueError: naming the array.
    """
    dtype = jnp.result_type(array)
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 16:
        raise ValueError(
            f"{name} has dtype {dtype}, expected at least 16 bits; cast it, for "
            "example by .astype(jnp.bfloat16), and back where 8 are wanted"
        )


def real_dot(a: Array, b: Array) -> Array:
    """Returns `Re(conj(a) * b)` element by element, plainly `a * b` for real arrays."""
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        return jnp.real(a) * jnp.real(b) + jnp.imag(a) * jnp.imag(b)
    return a * b
