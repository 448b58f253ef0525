"""Agreement: what should be equal on all devices is, or the first layer that is not.

An array that JAX calls replicated is so by declaration: `shard_map(check_vma=False)`
lets eight different arrays out as one, and whoever reads it sees the first.
"""

import zlib
from typing import Any

import jax
import numpy as np
from jax import tree_util
from jax.experimental import multihost_utils

from jaxbn.tree import path_name


def assert_replicas_agree(tree: Any, *, stacked: bool = False) -> None:
    """Raises unless all replicas of every array are equal, bit for bit.

    Args:
        tree: of arrays: `batch_stats`, parameters, a whole state. Copies of the same
            part of a `jax.Array` on several devices are compared; with several
            processes, called in all of them, also those of the others.
        stacked: whether the arrays are [D, ...] with a replica a device instead, as
            pmap returns them, which are then compared with each other.

    Raises:
        AssertionError: naming the first array that differs, where and by how much.
        ValueError: if an array to be compared along its first axis has none.

    Example:
        >>> import jax.numpy as jnp
        >>> assert_replicas_agree({'bn': {'mean': jnp.zeros((2, 3))}}, stacked=True)
        >>> assert_replicas_agree({'bn': {'mean': jnp.arange(2.0)}}, stacked=True)
        Traceback (most recent call last):
        ...
        AssertionError: bn/mean differs between replicas 0 and 1, by up to 1
    """
    leaves = tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        name = path_name(path)
        replicas = _rows(name, leaf) if stacked else _copies(leaf)
        for first, *others in replicas:
            for place, other in others:
                if not _equal(first[1], other):
                    raise AssertionError(
                        f"{name} differs between replicas {first[0]} and {place}, by "
                        f"up to {_distance(first[1], other):.3g}"
                    )
    if jax.process_count() > 1 and not stacked:
        _compare_processes([(path_name(path), leaf) for path, leaf in leaves])


def _rows(name: str, leaf: Any) -> list[list[tuple[Any, np.ndarray]]]:
    rows = np.asarray(leaf)
    if rows.ndim == 0:
        raise ValueError(
            f"{name} is a scalar, expected a leading axis of replicas; pass "
            "stacked=False for arrays with a copy on each device"
        )
    return [list(enumerate(rows))]


def _copies(leaf: Any) -> list[list[tuple[Any, np.ndarray]]]:
    """Returns the copies of each part of `leaf` that this process has."""
    parts: dict[str, list[tuple[Any, np.ndarray]]] = {}
    for shard in getattr(leaf, "addressable_shards", ()):
        parts.setdefault(str(shard.index), []).append(
            (shard.device.id, np.asarray(shard.data))
        )
    return list(parts.values())


def _compare_processes(leaves: list[tuple[str, Any]]) -> None:
    sums = [
        zlib.crc32(np.asarray(leaf.addressable_data(0)).tobytes())
        for _, leaf in leaves
        if getattr(leaf, "is_fully_replicated", False)
    ]
    names = [name for name, leaf in leaves if getattr(leaf, "is_fully_replicated", 0)]
    everywhere = multihost_utils.process_allgather(np.array(sums, np.uint32))
    differing = (everywhere != everywhere[:1]).any(0)
    if differing.any():
        raise AssertionError(
            f"{names[int(differing.argmax())]} differs between processes"
        )


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0))
