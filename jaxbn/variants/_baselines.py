"""Norms that know no batch: of groups, of a layer, of an instance, and none at all.

What batch norm is compared with. Each example is normalized by itself, in training as
in evaluation, so there is no state, no leak between examples and nothing to estimate.
"""

import functools
from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike

from jaxbn.base import Array, DType, Norm, Params, State
from jaxbn.core import batch_norm
from jaxbn.core._axes import expand
from jaxbn.core._checks import check_params
from jaxbn.core._dtypes import as_inexact
from jaxbn.core._mask import as_weights, conceal
from jaxbn.core._moments import measure
from jaxbn.core._normalize import standardize


def group_norm(
    num_groups: int = 32,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    **options: Any,
) -> Norm:
    """Returns group norm: each example's channels in groups, over all positions.

    Args:
        num_groups: it has to divide the number of channels; neighbours go together.
        axis: the feature axis; the first of the others is that of the examples.
        epsilon: added to the variance inside the root, 1e-5 as in PyTorch (Flax 1e-6).
        dtype: of the output; None for that of `x`.
        **options: of `bn_init`: use_scale, use_bias, scale_init, param_dtype, ...

    Returns:
        A `Norm` with {'scale', 'bias'} [C] and an empty state. What a mask hides is not
        counted and comes out as 0.

    Raises:
        ValueError: in `apply`, if the groups do not divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = group_norm(2, epsilon=0.0)
        >>> params, state = norm.init(4)
        >>> norm.apply(params, state, jnp.array([[1.0, 3.0, 5.0, 9.0]]), True)[0]
        Array([[-1.,  1., -1.,  1.]], dtype=float32)

    References:
        Wu and He, Group Normalization, 2018. https://arxiv.org/abs/1803.08494
    """
    within = functools.partial(_by_group, num_groups=num_groups)
    return _each_example(within, axis, epsilon, dtype, options)


def instance_norm(
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    **options: Any,
) -> Norm:
    """Returns instance norm: each channel of each example, over its positions.

    Args:
        axis: the feature axis; the first of the others is that of the examples.
        epsilon: added to the variance, inside the root.
        dtype: of the output; None for that of `x`.
        **options: of `bn_init`.

    Returns:
        A `Norm` with {'scale', 'bias'} [C] and an empty state. An example with a single
        position gives the bias.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = instance_norm(epsilon=0.0)
        >>> params, state = norm.init(1)
        >>> x = jnp.array([[[0.0], [2.0]], [[5.0], [9.0]]])
        >>> norm.apply(params, state, x, True)[0].ravel()
        Array([-1.,  1., -1.,  1.], dtype=float32)

    References:
        Ulyanov, Vedaldi and Lempitsky, Instance Normalization, 2016.
        https://arxiv.org/abs/1607.08022
    """
    within = functools.partial(_by_group, num_groups=None)
    return _each_example(within, axis, epsilon, dtype, options)


def layer_norm(
    *,
    over_positions: bool = False,
    axis: int = -1,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    **options: Any,
) -> Norm:
    """Returns layer norm: all channels of a position together.

    Args:
        over_positions: all positions of an example together too, as the paper has it
            for images and group norm with one group is. Flax, Keras and transformers
            normalize each position by itself.
        axis: the feature axis; the first of the others is that of the examples.
        epsilon: added to the variance inside the root, 1e-5 as in PyTorch (Flax 1e-6).
        dtype: of the output; None for that of `x`.
        **options: of `bn_init`.

    Returns:
        A `Norm` with {'scale', 'bias'} [C] and an empty state.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = layer_norm(epsilon=0.0)
        >>> params, state = norm.init(2)
        >>> norm.apply(params, state, jnp.array([[1.0, 3.0], [5.0, 9.0]]), True)[0]
        Array([[-1.,  1.],
               [-1.,  1.]], dtype=float32)

    References:
        Ba, Kiros and Hinton, Layer Normalization, 2016.
        https://arxiv.org/abs/1607.06450
    """
    if over_positions:
        within = functools.partial(_by_group, num_groups=1)
    else:
        within = _by_position
    return _each_example(within, axis, epsilon, dtype, options)


def no_norm(
    *,
    use_scale: bool = False,
    use_bias: bool = False,
    axis: int = -1,
    dtype: DType | None = None,
    **options: Any,
) -> Norm:
    """Returns the norm that normalizes nothing: `y = x`, or `x * scale + bias`.

    Args:
        use_scale: whether there is a scale.
        use_bias: whether there is a bias.
        axis: the feature axis.
        dtype: of the output; None for that of `x`.
        **options: of `bn_init`.

    Returns:
        A `Norm` with an empty state. What a mask hides comes out as 0.

    Example:
        >>> params, state = no_norm().init(3)
        >>> params, state
        ({}, {})
    """
    options |= {"use_scale": use_scale, "use_bias": use_bias}

    def as_it_is(x: Array, weights: Array | None, axis: int, epsilon: float) -> Array:
        return conceal(x, weights)

    return _each_example(as_it_is, axis, 0.0, dtype, options)


def _each_example(
    within: Any, axis: int, epsilon: float, dtype: DType | None, options: dict[str, Any]
) -> Norm:
    """Returns the pair that normalizes by `within`, then scales and adds the bias."""
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
        features = (axis % x.ndim,)
        check_params(params, (x.shape[features[0]],), x)
        weights = as_weights(mask, x, features)
        y = within(x, weights, features[0], epsilon)
        if "scale" in params:
            y = y * expand(params["scale"], features, x.ndim)
        if "bias" in params:
            y = y + expand(params["bias"], features, x.ndim)
        return conceal(y.astype(dtype or x.dtype), weights), state

    return Norm(init, apply, axis)


def _by_group(
    x: Array, weights: Array | None, axis: int, epsilon: float, num_groups: int | None
) -> Array:
    """Returns `x` normalized by the moments of each example's groups of channels."""
    channels = x.shape[axis]
    groups = channels if num_groups is None else num_groups
    if channels % groups:
        raise ValueError(
            f"num_groups is {groups} for {channels} channels, expected a divisor of "
            "them; pass one"
        )

    def cut(a: Array) -> Array:  # [..., C, ...] to [..., groups, C / groups, ...]
        inside = (groups, a.shape[axis] // groups) if a.shape[axis] > 1 else (1, 1)
        return a.reshape(*a.shape[:axis], *inside, *a.shape[axis + 1 :])

    examples = 0 if axis else 2  # where `cut` leaves them
    features = tuple(sorted((examples, axis))) if x.ndim > 1 else (axis,)
    parts = None if weights is None else cut(weights)
    return _standardize(cut(x), parts, features, epsilon).reshape(x.shape)


def _by_position(x: Array, weights: Array | None, axis: int, epsilon: float) -> Array:
    """Returns `x` normalized by the moments of each position's channels."""
    features = tuple(a for a in range(x.ndim) if a != axis)
    return _standardize(x, weights, features, epsilon)


def _standardize(
    x: Array, weights: Array | None, features: tuple[int, ...], epsilon: float
) -> Array:
    moments = measure(x, weights, features)
    fixed = moments.shift, moments.delta, moments.var, None, None
    return standardize(conceal(x, weights), *fixed, epsilon, features)
