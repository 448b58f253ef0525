"""Shuffling: examples trade places between devices before a norm, and come back.

Statistics of a device's share of the batch tell each example something of those beside
it. A contrastive model reads from that which pairs came together, and learns nothing
else. What is normalized together is therefore drawn anew at each step:

    shuffle  ->  a norm, or a whole encoder  ->  unshuffle

`shuffle` permutes the examples of all devices; how is decided by a random key alone, so
`unshuffle` needs nothing but the same key. `_shuffled` puts the two around a `Norm`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxbn._values import as_array, check_key
from jaxbn.base import Array, AxisName
from jaxbn.core._devices import (
    as_varying,
    axis_index,
    axis_names,
    axis_size,
    is_bound,
)
from jaxbn.core._layout import layout_of

Tree = TypeVar("Tree")


def shuffle(x: Tree, key: Array, *, axis_name: AxisName | None = None) -> Tree:
    """Returns `x` with its examples permuted, across devices if an axis is named.

    Where the b examples of a device divide by the number D of devices, each permutes
    its own, sends b/D to every other, and permutes what came: it keeps exactly b/D of
    its examples, and (D-1)/D of the array is sent (one all-to-all). Otherwise all
    devices gather everything and take their rows of one permutation of all D b
    examples. So the two draw from different sets: the second has all (D b)!
    permutations, the first only those that give each device b/D examples of each.

    Linear, and the transpose of `unshuffle`: the gradient of one is the other.

    Args:
        x: a tree of arrays [b, ...], this device's examples along axis 0 of each. All
            travel alike; None and empty trees are left as they are.
        key: a random key, the same on all devices; another at each step.
        axis_name: the axis (or several) of pmap, vmap or shard_map to trade along.
            None: the b examples are permuted in place, under plain jit those of all
            devices.

    Returns:
        A tree like `x`, of the same shapes.

    Raises:
        ValueError: if the arrays differ in b, one has rank 0, the axis is not bound, or
            is of vmap under typed shard_map, where JAX has no collectives.

    Example:
        >>> key = jax.random.key(1)
        >>> mixed = shuffle({'x': jnp.arange(4.0), 'y': jnp.arange(4)}, key)
        >>> mixed['y']
        Array([3, 2, 0, 1], dtype=int32)
        >>> unshuffle(mixed, key)['x']
        Array([0., 1., 2., 3.], dtype=float32)

    References:
        He et al., Momentum Contrast, 2020, section 3.3 (shuffling BN, by a gather of
        everything). https://arxiv.org/abs/1911.05722
    """
    return _move(x, key, axis_names(axis_name), back=False)


def unshuffle(x: Tree, key: Array, *, axis_name: AxisName | None = None) -> Tree:
    """Returns `x` as it was before `shuffle` with the same key and axis, bit for bit.

    Args:
        x: a tree of arrays [b, ...]; need not be the one shuffled, an encoder may have
            made others of its examples.
        key: the key that shuffled.
        axis_name: the axis (or several) along which devices traded examples.

    Returns:
        A tree like `x`, of the same shapes.

    Raises:
        ValueError: as `shuffle`.
    """
    return _move(x, key, axis_names(axis_name), back=True)


def _move(x: Tree, key: Array, names: tuple[str, ...], back: bool) -> Tree:
    x = jax.tree.map(_as_rows, x)
    arrays = jax.tree.leaves(x)
    if not arrays:
        return x
    check_key(key)
    rows = _num_rows(arrays)
    if not names:
        order = _order(key, rows, back)
        return jax.tree.map(lambda a: _take(a, order), x)
    if not all(map(is_bound, names)):
        raise ValueError(
            f"axis_name is {names}, which is not bound here, expected axes of pmap, "
            "vmap or shard_map around this call; under plain jit, which sees the "
            "examples of all devices, pass axis_name=None"
        )
    x = jax.tree.map(lambda a: as_varying(a, names), x)
    trade = _exchange if rows % axis_size(names) == 0 else _redeal
    return trade(x, key, names, rows, back)


def _exchange(
    x: Tree, key: Array, names: tuple[str, ...], rows: int, back: bool
) -> Tree:
    """Returns `x` permuted here, an equal part sent to each device, permuted there.

    The all-to-all is its own inverse, and the way back takes the inverse permutations
    in the opposite order.
    """
    mine = jax.random.fold_in(key, axis_index(names))
    first, last = (_order(k, rows, back) for k in jax.random.split(mine))
    if back:
        first, last = last, first

    def trade(a: Array) -> Array:
        a = lax.all_to_all(_take(a, first), names, 0, 0, tiled=True)
        return _take(a, last)

    return jax.tree.map(trade, x)


def _redeal(x: Tree, key: Array, names: tuple[str, ...], rows: int, back: bool) -> Tree:
    """Returns this device's rows of a permutation of the examples of all devices."""
    order = _order(key, rows * axis_size(names), back)
    mine = order.reshape(-1, rows)[axis_index(names)]

    def deal(a: Array) -> Array:
        for name in reversed(names):  # vmap gathers along one axis at a time
            a = lax.all_gather(a, name, tiled=True)
        return _take(a, mine)

    return jax.tree.map(deal, x)


def _order(key: Array, rows: int, back: bool) -> Array:
    order = jax.random.permutation(key, rows)
    return jnp.argsort(order) if back else order


def _take(a: Array, order: Array) -> Array:
    """Returns the rows of `a` in another order.

    Its transpose is a scatter without collisions, on a CPU as fast as the gather by the
    inverse that `linear_call` would make of it, which knows no vmap.
    """
    how = {"unique_indices": True, "mode": "promise_in_bounds"}
    return a.at[order].get(**how, out_sharding=layout_of(a))


def _as_rows(leaf: Any) -> Array:
    """Returns an array of a tree; random keys travel too."""
    return leaf if isinstance(leaf, Array) else as_array("x", leaf)


def _num_rows(arrays: Sequence[Array]) -> int:
    shapes = [a.shape for a in arrays]
    if () in shapes:
        raise ValueError(
            f"x has arrays of shapes {shapes}, expected rank 1 or more, examples along "
            "axis 0; leave out what belongs to no example"
        )
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"x has arrays of shapes {shapes}, expected the same number of examples "
            "along axis 0 of each; move the examples there, or shuffle the arrays apart"
        )
    return shapes[0][0]
