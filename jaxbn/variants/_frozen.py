"""Frozen norm: statistics that no step moves, in training as in evaluation.

y = gain * x + offset,    gain = scale / sqrt(var + epsilon)
                          offset = bias - mean * gain
"""

from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.typing import ArrayLike

from jaxbn._values import check_flags
from jaxbn.base import Array, Axes, DType, Norm, Params, State
from jaxbn.core import batch_norm, feature_axes, feature_shape, normalize
from jaxbn.core._arrays import as_inexact, axes_of, expand, stats_dtype
from jaxbn.core._checks import check_params, check_state, check_tree
from jaxbn.core._mask import as_weights, conceal
from jaxbn.core._normalize import inverse_deviation


def frozen_norm(
    *,
    constant_affine: bool = False,
    fold: bool = True,
    axis: Axes = -1,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    **options: Any,
) -> Norm:
    """Returns a norm that always uses its running statistics and never moves them.

    What fine-tuning on tiny batches needs (Wu and Johnson 2021, section 4.3). Its state
    is filled from that of a trained batch norm; a new one has mean 0 and var 1, which
    leaves `x` nearly as it is. (detectron2's starts at var 1 - epsilon, which leaves it
    exactly.)

    Args:
        constant_affine: scale and bias are constants too: they lie in the state beside
            the statistics, and there are no parameters. detectron2's
            FrozenBatchNorm2d is of this kind; the paper does not say which it used.
        fold: compute `gain * x + offset`, one multiply-add. It loses digits where the
            mean is large against the deviation (float32, mean 10^4, deviation 1: about
            10^-3). False subtracts first, the same bits as evaluating batch norm.
        axis: the feature axis, or several.
        epsilon: added to the variance, inside the root.
        dtype: of the output; None for that of `x`.
        **options: of `bn_init`: use_scale, use_bias, param_dtype, ...

    Returns:
        A `Norm`; `train` and all overrides mean nothing to it, and the state returned
        is the state given. No gradient flows into the state.

    Raises:
        ValueError: on an option that `batch_norm` does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = frozen_norm(epsilon=0.0)
        >>> params, state = norm.init(1)
        >>> state = {'mean': jnp.array([2.0]), 'var': jnp.array([4.0])}
        >>> y, new = norm.apply(params, state, jnp.array([[4.0], [6.0]]), True)
        >>> y.ravel(), new is state
        (Array([1., 2.], dtype=float32), True)

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 4.3.
    """
    check_flags(constant_affine=constant_affine, fold=fold)
    start = batch_norm(axis=axis, epsilon=epsilon, dtype=dtype, **options).init

    def init(
        num_features: int | Sequence[int], *, key: Array | None = None
    ) -> tuple[Params, State]:
        params, state = start(num_features, key=key)
        return ({}, {**state, **params}) if constant_affine else (params, state)

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
        check_tree("state", state)
        held = lax.stop_gradient(state)
        affine = {k: held[k] for k in ("scale", "bias") if k in state}
        affine = affine if constant_affine else params
        check_params(affine, feature_shape(x, features), x)
        check_state(state, feature_shape(x, features), counts=False)
        mean, var = held["mean"], held["var"]
        scale, bias = affine.get("scale"), affine.get("bias")
        if not fold:
            fixed = {"epsilon": epsilon, "axis": axis, "mask": mask, "dtype": dtype}
            return normalize(x, mean, var, scale, bias, **fixed), state
        weights = as_weights(mask, x, features)
        gain, offset = fold_affine(mean, var, scale, bias, epsilon)
        wide = conceal(x, weights).astype(stats_dtype(x.dtype))
        y = wide * expand(gain, features, x.ndim) + expand(offset, features, x.ndim)
        return conceal(y.astype(dtype or x.dtype), weights), state

    axes = axis if isinstance(axis, int) else axes_of(axis)
    return Norm(init, apply, axes, epsilon=epsilon, moves=False)


def fold_affine(
    mean: Array,
    var: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: float,
) -> tuple[Array, Array]:
    """Returns `gain` and `offset`, [C] each, of what batch norm does in evaluation."""
    gain = inverse_deviation(var, epsilon)
    gain = gain if scale is None else gain * scale
    offset = -mean * gain
    return gain, offset if bias is None else offset + bias
