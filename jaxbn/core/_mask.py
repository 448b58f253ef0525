"""Masks: which elements count, and how the others are kept from being seen.

A mask becomes *weights*, an array of the rank of `x` that broadcasts to it: bool, or
real where elements count in part. Weights have no gradient.
"""

import math

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxbn._values import as_array
from jaxbn.base import Array
from jaxbn.core._arrays import feature_shape, real_dtype, reduction_axes
from jaxbn.core._layout import keep, laid_per_feature


def as_weights(
    mask: ArrayLike | None, x: Array, features: tuple[int, ...]
) -> Array | None:
    """Returns `mask` with the rank of `x` (bool or real), or None.

    A mask of the rank of `x` without its feature axes, such as [N, H, W], is read so
    where it fits; any other is broadcast to `x` as NumPy and Flax do. Where both
    readings fit ([N, C] with N = C) the first is taken.

    Raises:
        ValueError: if `mask` is complex, does not broadcast, or would broadcast along
            the last axes of `x` while it fits the first: [N] against [N, H, W, C].
    """
    if mask is None:
        return None
    mask = lax.stop_gradient(as_array("mask", mask))
    if jnp.issubdtype(mask.dtype, jnp.complexfloating):
        raise ValueError(
            f"mask has dtype {mask.dtype}, expected bool or real weights; pass its "
            "absolute value or a comparison"
        )
    rest = tuple(n for a, n in enumerate(x.shape) if a not in features)
    if mask.ndim == len(rest) and _broadcasts(mask.shape, rest):
        return jnp.expand_dims(mask, features)
    leading = mask.ndim < len(rest) and mask.shape == x.shape[: mask.ndim]
    leading &= any(n != 1 for n in mask.shape)
    if mask.ndim > x.ndim or leading or not _broadcasts(mask.shape, x.shape):
        raise ValueError(
            f"mask has shape {mask.shape}, which does not broadcast to x of shape "
            f"{x.shape}; expected the shape {rest} of x without its feature axes, or "
            f"one that broadcasts to x; {_mask_fix(mask.shape, rest)}"
        )
    return mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    ends = zip(reversed(shape), reversed(target), strict=False)
    return all(m in (1, n) for m, n in ends)


def _mask_fix(shape: tuple[int, ...], rest: tuple[int, ...]) -> str:
    if shape and len(shape) < len(rest) and shape == rest[: len(shape)]:
        return f"reshape it to {shape + (1,) * (len(rest) - len(shape))}"
    return "add axes of length one where it does not vary"


def conceal(x: Array, weights: Array | None) -> Array:
    """Returns `x` with 0 where the weight is 0, whatever is there, gradients included.

    What a derivative multiplies by has to be concealed before it is used, what a
    function returns after it was computed: 0 times NaN is NaN.
    """
    return x if weights is None else keep(weights != 0, x)


def fill(x: Array, weights: Array | None, value: Array) -> Array:
    """Returns `x` with `value` where the weight is 0, whatever is there.

    With a shift for value what is masked deviates from it by nothing, and sums over all
    are sums of what counts.
    """
    return x if weights is None else keep(weights != 0, x, value)


def weigh(x: Array, weights: Array | None) -> Array:
    """Returns `x`, which is 0 where the weight is 0, times the weight."""
    if weights is None or weights.dtype == bool:
        return x
    return x * weights.astype(real_dtype(x.dtype))


def count(x: Array, weights: Array | None, features: tuple[int, ...]) -> Array:
    """Returns the sum of weights per channel, [C], without spreading them over `x`."""
    dtype = real_dtype(x.dtype)
    axes = reduction_axes(features, x.ndim)
    shape = feature_shape(x, features)
    if weights is None:
        elements = jnp.asarray(math.prod(x.shape[a] for a in axes), dtype)
        return laid_per_feature(jnp.broadcast_to(elements, shape), x, features)
    repeats = math.prod(x.shape[a] for a in axes if weights.shape[a] != x.shape[a])
    summed = jnp.sum(weights, axes, dtype=dtype) * jnp.asarray(repeats, dtype)
    total = lax.stop_gradient(jnp.broadcast_to(summed, shape))
    return laid_per_feature(total, x, features)
