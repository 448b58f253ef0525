"""Normalize: the element-wise pass, the last of the four bricks.

    y = (x - mean) * (scale / sqrt(var + epsilon)) + bias

`epsilon` is inside the root, as in the paper, Flax, PyTorch and Keras. The mean is
subtracted first: folding it into the bias would save one operation in a pass that
moves memory anyway, and lose every digit where the mean is large.
"""

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxbn._values import as_array, as_dtype
from jaxbn.base import Array, Axes, DType
from jaxbn.core._arrays import (
    as_inexact,
    check_bits,
    expand,
    feature_axes,
    feature_shape,
    stats_dtype,
)
from jaxbn.core._checks import check_epsilon
from jaxbn.core._mask import as_weights, conceal


def normalize(
    x: ArrayLike,
    mean: Array,
    var: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: float = 1e-5,
    axis: Axes = -1,
    mask: ArrayLike | None = None,
    delta: Array | None = None,
    dtype: DType | None = None,
) -> Array:
    """Returns `(x - mean) * scale / sqrt(var + epsilon) + bias`, 0 behind the mask.

    Args:
        x: [..., C] floating or complex.
        mean: [C].
        var: [C] real, >= 0. Where `var + epsilon` is 0 the result is `bias`.
        scale: [C], or None for 1.
        bias: [C], or None for 0.
        epsilon: added to the variance, inside the root.
        axis: the feature axis, or several.
        mask: as in `batch_moments`; elements of weight 0 come out as 0 and send no
            gradient back.
        delta: [C], added to `mean` where that is known in two parts (see `Moments`).
        dtype: of the result; None for that of `x`. Computed in at least float32.

    Returns:
        An array of the shape of `x`.

    Raises:
        ValueError: if `x` is not floating or complex, what is per channel has another
            shape, or `mask` does not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> normalize(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.ones(1) * 4,
        ...           epsilon=0.0)
        Array([[0.],
               [1.]], dtype=float32)
    """
    x = as_inexact(x)
    features = feature_axes(axis, x.ndim)
    weights = as_weights(mask, x, features)
    check_epsilon(epsilon)
    shape = feature_shape(x, features)
    mean, var = (_per_channel(*a, shape) for a in (("mean", mean), ("var", var)))
    scale, bias, delta = (
        None if value is None else _per_channel(name, value, shape)
        for name, value in (("scale", scale), ("bias", bias), ("delta", delta))
    )
    gain, offset = gain_and_offset(var, delta, scale, bias, epsilon)
    y = rescale(conceal(x, weights), mean, gain, offset, features)
    dtype = x.dtype if dtype is None else as_dtype("dtype", dtype)
    return conceal(y.astype(dtype), weights)


def _per_channel(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Returns an array of numbers per channel; refuses another shape."""
    array = as_array(name, value)
    check_bits(name, array)
    if array.shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, expected {shape}, the shape of x along "
            "its feature axes; check axis"
        )
    return array


def gain_and_offset(
    var: Array,
    delta: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: float,
) -> tuple[Array, Array | None]:
    """Returns what `x - shift` is multiplied by, and what is added then, if anything.

    `delta` is the mean less the shift, None for 0.
    """
    gain = inverse_deviation(var, epsilon)
    if scale is not None:
        gain = gain * scale
    if delta is None:
        return gain, bias
    return gain, -delta * gain if bias is None else bias - delta * gain


def rescale(
    x: Array,
    shift: Array,
    gain: Array,
    offset: Array | None,
    features: tuple[int, ...],
) -> Array:
    """Returns `(x - shift) * gain + offset`, before it is cast."""
    wide = x.astype(jnp.promote_types(stats_dtype(x.dtype), shift.dtype))
    y = (wide - expand(shift, features, x.ndim)) * expand(gain, features, x.ndim)
    return y if offset is None else y + expand(offset, features, x.ndim)


def inverse_deviation(var: Array, epsilon: float) -> Array:
    """Returns `1 / sqrt(var + epsilon)`, 0 where that is infinite."""
    total = var + epsilon
    if isinstance(epsilon, float) and epsilon >= jnp.finfo(total.dtype).tiny:
        return lax.rsqrt(total)  # It is never zero, and the program is shorter.
    zero = total == 0
    return jnp.where(zero, 0, lax.rsqrt(jnp.where(zero, 1, total)))
