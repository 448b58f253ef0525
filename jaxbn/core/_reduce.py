"""Across devices: moments pooled, and sums for the derivative, one collective each.

Every device writes its moments into its own row of a zero array and one sum over
devices hands the whole array to all (*slots*); the rows of the device's group are then
merged like any other moments. That is one collective whatever the groups, it weighs
devices by what they counted, an empty one has no say, and nothing cancels, which
summing `x` and `x^2` across devices cannot offer.
"""

import jax.numpy as jnp
from jax import lax

from jaxbn.base import Array, AxisIndexGroups, AxisName
from jaxbn.core._arrays import real_dot, real_dtype
from jaxbn.core._devices import (
    axis_index,
    axis_names,
    axis_size,
    group_indices,
    split_by_kind,
    sum_over,
)
from jaxbn.core._layout import keep
from jaxbn.core._moments import Moments, as_divisor, check_moments, merge_moments

SWITCH_BYTES = 2**21
"""From this many bytes saved on, sums are preferred to slots: some 20 microseconds, a
collective's start between accelerators, at 100 GB/s."""


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
    check_moments(moments)
    for names in device_axes(axis_name, axis_index_groups):
        size, index = axis_size(names), axis_index(names)
        group_of = jnp.array(group_indices(axis_index_groups, size))
        groups = 1 if axis_index_groups is None else len(axis_index_groups)
        if prefers_sums(size, groups, moments.shift.size * moments.shift.itemsize):
            row = group_of[index] if groups > 1 else 0
            moments = _reduce_by_sums(moments, names, row, groups)
            continue
        rows = unpack(sum_over(place(pack(moments), index, size), names), moments)
        if groups > 1:
            rows = select(rows, group_of == group_of[index])
        moments = merge_moments(rows)
    return moments


def prefers_sums(devices: int, groups: int, bytes_a_field: int) -> bool:
    """Returns whether two small collectives beat one that grows with the devices.

    The slots of all devices are 4 x devices fields, which a ring moves about twice;
    the sums are 2 + 2 fields a group, at the price of a second collective.
    `SWITCH_BYTES` is what a link moves in the time that a collective takes to start.
    """
    return 2 * 4 * (devices - groups) * bytes_a_field > SWITCH_BYTES


def _reduce_by_sums(
    moments: Moments, names: tuple[str, ...], row: Array | int, rows: int
) -> Moments:
    """Returns what slots would: the mean by one sum, deviations from it by another.

    Deviations are as small as from any element, whatever the devices counted, so that
    nothing cancels. A mean may be rounded twice (see `_shift`) unless there is a
    barrier between the sum it comes from and what is made of it.
    """

    def pooled(*fields: Array) -> Array:
        return sum_over(place(jnp.stack(fields), row, rows), names)[row]

    dtype, counted = moments.shift.dtype, moments.total > 0
    total = jnp.where(counted, moments.total, 0)
    mean = jnp.where(counted, moments.mean, 0)
    whole, s0 = pooled(total.astype(dtype), lax.stop_gradient(total * mean))
    whole = whole.real.astype(total.dtype)
    near = lax.optimization_barrier(s0 / as_divisor(whole))
    near = jnp.where(jnp.isfinite(near), near, 0)
    delta = jnp.where(counted, (moments.shift - near) + moments.delta, 0)
    m2 = jnp.where(counted, moments.m2, 0) + total * real_dot(delta, delta)
    s1, s2 = pooled(total * delta, m2.astype(dtype))
    delta, s2 = s1 / as_divisor(whole), s2.real.astype(m2.dtype)
    return Moments(whole, near, delta, jnp.maximum(s2 - real_dot(s1, delta), 0))


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
        if axis_index_groups is None or len(axis_index_groups) == 1:
            value = sum_over(value, names)  # Typed as equal on all devices.
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


def place(value: Array, row: Array | int, rows: int) -> Array:
    """Returns an array of shape [rows, ...] with `value` in row `row`, else 0."""
    return keep(jnp.arange(rows) == row, value[None])


def select(rows: Moments, members: Array) -> Moments:
    """Returns moments [K, C] in which only the rows that `members` [K] names count."""
    return rows._replace(total=keep(members, rows.total))


def pack(moments: Moments) -> Array:
    """Returns the fields stacked, [4, C], in the dtype of the shift."""
    return jnp.stack([field.astype(moments.shift.dtype) for field in moments])


def unpack(packed: Array, like: Moments) -> Moments:
    """Returns the fields of [..., 4, C], counts and sums of squares real again."""
    total, shift, delta, m2 = jnp.moveaxis(packed, 1, 0)
    real = real_dtype(like.shift.dtype)
    return Moments(total.real.astype(real), shift, delta, m2.real.astype(real))
