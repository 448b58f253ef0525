"""Agreement: what should be equal on all devices is, or the first layer that is not.

An array that JAX calls replicated is so by declaration: `shard_map(check_vma=False)`
lets eight different arrays out as one, and whoever reads it sees the first.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util
from jax.experimental import multihost_utils

from jaxbn._values import check_flags, shown
from jaxbn.tree import path_name
from jaxbn.tree._watch import is_array


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
    check_flags(stacked=stacked)
    leaves = [
        (path_name(path), _as_numbers(path_name(path), leaf))
        for path, leaf in tree_util.tree_leaves_with_path(tree)
    ]
    found = _first_difference(leaves, stacked)
    if jax.process_count() > 1 and not stacked:
        _compare_processes(leaves, found)
    if found is not None:
        raise AssertionError(found[1])


def _as_numbers(name: str, leaf: Any) -> Any:
    """Returns a typed random key as what it consists of."""
    if not is_array(leaf) or isinstance(leaf, jax.core.Tracer):
        raise ValueError(
            f"tree has {shown(leaf)} at {name!r}, expected arrays that are "
            "known, not traced; leave out what is none"
        )
    typed = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if typed else leaf


def _first_difference(
    leaves: list[tuple[str, Any]], stacked: bool
) -> tuple[int, str] | None:
    """Returns which leaf differs between replicas of this process, and how."""
    for i, (name, leaf) in enumerate(leaves):
        replicas = _rows(name, leaf) if stacked else _copies(leaf)
        for (place, first), *others in replicas:
            for other_place, other in others:
                if first.tobytes() != other.tobytes():
                    return i, (
                        f"{name} differs between replicas {place} and {other_place}, "
                        f"by up to {_distance(first, other):.3g}"
                    )
    return None


def _rows(name: str, leaf: Any) -> list[list[tuple[Any, np.ndarray]]]:
    rows = np.asarray(leaf)
    if rows.shape[:1] == (0,):
        return []
    if rows.ndim == 0:
        raise ValueError(
            f"{name or 'tree'} is a scalar, expected a leading axis of replicas; pass "
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


def _compare_processes(
    leaves: list[tuple[str, Any]], found: tuple[int, str] | None
) -> None:
    """Raises in all processes what differs between them, or within another one.

    What each of them found goes round with the checksums, so that none is left waiting.
    """
    sums = [len(leaves) if found is None else found[0]]
    sums += [_checksum(leaf) for _, leaf in leaves]
    everywhere = multihost_utils.process_allgather(np.array(sums, np.uint32))
    within, sums = everywhere[:, 0], everywhere[:, 1:]
    if found is None and within.min() < len(leaves):
        raise AssertionError(
            f"{leaves[within.min()][0]} differs between replicas of process "
            f"{within.argmin()}"
        )
    differing = (sums != sums[:1]).any(0)
    if found is None and differing.any():
        name = leaves[int(differing.argmax())][0]
        raise AssertionError(f"{name} differs between processes")


def _checksum(leaf: Any) -> int:
    """Returns a checksum of an array that all have whole, 0 for others."""
    if not getattr(leaf, "is_fully_replicated", False):
        return 0
    return zlib.crc32(np.asarray(leaf.addressable_data(0)).tobytes())


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    return float(np.max(np.abs(a.astype(wide) - b.astype(wide)), initial=0))
