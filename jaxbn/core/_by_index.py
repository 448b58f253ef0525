"""Examples grouped by an index of each, which may be traced: domains in one pass.

Each example is summed by itself, once, about a number near the mean of its group; these
sums, [N, C], are added up by group, and a group's gain and offset go to its examples.
What one group holds, NaN included, is not seen by another.

On CPUs the small sums are scattered and gathered ([4096, 256]: 0.18 ms whatever the
number of groups, as much as a plain sum; a product with a one-hot matrix takes 0.28 to
0.53). Elsewhere, where many additions to one place wait for each other, every group is
a sum with a mask, of these small arrays. Where an example is a row, one number a
channel, what is scattered is as large as `x`: a CPU makes and adds it block by block,
so that it stays in the cache ([4096, 256], both sums: 3.2 ms at once, 0.77 in blocks).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbn.base import Array
from jaxbn.core._arrays import is_symbolic, reduction_axes
from jaxbn.core._devices import vary_alike
from jaxbn.core._layout import keep
from jaxbn.core._linear import (
    LinearPass,
    TangentPass,
    TangentSums,
    is_transposed_plainly,
    scaled_and_summed,
)
from jaxbn.core._mask import count
from jaxbn.core._moments import Moments, moments_about
from jaxbn.core._shift import choose_shift
from jaxbn.core._sums import deviation_sums, deviations

BLOCK_BYTES = 2**16
"""Of rows: with two arrays made of it, what a core's cache holds."""


def measure_by_index(
    x: Array,
    weights: Array | None,
    features: tuple[int, ...],
    index: Array,
    num_groups: int,
) -> Moments:
    """Returns the moments of each group, fields [groups, C].

    Args:
        x: [N, ...], its first axis one of `features`.
        weights: of the rank of `x`, [N, ...], or None.
        features: axes of `x`, that of the examples first.
        index: [N] integers from 0 to `num_groups` - 1.
        num_groups: how many there are.
    """
    total = count(x, weights, features)
    near = choose_shift(x, weights, features)
    if weights is None:  # All channels count the same.
        total = total[(slice(None), *(slice(0, 1),) * (total.ndim - 1))]
    first = first_counted(total, index, num_groups)
    first = jnp.broadcast_to(first, (num_groups, *near.shape[1:]))
    found = jnp.take_along_axis(near, first, 0, mode="clip")
    shift = jnp.where(first < near.shape[0], found, 0)
    if are_rows(x, features):

        def of_rows(x: Array, weights: Array | None, shift: Array) -> tuple:
            near = deviations(x, shift, weights, features)
            sums = TangentSums(features, near.dtype)
            return sums((x, shift, weights), (near,))

        s1, s2 = sums_of_rows(of_rows, (x, weights), shift, index)
    else:
        (near,) = take_by_index(index, shift)
        s1, _, s2 = deviation_sums(x, near, weights, features)
        s1, s2 = (sum_by_index(s, index, num_groups) for s in (s1, s2))
    total = sum_by_index(total, index, num_groups)
    return moments_about(shift, jnp.broadcast_to(total, s1.shape), s1, s2)


class SumsByIndex(LinearPass):
    """`TangentSums` of the examples of each group, about its own shift, [groups, C].

    Known are x, shift, weights (or None) and index; linear in dx.
    """

    def __call__(self, known: tuple, linear: tuple) -> tuple[Array, ...]:
        """Returns both sums, [groups, C]."""
        return self._sum(self._plain(), known, linear)

    def on_cpu(self, known: tuple, linear: tuple) -> tuple[Array, ...]:
        """Returns both sums, each from a computation of its own but for rows."""
        plain, rows = self._plain(), are_rows(known[0], self.features)
        return self._sum(plain if rows else plain.on_cpu, known, linear)

    def _sum(
        self, function: Callable[..., tuple], known: tuple, linear: tuple
    ) -> tuple[Array, ...]:
        (x, shift, weights, index), (dx,) = known, linear

        def of_rows(dx: Array, x: Array, weights: Array | None, shift: Array) -> tuple:
            return function((x, shift, weights), (dx,))

        if are_rows(x, self.features):
            return sums_of_rows(of_rows, (dx, x, weights), shift, index)
        found = of_rows(dx, x, weights, *take_by_index(index, shift))
        return tuple(sum_by_index(s, index, shift.shape[0]) for s in found)

    def transpose(self, known: tuple, cotangents: tuple) -> tuple[Array]:
        """Returns what `TangentSums` does, of each example's group."""
        x, shift, weights, index = known
        shift, *moved = take_by_index(index, shift, *cotangents)
        return self._plain().transpose((x, shift, weights), tuple(moved))

    def shaped(self, known: tuple, linear: tuple) -> tuple[Any, Any]:
        """Returns the abstract sums."""
        total = known[1].update(weak_type=False)
        return total, total

    def _plain(self) -> TangentSums:
        return TangentSums(self.features, self.dtype)


