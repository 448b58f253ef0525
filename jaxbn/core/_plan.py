"""The normalization batch: which examples share one mean and one variance.

All devices named, groups of them, or what a size (`_sizes`) makes of them. A `Plan`
says it to the arithmetic. Its *shards* are parts of one array, cut along the examples:
ghost batches, or, under jit, the shares of the devices that the array lies on, where no
function can be called once a device.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbn._values import as_array, shown
from jaxbn.base import Array, AxisIndexGroups, AxisName, DType, State
from jaxbn.core._checks import check_tree
from jaxbn.core._devices import (
    axis_names,
    axis_size,
    group_indices,
    is_bound,
    mesh_size,
)
from jaxbn.core._sizes import resolve_groups


class Plan(NamedTuple):
    """What is normalized together; hashable.

    Attributes:
        shards: into how many parts the array is cut; 0 leaves it as it is.
        shard_groups: the number of the group of each shard; None keeps shards apart.
        num_groups: where each example is a shard and a traced index says its group: how
            many groups there are; else 0.
        laid_along: axes of the mesh, left to the compiler, that the shards lie along.
        axis_name: axes of pmap, vmap or shard_map to reduce over; None for none.
        axis_index_groups: which devices along them belong together; None for all.
    """

    shards: int = 0
    shard_groups: tuple[int, ...] | None = None
    num_groups: int = 0
    laid_along: tuple[str, ...] = ()
    axis_name: tuple[str, ...] | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None


class Batch(NamedTuple):
    """What is fixed while tracing; hashable.

    Attributes:
        features: canonical feature axes of `x`, that of the shards among them.
        epsilon: added to the variance.
        plan: what is normalized together.
        dtype: of the output.
    """

    features: tuple[int, ...]
    epsilon: float
    plan: Plan
    dtype: DType


class Devices(NamedTuple):
    """The devices named, and how they are seen from where a norm is called.

    Attributes:
        mapped: axes along which this code runs once a device.
        laid_along: axes of the mesh that one array lies along, left to the compiler.
        num_mapped: devices along the former.
        num_laid: devices along the latter.
    """

    mapped: tuple[str, ...]
    laid_along: tuple[str, ...]
    num_mapped: int
    num_laid: int


def find_devices(axis_name: AxisName | None) -> Devices:
    """Returns what the names mean here.

    Raises:
        ValueError: for a name unknown here.
    """
    names = axis_names(axis_name)
    mapped = tuple(filter(is_bound, names))
    laid_along = tuple(name for name in names if name not in mapped)
    num_mapped = axis_size(mapped) if mapped else 1
    return Devices(mapped, laid_along, num_mapped, mesh_size(laid_along))


def make_plan(
    num_examples: int,
    axis_name: AxisName | None,
    axis_index_groups: AxisIndexGroups | None,
    normalization_batch_size: int | None,
) -> Plan:
    """Returns the plan for an array of `num_examples`, seen from the caller.

    An array without examples has nothing to divide: there the size has no say.

    Raises:
        ValueError: for a size that the devices cannot form, for groups that do not
            partition them or go over axes of two kinds, for an axis unknown here.
    """
    devices, groups = find_devices(axis_name), axis_index_groups
    if num_examples % devices.num_laid:
        raise ValueError(
            f"x has {num_examples} examples, expected a multiple of the "
            f"{devices.num_laid} devices along {devices.laid_along}; pad the batch and "
            "mask what was added"
        )
    if normalization_batch_size is not None and num_examples:
        count = devices.num_mapped * devices.num_laid
        ghosts, groups = resolve_groups(
            normalization_batch_size, num_examples * devices.num_mapped, count
        )
        if len(groups or ()) == count:  # Each device by itself.
            shards = devices.num_laid * ghosts
            return Plan(
                shards=shards if shards != 1 else 0, laid_along=devices.laid_along
            )
    return _plan_groups(devices, groups, normalization_batch_size)


def check_groups(
    group_index: Any, state: State, num_examples: int
) -> tuple[Array | None, int]:
    """Returns the group of each example and how many groups there are; None and 0.

    Raises:
        ValueError: if it is not one integer an example, or the state has no rows.
    """
    if group_index is None:
        return None, 0
    index = as_array("group_index", group_index)
    if index.shape != (num_examples,) or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f"group_index is {shown(index)}, expected integers of shape "
            f"({num_examples},); pass one an example"
        )
    check_tree("state", state)
    rows = np.shape(state.get("mean", 0))[:1]
    if not rows:
        raise ValueError(
            f"state has 'mean' of shape {np.shape(state.get('mean', 0))}, expected a "
            "row for each group of group_index; stack a state for each"
        )
    return index, rows[0]


def by_index(plan: Plan, num_examples: int, num_groups: int, size: int | None) -> Plan:
    """Returns the plan by which an index of each example says its group.

    Raises:
        ValueError: with a size, or where one array lies on several devices.
    """
    if plan.shards or plan.laid_along or size is not None:
        raise ValueError(
            f"group_index with normalization_batch_size={size} or along mesh axes "
            f"{plan.laid_along} under jit, expected one way to say what is normalized "
            "together; use shard_map, or masks for each group"
        )
    return plan._replace(shards=num_examples, num_groups=num_groups)


def _plan_groups(
    devices: Devices, groups: AxisIndexGroups | None, size: int | None
) -> Plan:
    """Returns the plan by which the devices of each group are one batch."""
    if groups is not None and devices.laid_along and devices.mapped:
        made = f", which normalization_batch_size={size} makes" if size else ""
        raise ValueError(
            f"axis_index_groups is {groups}{made}, over axes of two kinds, "
            f"{devices.mapped} mapped and {devices.laid_along} left to the compiler, "
            "expected axes of one kind; name those that the groups partition, or pass "
            "none for all devices"
        )
    num_devices = devices.num_mapped if devices.mapped else devices.num_laid
    group_of = tuple(group_indices(groups, num_devices))
    if not devices.laid_along:
        lists = None if groups is None else tuple(map(tuple, groups))
        return Plan(axis_name=devices.mapped or None, axis_index_groups=lists)
    plan = Plan(axis_name=devices.mapped or None)
    if devices.num_laid == 1:
        return plan
    if devices.mapped:  # All of them.
        group_of = (0,) * devices.num_laid
    alone = len(set(group_of)) == devices.num_laid
    return plan._replace(
        shards=devices.num_laid,
        shard_groups=None if alone else group_of,
        laid_along=devices.laid_along,
    )
