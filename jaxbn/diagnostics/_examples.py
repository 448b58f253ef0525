"""Examples: which rows of an array are one example's, and other mates around it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import as_array, is_axis, shown
from jaxbn.base import Array


class Place(NamedTuple):
    """Where an example is in a batch; hashable.

    Attributes:
        example: its index.
        count: how many examples there are.
    """

    example: int
    count: int

    def fits(self, x: Array) -> bool:
        """Returns whether axis 0 of `x` holds the examples, each in as many rows."""
        return x.ndim > 0 and x.shape[0] > 0 and x.shape[0] % self.count == 0

    def own(self, x: Array) -> Array:
        """Returns the rows of the example, flattened."""
        each = x.shape[0] // self.count
        return jnp.ravel(x[self.example * each : (self.example + 1) * each])

    def is_own(self, x: Array) -> Array:
        """Returns whether an element is the example's, [M, 1, ...]."""
        each = x.shape[0] // self.count
        rows = jnp.arange(x.shape[0]) // each == self.example
        return rows.reshape(-1, *[1] * (x.ndim - 1))


def find_place(x: Array, example: int) -> Place:
    """Returns where the example is.

    Raises:
        ValueError: if it is not there, or has no mates.
    """
    if x.ndim == 0 or x.shape[0] < 2 or not is_axis(example, len(x)):
        raise ValueError(
            f"x has shape {x.shape} and example is {shown(example)}, expected at least "
            "two examples and one of them; pass a batch"
        )
    return Place(example % len(x), len(x))


def with_other_mates(
    x: Array, mates: ArrayLike | None, place: Place, key: Array
) -> Array:
    """Returns `x` with other mates around the example, by default noisy ones.

    Raises:
        ValueError: if there are none to be had, or of another shape.
    """
    if mates is None:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise ValueError(
                f"x has dtype {x.dtype}, to which no noise can be added, expected "
                "mates too; pass an array like x with other examples"
            )
        mates = with_noise(x, key)
    mates = as_array("mates", mates)
    if mates.shape != x.shape:
        raise ValueError(
            f"mates has shape {mates.shape}, expected {x.shape}, that of x; give "
            "another example for each"
        )
    return jnp.where(place.is_own(x), x, mates.astype(x.dtype))


def with_noise(x: Array, key: Array) -> Array:
    """Returns `x` plus noise of its finite deviation, or of 1 if that is 0."""
    spread = jnp.std(x, where=jnp.isfinite(x))
    spread = jnp.where(spread > 0, spread, 1).astype(x.dtype)
    return x + spread * jax.random.normal(key, x.shape, x.dtype)


def own_outputs(output: Any, place: Place) -> list[Array]:
    """Returns the example's rows of the floating arrays of an output that has any.

    Arrays with as many rows as there are examples; where there are none, those in which
    each has several.

    Raises:
        ValueError: if none of the arrays has.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(output)]
    floating = [a for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]
    exact = [a for a in floating if a.ndim > 0 and len(a) == place.count]
    found = exact or [a for a in floating if place.fits(a)]
    if not found:
        raise ValueError(
            f"the output has arrays of shapes {[a.shape for a in leaves]}, expected a "
            f"floating one with {place.count} examples along axis 0; pass a model that "
            "returns something for each"
        )
    return [place.own(a) for a in found]
