"""The normalization batch: which examples share one mean and one variance.

A size in examples, the number of devices and the size of the whole batch decide it
(Wu and Johnson 2021, section 4, call it the normalization batch size):

    size                      together
    a part of a device's      ghost batches: runs of neighbouring examples
    just a device's           each device by itself, no collective
    several devices'          groups of neighbouring devices
    the whole batch           all devices

A `Plan` says the same to the arithmetic. Its *lanes* are parts of one array, cut along
the examples: ghost batches, or, under jit, the shares of the devices that the array
lies on, where no function can be called once a device.
"""

from typing import NamedTuple

from jaxbn.base import AxisIndexGroups, AxisName
from jaxbn.core._devices import (
    axis_names,
    axis_size,
    group_indices,
    is_bound,
    mesh_size,
)


class Plan(NamedTuple):
    """What is normalized together; hashable.

    Attributes:
        lanes: into how many parts the array is cut; 0 leaves it as it is.
        lane_groups: the number of the group of each lane; None keeps lanes apart.
        spread: axes of the mesh, left to the compiler, that the lanes lie along.
        axis_name: axes of pmap, vmap or shard_map to reduce over; None for none.
        axis_index_groups: which devices along them belong together; None for all.
    """

    lanes: int = 0
    lane_groups: tuple[int, ...] | None = None
    spread: tuple[str, ...] = ()
    axis_name: tuple[str, ...] | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None


def make_plan(
    num_examples: int,
    axis_name: AxisName | None,
    axis_index_groups: AxisIndexGroups | None,
    normalization_batch_size: int | None,
) -> Plan:
    """Returns the plan for an array of `num_examples`, seen from where this is called.

    Raises:
        ValueError: for a size that the devices cannot form, for a size and groups at
            once, for groups over axes of two kinds, for an axis unknown here.
    """
    names = axis_names(axis_name)
    spread = tuple(name for name in names if not is_bound(name))
    mapped = tuple(name for name in names if name not in spread)
    over_lanes, over_devices = mesh_size(spread), axis_size(mapped) if mapped else 1
    if num_examples % over_lanes:
        raise ValueError(
            f"x has {num_examples} examples, expected a multiple of the {over_lanes} "
            f"devices along {spread}; pad the batch and mask what was added"
        )
    if normalization_batch_size is not None:
        if axis_index_groups is not None:
            raise ValueError(
                f"normalization_batch_size is {normalization_batch_size} and "
                f"axis_index_groups is {axis_index_groups}, expected one of the two; "
                "the size makes the groups"
            )
        devices = over_lanes * over_devices
        ghosts, axis_index_groups = resolve_groups(
            normalization_batch_size, num_examples * over_devices, devices
        )
        if len(axis_index_groups or ()) == devices:  # Each device by itself.
            lanes = over_lanes * ghosts
            return Plan(lanes=lanes if lanes > 1 else 0, spread=spread)
    if axis_index_groups is not None and spread and mapped:
        raise ValueError(
            f"axis_index_groups over axis_name={names}, of which {spread} is left to "
            "the compiler; expected axes of one kind; name the axis that the groups "
            "partition"
        )
    groups = None
    if axis_index_groups is not None:
        groups = tuple(map(tuple, axis_index_groups))
    plan = Plan(axis_name=mapped or None, axis_index_groups=groups if mapped else None)
    if over_lanes == 1:
        return plan
    group_of = tuple(group_indices(groups if not mapped else None, over_lanes))
    alone = len(set(group_of)) == over_lanes
    return plan._replace(
        lanes=over_lanes, lane_groups=None if alone else group_of, spread=spread
    )


def resolve_groups(
    normalization_batch_size: int | None, num_examples: int, num_devices: int
) -> tuple[int, list[list[int]] | None]:
    """Returns ghost batches a device, and the devices that are normalized together.

    Args:
        normalization_batch_size: how many examples share their statistics; None for
            all of them.
        num_examples: in the batch of all devices.
        num_devices: that share it equally.

    Returns:
        The number of ghost batches in each device, and `axis_index_groups`: None for
        all devices, one list a device where each is by itself.

    Raises:
        ValueError: if the size is none of those that devices can form; they are named.

    Example:
        >>> resolve_groups(16, 64, 8)
        (1, [[0, 1], [2, 3], [4, 5], [6, 7]])
        >>> resolve_groups(2, 64, 8)[0]
        4
    """
    size, share = normalization_batch_size, num_examples // num_devices
    possible = possible_sizes(num_examples, num_devices)
    if size is None or (size == num_examples and size in possible):
        return 1, None
    if size not in possible:
        raise ValueError(
            f"normalization_batch_size is {size} for a batch of {num_examples} on "
            f"{num_devices} devices, expected one of {possible}: a divisor of the "
            f"{share} examples of a device, or a group of devices"
        )
    together = max(size // share, 1)
    starts = range(0, num_devices, together)
    groups = [list(range(start, start + together)) for start in starts]
    return max(share // size, 1), groups


def possible_sizes(num_examples: int, num_devices: int) -> list[int]:
    """Returns the sizes that `num_devices` equal shares can be normalized in."""
    share = num_examples // num_devices
    ghosts = [n for n in range(1, share + 1) if share % n == 0]
    groups = [share * n for n in range(2, num_devices + 1) if num_devices % n == 0]
    return ghosts + groups if share else []


def describe_groups(
    normalization_batch_size: int | None, num_examples: int, num_devices: int
) -> str:
    """Returns in words what `resolve_groups` chose.

    Args:
        normalization_batch_size: as there.
        num_examples: as there.
        num_devices: as there.

    Returns:
        A line for people.

    Raises:
        ValueError: as there.

    Example:
        >>> describe_groups(16, 64, 8)
        '16 normalized together (groups of 2 devices)'
    """
    size = normalization_batch_size
    ghosts, groups = resolve_groups(size, num_examples, num_devices)
    together = num_devices if groups is None else len(groups[0])
    if ghosts > 1:
        how = f"{ghosts} ghost batches" + " in each device" * (num_devices > 1)
    elif num_devices == 1:
        how = "the whole batch"
    elif groups is None:
        how = f"all {num_devices} devices"
    else:
        how = "each device" if together == 1 else f"groups of {together} devices"
    return f"{size or num_examples} normalized together ({how})"
