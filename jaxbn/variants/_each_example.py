"""Each example by itself: what the norms that know no batch are made of."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxbn._values import shown
from jaxbn.base import Array, DType, Norm, Params, State
from jaxbn.core import batch_norm, feature_axes
from jaxbn.core._arrays import as_inexact, expand, stats_dtype
from jaxbn.core._checks import check_params, check_tracing
from jaxbn.core._mask import as_weights
from jaxbn.variants._over_channels import Rows, over_channels
from jaxbn.variants._over_positions import Groups, over_positions


def each_example(
    within: Any, axis: int, epsilon: float, dtype: DType | None, options: dict[str, Any]
) -> Norm:
    """Returns the pair that normalizes by `within`, then scales and adds the bias.

    Raises:
        ValueError: if `axis` is not a single one.
    """
    if not isinstance(axis, int):
        raise ValueError(
            f"axis is {shown(axis)}, expected one int: these norms have one feature "
            "axis; flatten several into one"
        )
    start = batch_norm(axis=axis, epsilon=epsilon, dtype=dtype, **options).init

    def init(
        num_features: int | Sequence[int], *, key: Array | None = None
    ) -> tuple[Params, State]:
        return start(num_features, key=key)[0], {}

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        x = as_inexact(x)
        features = feature_axes(axis, x.ndim)
        check_params(params, (x.shape[features[0]],), x)
        check_tracing(x)
        weights = as_weights(mask, x, features)
        affine = params.get("scale"), params.get("bias")
        fixed = features[0], epsilon, np.dtype(dtype or x.dtype)
        return within(x, *affine, weights, *fixed), state

    return Norm(init, apply, axis)


def by_group(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    axis: int,
    epsilon: float,
    dtype: DType,
    num_groups: int | None,
) -> Array:
    """Returns `x` normalized by the moments of each example's groups of channels."""
    channels = x.shape[axis]
    groups = channels if num_groups is None else num_groups
    if channels % groups:
        raise ValueError(
            f"num_groups is {groups} for {channels} channels, expected a divisor of "
            "them; pass one"
        )
    if x.ndim > 2:
        features = tuple(sorted((1 if axis == 0 else 0, axis)))
        place = features.index(axis)
        affine = (None if a is None else expand(a, (place,), 2) for a in (scale, bias))
        fixed = Groups(features, place, groups, epsilon, dtype)
        return over_positions(x, *affine, weights, fixed)[0]

    def cut(a: Array) -> Array:  # [N, C] to [N, groups, C / groups]
        inside = (groups, a.shape[axis] // groups) if a.shape[axis] > 1 else (1, 1)
        return a.reshape(*a.shape[:axis], *inside, *a.shape[axis + 1 :])

    parts = None if weights is None else cut(weights)
    affine = (cut(a) for a in _affine(x, scale, bias, axis))
    y, _ = over_channels(cut(x), *affine, parts, Rows(axis + 1, epsilon, dtype))
    return y.reshape(x.shape)


def by_position(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    weights: Array | None,
    axis: int,
    epsilon: float,
    dtype: DType,
) -> Array:
    """Returns `x` normalized by the moments of each position's channels."""
    affine = _affine(x, scale, bias, axis)
    return over_channels(x, *affine, weights, Rows(axis, epsilon, dtype))[0]


def _affine(
    x: Array, scale: Array | None, bias: Array | None, axis: int
) -> tuple[Array, Array]:
    """Returns scale and bias with the rank of `x`; 1 and 0 where there is none."""
    dtype, shape = stats_dtype(x.dtype), (x.shape[axis],)
    scale = jnp.ones(shape, dtype) if scale is None else scale
    bias = jnp.zeros(shape, dtype) if bias is None else bias
    return expand(scale, (axis,), x.ndim), expand(bias, (axis,), x.ndim)