class PassByIndex(LinearPass):
    """`TangentPass` with the shift, gain, offset and slope of each example's group.

    Known are x, shift, gain, weights (or None) and index; linear in dx, offset, slope.
    """

    def __call__(self, known: tuple, linear: tuple) -> tuple[Array]:
        """Returns the tangent of `y`."""
        (x, *given, weights, index), (dx, *moved) = known, linear
        if is_transposed_plainly(x):  # Autodiff takes all of one gather for linear.
            shift, gain = take_by_index(index, *given)
            moved = take_by_index(index, *moved)
        else:
            shift, gain, *moved = take_by_index(index, *given, *moved)
        plain = TangentPass(self.features, self.dtype)
        return plain((x, shift, gain, weights), (dx, *moved))

    def transpose(self, known: tuple, cotangents: tuple) -> tuple[Array, ...]:
        """Returns gain * dy, and its two sums over each group."""
        (x, shift, gain, weights, index), (dy,) = known, cotangents
        (gain,) = take_by_index(index, gain)
        sums = SumsByIndex(self.features, dy.dtype)
        return scaled_and_summed(dy, gain, sums, x, shift, weights, index)


def are_rows(x: Array, features: tuple[int, ...]) -> bool:
    """Returns whether an example of `x` is one number a channel."""
    return all(x.shape[a] == 1 for a in reduction_axes(features, x.ndim))


def sums_of_rows(
    function: Callable[..., tuple], arrays: tuple, shift: Array, index: Array
) -> tuple[Array, ...]:
    """Returns the sums by group of what `function` makes of rows, [groups, C] each.

    Args:
        function: of rows of the arrays and the shifts of their groups, to [N, C].
        arrays: [N, ...] each, or None.
        shift: [groups, C].
        index: [N] the group of each.
    """
    leaves, tree = jax.tree.flatten(arrays)
    num = index.shape[0]
    leaves = [jnp.broadcast_to(a, (num, *a.shape[1:])) for a in leaves]
    *leaves, shift, index = vary_alike(*leaves, shift, index)

    def of_groups(shift: Array, index: Array, *leaves: Array) -> tuple[Array, ...]:
        rows = jax.tree.unflatten(tree, leaves)
        values = function(*rows, *take_by_index(index, shift))
        return tuple(sum_by_index(v, index, shift.shape[0]) for v in values)

    def in_blocks(shift: Array, index: Array, *leaves: Array) -> tuple[Array, ...]:
        size = max(BLOCK_BYTES // max(shift[0].nbytes, 1), 1)
        whole = num // size * size
        blocks = [a[:whole].reshape(-1, size, *a.shape[1:]) for a in (index, *leaves)]

        def add(sums: tuple, block: list[Array]) -> tuple[tuple, None]:
            return tuple(map(jnp.add, sums, of_groups(shift, *block))), None

        rest = of_groups(shift, *(a[whole:] for a in (index, *leaves)))
        return lax.scan(add, rest, blocks)[0]

    given = shift, index, *leaves
    if is_symbolic(num):
        return of_groups(*given)
    return lax.platform_dependent(*given, cpu=in_blocks, default=of_groups)


def first_counted(total: Array, index: Array, num_groups: int) -> Array:
    """Returns the first example of each group that counts, [groups, C], N for none."""
    n = jnp.asarray(total.shape[0])
    place = jnp.arange(total.shape[0]).reshape(-1, *[1] * (total.ndim - 1))
    place = jnp.where(total > 0, place, n)

    def scattered(place: Array, index: Array) -> Array:
        found = jax.ops.segment_min(place, index, num_groups)
        return jnp.minimum(found, n)  # That of no example is the largest integer.

    def masked(place: Array, index: Array) -> Array:
        return jnp.min(keep(_members(index, num_groups), place[None], n), 1)

    return lax.platform_dependent(place, index, cpu=scattered, default=masked)


def sum_by_index(value: Array, index: Array, num_groups: int) -> Array:
    """Returns the sums [groups, ...] of the examples of each group, [N, ...]."""

    def scattered(value: Array, index: Array) -> Array:
        return jax.ops.segment_sum(value, index, num_groups)

    def masked(value: Array, index: Array) -> Array:
        return jnp.sum(keep(_members(index, num_groups), value[None]), 1)

    return lax.platform_dependent(value, index, cpu=scattered, default=masked)


def take_by_index(index: Array, *tables: Array) -> list[Array]:
    """Returns to each example the row of its group, [N, ...], of every table; linear.

    A table of one row is that of every example and stays so.
    """

    def gathered(index: Array, *tables: Array) -> list[Array]:
        # As one: passes that share one gather of several would have it stored.
        packed = jnp.take(jnp.stack(tables, 1), index, axis=0, mode="clip")
        rows = [packed[:, k] for k in range(len(tables))]
        for k, table in enumerate(tables):  # Each in its dtype, which stack promoted.
            real = not jnp.iscomplexobj(table)
            rows[k] = (rows[k].real if real else rows[k]).astype(table.dtype)
        return rows

    def masked(index: Array, *tables: Array) -> list[Array]:
        members = _members(index, tables[0].shape[0])
        return [jnp.sum(keep(members, table[:, None]), 0) for table in tables]

    several = [table for table in tables if table.shape[0] != 1]
    if not several:
        return list(tables)
    found = lax.platform_dependent(index, *several, cpu=gathered, default=masked)
    rows = iter(found)
    return [table if table.shape[0] == 1 else next(rows) for table in tables]


def _members(index: Array, num_groups: int) -> Array:
    """Returns [groups, N] bool: which example is in which group."""
    return jnp.arange(num_groups)[:, None] == index[None]
