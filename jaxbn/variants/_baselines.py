"""Norms that know no batch: of groups, of a layer, of an instance, and none at all.

What batch norm is compared with. Each example is normalized by itself, in training as
in evaluation, so there is no state, no leak between examples and nothing to estimate.
"""

import functools
from typing import Any

from jaxbn._values import check_flags, is_count, shown
from jaxbn.base import Array, DType, Norm
from jaxbn.core._arrays import expand
from jaxbn.core._mask import conceal
from jaxbn.variants._each_example import by_group, by_position, each_example


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
        ValueError: if `num_groups` is no int from 1 on; in `apply`, if the groups do
            not divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = group_norm(2, epsilon=0.0)
        >>> params, state = norm.init(4)
        >>> norm.apply(params, state, jnp.array([[1.0, 3.0, 5.0, 9.0]]), True)[0]
        Array([[-1.,  1., -1.,  1.]], dtype=float32)

    References:
        Wu and He, Group Normalization, 2018. https://arxiv.org/abs/1803.08494
    """
    if not is_count(num_groups):
        raise ValueError(
            f"num_groups is {shown(num_groups)}, expected an int from 1 on that "
            "divides the channels; 1 is layer norm over all positions"
        )
    within = functools.partial(by_group, num_groups=num_groups)
    return each_example(within, axis, epsilon, dtype, options)


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
        position gives the bias, where PyTorch's raises; PyTorch's has no scale and bias
        unless `affine=True`.

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
    within = functools.partial(by_group, num_groups=None)
    return each_example(within, axis, epsilon, dtype, options)


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
    check_flags(over_positions=over_positions)
    if over_positions:
        within = functools.partial(by_group, num_groups=1)
    else:
        within = by_position
    return each_example(within, axis, epsilon, dtype, options)


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

    def as_it_is(
        x: Array,
        scale: Array | None,
        bias: Array | None,
        weights: Array | None,
        axis: int,
        epsilon: float,
        dtype: DType,
    ) -> Array:
        y = conceal(x, weights)
        if scale is not None:
            y = y * expand(scale, (axis,), x.ndim)
        if bias is not None:
            y = y + expand(bias, (axis,), x.ndim)
        return conceal(y.astype(dtype), weights)

    return each_example(as_it_is, axis, 0.0, dtype, options)
