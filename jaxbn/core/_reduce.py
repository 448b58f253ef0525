"""Across devices: moments pooled, and sums for the derivative, one collective each.

Every device writes its moments into its own row of a zero array and one sum over
devices hands the whole array to all (*slots*); the rows of the device's group are then
merged like any other moments. That is one collective whatever the groups, it weighs
devices by what they counted, an empty one has no say, and nothing cancels, which
summing `x` and `x^2` across devices cannot offer.
"""

import jax.numpy as jnp

from jaxbn.base import Array, AxisIndexGroups, AxisName
from jaxbn.core._devices import (
    axis_index,
    axis_names,
    axis_size,
    group_indices,
    split_by_kind,
    sum_over,
)
from jaxbn.core._dtypes import real_dtype
from jaxbn.core._moments import Moments, merge_moments


def reduce_moments(
    moments: Moments,
    axis_name: AxisName | None,
    axis_index_groups: AxisIndexGroups | None = None,
) -> Moments:
    """Returns the moments of everything counted on the devices of this one's group.

    One all-reduce of [devices, 4, C] numbers. Equal to measuring the concatenated
    shards, also where they are of unequal size or empty. Flax and timm average means
    and variances with equal weight instead; PyTorch's SyncBatchNorm weighs as here.

    Args:
        moments: of this device, each field [C].
        axis_name: the axis (or several) of pmap, vmap or shard_map; None for no
            reduction.
        axis_index_groups: lists of device indices that partition the axis, of any
            sizes; None for one group of all.

    Returns:
        Moments, each field [C], the same on all devices of a group.

    Raises:
        ValueError: if the axis is not bound or the groups do not partition it.

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, appendix A.6.
    """
    for names in device_axes(axis_name, axis_index_groups):
        size, index = axis_size(names), axis_index(names)
        rows = unpack(sum_over(place(pack(moments), index, size), names), moments)
        if axis_index_groups is not None:
            group_of = jnp.array(group_indices(axis_index_groups, size))
            mine = _column(group_of == group_of[index], moments.total.ndim)
            rows = rows._replace(total=jnp.where(mine, rows.total, 0))
        moments = merge_moments(rows)
    return moments


def sum_over_group(
    value: Array,
    axis_name: AxisName | None,
    axis_index_groups: AxisIndexGroups | None = None,
) -> Array:
    """Returns the sum of `value` over the devices of this one's group.

    One all-reduce of a row a group. Unlike `lax.psum(axis_index_groups=...)` it works
    under typed shard_map and vmap too.
    """
    for names in device_axes(axis_name, axis_index_groups):
        size, index = axis_size(names), axis_index(names)
        if axis_index_groups is None:
            value = sum_over(value, names)
        else:
            group_of = jnp.array(group_indices(axis_index_groups, size))
            row = group_of[index]
            rows = len(axis_index_groups)
            value = sum_over(place(value, row, rows), names)[row]
    return value


def device_axes(
    axis_name: AxisName | None, axis_index_groups: AxisIndexGroups | None
) -> list[tuple[str, ...]]:
    """Returns the axes to reduce over, those that go together in one tuple.

    Raises:
        ValueError: for groups over axes that no single collective can join.
    """
    names = axis_names(axis_name)
    if not names:
        return []
    steps = split_by_kind(names)
    if axis_index_groups is not None and len(steps) > 1:
        raise ValueError(
            f"axis_index_groups over axis_name={names}, which mixes mesh and vmap "
            "axes; expected axes of one kind; name the axis that the groups partition"
        )
    return steps


def place(value: Array, row: Array, rows: int) -> Array:
    """Returns zeros of shape [rows, ...] with `value` in row `row`."""
    here = _column(jnp.arange(rows) == row, value.ndim)
    return jnp.where(here, value[None], jnp.zeros((), value.dtype))


def pack(moments: Moments) -> Array:
    """Returns the fields stacked, [4, C], in the dtype of the shift."""
    return jnp.stack([field.astype(moments.shift.dtype) for field in moments])


def unpack(packed: Array, like: Moments) -> Moments:
    """Returns the fields of [..., 4, C], counts and sums of squares real again."""
    total, shift, delta, m2 = jnp.moveaxis(packed, 1, 0)
    real = real_dtype(like.shift.dtype)
    return Moments(total.real.astype(real), shift, delta, m2.real.astype(real))


def _column(flags: Array, ndim: int) -> Array:
    return flags.reshape(flags.shape + (1,) * ndim)
