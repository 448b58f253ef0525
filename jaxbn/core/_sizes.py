"""Sizes: how many examples are normalized together, as batches that devices can form.

A size, the number of devices and the size of the whole batch decide it
(Wu and Johnson 2021, section 4, call it the normalization batch size):

    size                      together
    a part of a device's      ghost batches: runs of neighbouring examples
    just a device's           each device by itself, no collective
    several devices'          groups of neighbouring devices
    the whole batch           all devices
"""

import math
from typing import Any

from jaxbn._values import is_count, shown
from jaxbn.core._arrays import is_symbolic


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
        ValueError: if the devices cannot share the examples equally, or the size is
            none of those that they can form; these are named.

    Example:
        >>> resolve_groups(16, 64, 8)
        (1, [[0, 1], [2, 3], [4, 5], [6, 7]])
        >>> resolve_groups(2, 64, 8)[0]
        4
    """
    size = normalization_batch_size
    _check_counts(size, num_examples, num_devices)
    share = num_examples // num_devices
    if num_examples % num_devices:
        raise ValueError(
            f"num_examples is {num_examples} on {num_devices} devices, expected a "
            "multiple of them; pad the batch and mask what was added"
        )
    if size is not None and (is_symbolic(size) or is_symbolic(share)):
        return _symbolic_groups(size, share)
    if size is None or size == num_examples > 0:
        return 1, None
    if not _is_possible(size, share, num_devices):
        possible = possible_sizes(num_examples, num_devices)
        raise ValueError(
            f"normalization_batch_size is {size} for a batch of {num_examples} on "
            f"{num_devices} devices, expected one of {possible}: a divisor of the "
            f"{share} examples of a device, or a group of devices"
        )
    together = max(size // share, 1)
    starts = range(0, num_devices, together)
    groups = [list(range(start, start + together)) for start in starts]
    return max(share // size, 1), groups


def _check_counts(size: Any, num_examples: Any, num_devices: Any) -> None:
    """Refuses what counts nothing.

    Raises:
        ValueError: naming it.
    """
    counts = {"num_examples": (num_examples, 0), "num_devices": (num_devices, 1)}
    counts |= {} if size is None else {"normalization_batch_size": (size, -(2**31))}
    for name, (value, least) in counts.items():
        bound = f" from {least} on" * (least >= 0)
        if not is_symbolic(value) and not is_count(value, least):
            raise ValueError(
                f"{name} is {shown(value)}, expected an int{bound}; pass how many"
            )


def _is_possible(size: int, share: int, num_devices: int) -> bool:
    """Returns whether parts of a share, or groups of devices, have so many examples."""
    if 1 <= size <= share:
        return share % size == 0
    group = size > share > 0 and size % share == 0
    return group and num_devices % (size // share) == 0


def _symbolic_groups(size: Any, share: Any) -> tuple[int, list[list[int]] | None]:
    """Returns the ghost batches of a share of which only the name is known.

    Raises:
        ValueError: if the size is not known to divide it.
    """
    if share % size != 0:
        raise ValueError(
            f"normalization_batch_size is {size} for {share} examples a device, a "
            "symbolic number, expected a divisor of it; name the dimension as a "
            f"multiple, such as '{size}*k'"
        )
    return share // size, [[0]]


def possible_sizes(num_examples: int, num_devices: int) -> list[int]:
    """Returns the sizes that `num_devices` equal shares can be normalized in."""
    share = num_examples // num_devices
    low = [n for n in range(1, math.isqrt(share) + 1) if share % n == 0]
    ghosts = sorted({*low, *(share // n for n in low)})
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
        how = f"{ghosts} ghost batches" + " in each device" * bool(num_devices > 1)
    elif num_devices == 1:
        how = "the whole batch"
    elif groups is None:
        how = f"all {num_devices} devices"
    else:
        how = "each device" if together == 1 else f"groups of {together} devices"
    return f"{size or num_examples} normalized together ({how})"
