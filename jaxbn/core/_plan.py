"""The normalization batch: which examples share one mean and one variance.

All devices named, groups of them, or what a size (`_sizes`) makes of them. A `Plan`
says it to the arithmetic. Its *lanes* are parts of one array, cut along the examples:
ghost batches, or, under jit, the shares of the devices that the array lies on, where no
function can be called once a device.
"""

from typing import NamedTuple

from jaxbn.base import AxisIndexGroups, AxisName, DType
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
        lanes: into how many parts the array is cut; 0 leaves it as it is.
        lane_groups: the number of the group of each lane; None keeps lanes apart.
        laid_along: axes of the mesh, left to the compiler, that the lanes lie along.
        axis_name: axes of pmap, vmap or shard_map to reduce over; None for none.
        axis_index_groups: which devices along them belong together; None for all.
    """

    lanes: int = 0
    lane_groups: tuple[int, ...] | None = None
    laid_along: tuple[str, ...] = ()
    axis_name: tuple[str, ...] | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None


class Batch(NamedTuple):
    """What is fixed while tracing; hashable.

    Attributes:
        features: canonical feature axes of `x`, that of the lanes among them.
        epsilon: added to the variance.
        plan: what is normalized together.
        dtype: of the output.
    """

    features: tuple[int, ...]
    epsilon: float
    plan: Plan
    dtype: DType


class Seen(NamedTuple):
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


def see_devices(axis_name: AxisName | None) -> Seen:
    """Returns what the names mean here.

    Raises:
        ValueError: for a name unknown here.
    """
    names = axis_names(axis_name)
    mapped = tuple(filter(is_bound, names))
    laid_along = tuple(name for name in names if name not in mapped)
    num_mapped = axis_size(mapped) if mapped else 1
    return Seen(mapped, laid_along, num_mapped, mesh_size(laid_along))


def make_plan(
    num_examples: int,
    axis_name: AxisName | None,
    axis_index_groups: AxisIndexGroups | None,
    normalization_batch_size: int | None,
) -> Plan:
    """Returns the plan for an array of `num_examples`, seen from where this is called.

    An array without examples has nothing to divide: there the size has no say.

    Raises:
        ValueError: for a size that the devices cannot form, for groups that do not
            partition them or go over axes of two kinds, for an axis unknown here.
    """
    seen, groups = see_devices(axis_name), axis_index_groups
    if num_examples % seen.num_laid:
        raise ValueError(
            f"x has {num_examples} examples, expected a multiple of the "
            f"{seen.num_laid} devices along {seen.laid_along}; pad the batch and mask "
            "what was added"
        )
    if normalization_batch_size is not None and num_examples:
        devices = seen.num_mapped * seen.num_laid
        ghosts, groups = resolve_groups(
            normalization_batch_size, num_examples * seen.num_mapped, devices
        )
        if len(groups or ()) == devices:  # Each device by itself.
            lanes = seen.num_laid * ghosts
            return Plan(lanes=lanes if lanes > 1 else 0, laid_along=seen.laid_along)
    return _plan_groups(seen, groups, normalization_batch_size)


def _plan_groups(seen: Seen, groups: AxisIndexGroups | None, size: int | None) -> Plan:
    """Returns the plan by which the devices of each group are one batch."""
    if groups is not None and seen.laid_along and seen.mapped:
        made = f", which normalization_batch_size={size} makes" if size else ""
        raise ValueError(
            f"axis_index_groups is {groups}{made}, over axes of two kinds, "
            f"{seen.mapped} mapped and {seen.laid_along} left to the compiler, "
            "expected axes of one kind; name those that the groups partition, or pass "
            "none for all devices"
        )
    num_devices = seen.num_mapped if seen.mapped else seen.num_laid
    group_of = tuple(group_indices(groups, num_devices))
    if not seen.laid_along:
        lists = None if groups is None else tuple(map(tuple, groups))
        return Plan(axis_name=seen.mapped or None, axis_index_groups=lists)
    plan = Plan(axis_name=seen.mapped or None)
    if seen.num_laid == 1:
        return plan
    if seen.mapped:  # All of them.
        group_of = (0,) * seen.num_laid
    alone = len(set(group_of)) == seen.num_laid
    return plan._replace(
        lanes=seen.num_laid,
        lane_groups=None if alone else group_of,
        laid_along=seen.laid_along,
    )
