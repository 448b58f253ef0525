"""Normalize: the element-wise pass, the last of the four bricks.

    y = (x - mean) * (scale / sqrt(var + epsilon)) + bias

`epsilon` is inside the root, as in the paper, Flax, PyTorch and Keras. The mean is
subtracted first: folding it into the bias would save one operation in a pass that
moves memory anyway, and lose every digit where the mean is large.
"""

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxbn.base import Array, Axes, DType
from jaxbn.core._arrays import as_inexact, expand, feature_axes, stats_dtype
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
        ValueError: if `x` is not floating or complex, or `mask` does not broadcast.

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
    y = standardize(
        conceal(x, weights), mean, delta, var, scale, bias, epsilon, features
    )
    return conceal(y.astype(x.dtype if dtype is None else dtype), weights)


def standardize(
    x: Array,
    shift: Array,
    delta: Array | None,
    var: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: float,
    features: tuple[int, ...],
) -> Array:
    """Returns the array normalized, with mean `shift + delta`, before it is cast."""
    wide = x.astype(jnp.promote_types(stats_dtype(x.dtype), shift.dtype))
    gain = inverse_deviation(var, epsilon)
    if scale is not None:
        gain = gain * scale
    offset = bias
    if delta is not None:
        offset = -delta * gain if bias is None else bias - delta * gain
    y = (wide - expand(shift, features, x.ndim)) * expand(gain, features, x.ndim)
    return y if offset is None else y + expand(offset, features, x.ndim)


def inverse_deviation(var: Array, epsilon: float) -> Array:
    """Returns `1 / sqrt(var + epsilon)`, 0 where that is infinite."""
    total = var + epsilon
    zero = total == 0
    return jnp.where(zero, 0, lax.rsqrt(jnp.where(zero, 1, total)))
