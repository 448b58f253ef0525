"""Ghost norm: a batch cut into virtual ones, each normalized by itself.

Where the size does not divide the batch, the groups that are smaller are filled up with
elements of weight 0, so that all are parts of one array and nothing is looped over.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import is_count, shown
from jaxbn.base import Array, Axes, Norm, Params, State
from jaxbn.core import batch_norm, feature_axes
from jaxbn.core._arrays import as_inexact, is_symbolic
from jaxbn.core._checks import check_switch
from jaxbn.core._mask import as_weights


def ghost_norm(
    *,
    size: int | None = None,
    num_groups: int | None = None,
    axis: Axes = -1,
    **options: Any,
) -> Norm:
    """Returns batch norm of runs of neighbouring examples, apart from each other.

    The statistics of a training step are those of a small batch, however large the
    batch is. The running statistics absorb all groups as one batch: its variance is
    that within the groups and between them. (Hoffer et al. absorb one group after the
    other, which loses what lies between and weighs the last most.) In evaluation there
    are no groups.

    Args:
        size: examples a group; what is left over makes a smaller last one.
        num_groups: how many groups instead; their sizes differ by one at most.
        axis: the feature axis, or several.
        **options: the keyword options of `batch_norm`. With an `axis_name` groups are
            still of the array at hand, as `normalization_batch_size` says.

    Returns:
        A `Norm`. Groups are runs along the examples, the first axis of `x` that holds
        no features; a batch smaller than `num_groups` has one example a group.

    Raises:
        ValueError: unless one of `size` and `num_groups` is given, an int from 1 on, or
            with a `normalization_batch_size` in the options.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = ghost_norm(size=2)
        >>> params, state = norm.init(1)
        >>> x = jnp.array([[0.0], [2.0], [10.0], [14.0], [5.0]])
        >>> norm.apply(params, state, x, True)[0].round(3).ravel()
        Array([-1.,  1., -1.,  1.,  0.], dtype=float32)

    References:
        Keras and TensorFlow's `virtual_batch_size` reshapes instead, so that it has to
        divide the batch, and its running averages absorb the mean of the groups'
        variances, without what lies between groups.
        Hoffer, Hubara and Soudry, Train longer, generalize better, 2017.
        https://arxiv.org/abs/1705.08741
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 4.1.
    """
    given = [n for n in (size, num_groups) if n is not None]
    if len(given) != 1 or not is_count(given[0]):
        raise ValueError(
            f"size is {shown(size)} and num_groups is {shown(num_groups)}, expected "
            "one of the two, an int from 1 on; size is in examples"
        )
    size = None if size is None else int(size)
    if "normalization_batch_size" in options:
        raise ValueError(
            f"normalization_batch_size is {options['normalization_batch_size']} beside "
            "the groups of ghost_norm, expected one way to say it; pass size"
        )
    norm = batch_norm(axis=axis, **options)

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        train, x = check_switch("train", train), as_inexact(x)
        features = feature_axes(axis, x.ndim)
        examples = [a for a in range(x.ndim) if a not in features][:1]
        cut = train and "normalization_batch_size" not in overrides
        if not cut or not examples or not x.shape[examples[0]]:
            return norm.apply(params, state, x, train, mask=mask, **overrides)
        (along,) = examples
        sizes = group_sizes(x.shape[along], size, num_groups)
        overrides["normalization_batch_size"] = sizes[0]
        if len(set(sizes)) == 1:
            return norm.apply(params, state, x, train, mask=mask, **overrides)
        weights = as_weights(mask, x, features)
        if weights is None:
            weights = jnp.ones((1,) * x.ndim, bool)
        shape = list(weights.shape)
        shape[along] = x.shape[along]
        weights = fill_up(jnp.broadcast_to(weights, shape), along, sizes)
        filled = fill_up(x, along, sizes)
        y, state = norm.apply(params, state, filled, train, mask=weights, **overrides)
        return take_out(y, along, sizes), state

    return norm._replace(apply=apply)


def group_sizes(examples: Any, size: int | None, num_groups: int | None) -> list[Any]:
    """Returns the sizes of the groups, the larger ones first.

    Of a symbolic number that of one, for all.

    Example:
        >>> group_sizes(10, 4, None), group_sizes(10, None, 4)
        ([4, 4, 2], [3, 3, 2, 2])
    """
    if is_symbolic(examples):
        if examples % (size or num_groups) != 0:
            raise ValueError(
                f"x has {examples} examples, a symbolic number, expected a multiple of "
                f"{size or num_groups}; name the dimension so, such as "
                f"'{size or num_groups}*k'"
            )
        return [size or examples // num_groups]
    if size is not None:
        whole, rest = divmod(examples, size)
        return [min(size, examples)] * max(whole, 0) + [rest] * (rest > 0)
    num_groups = min(num_groups or 1, examples)
    least, more = divmod(examples, num_groups)
    return [least + 1] * more + [least] * (num_groups - more)


def fill_up(x: Array, axis: int, sizes: Sequence[int]) -> Array:
    """Returns `x` with zeros behind each group that is smaller than the first."""
    x = jnp.moveaxis(x, axis, 0)
    largest, smaller = sizes[0], sizes[-1]
    split = largest * sizes.count(largest)
    rest = x[split:].reshape(sizes.count(smaller), smaller, *x.shape[1:])
    padding = [(0, 0)] * rest.ndim
    padding[1] = (0, largest - smaller)
    rest = jnp.pad(rest, padding).reshape(-1, *x.shape[1:])
    return jnp.moveaxis(jnp.concatenate([x[:split], rest]), 0, axis)


def take_out(y: Array, axis: int, sizes: Sequence[int]) -> Array:
    """Returns the array that `fill_up` was given."""
    y = jnp.moveaxis(y, axis, 0)
    largest, smaller = sizes[0], sizes[-1]
    split = largest * sizes.count(largest)
    rest = y[split:].reshape(sizes.count(smaller), largest, *y.shape[1:])[:, :smaller]
    rest = rest.reshape(-1, *y.shape[1:])
    return jnp.moveaxis(jnp.concatenate([y[:split], rest]), 0, axis)
