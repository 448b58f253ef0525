"""Carrying over: variables of one model as those of another, by their names."""

from typing import Any, NamedTuple

import jax

from jaxbn.base import Array
from jaxbn.tree import path_name


class Carried(NamedTuple):
    """Variables, and what became of those before.

    Attributes:
        variables: of the structure asked for.
        started: names of those that were not there, or of another shape: as they came.
        dropped: names of those that are not asked for.
    """

    variables: Any
    started: tuple[str, ...]
    dropped: tuple[str, ...]


def carry_over(variables: Any, template: Any) -> Carried:
    """Returns `template` with the values of `variables` of the same names.

    From a model to its conversion and back: where both have the same entries that is
    the identity, bit for bit. A scale or bias is found in linen's other collection too,
    where a `frozen_norm` has it as a constant.

    Args:
        variables: linen's, or an `nnx.State`.
        template: of the model that they are for, such as what its `init` gives.

    Returns:
        A `Carried`.

    Example:
        >>> import jax.numpy as jnp
        >>> old = {'bn': {'mean': jnp.ones(2), 'var': jnp.ones(2)}}
        >>> new = {'bn': {'mean': jnp.zeros(2), 'count': jnp.zeros(2)}}
        >>> found = carry_over(old, new)
        >>> found.variables['bn']['mean'], found.started, found.dropped
        (Array([1., 1.], dtype=float32), ('bn/count',), ('bn/var',))
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    old = {path_name(path): leaf for path, leaf in leaves}
    started, taken = [], set()

    def take(path: tuple, leaf: Array) -> Array:
        name = path_name(path)
        name = name if name in old else _elsewhere(name)
        taken.add(name)
        if name in old and jax.numpy.shape(old[name]) == jax.numpy.shape(leaf):
            return old[name]
        started.append(path_name(path))
        return leaf

    new = jax.tree_util.tree_map_with_path(take, template)
    dropped = [name for name in old if name not in taken]
    return Carried(new, tuple(started), tuple(dropped))


def _elsewhere(name: str) -> str:
    """Returns the same entry of linen's other collection: constants were parameters."""
    other = {"params": "batch_stats", "batch_stats": "params"}
    collection, _, rest = name.partition("/")
    return f"{other.get(collection, collection)}/{rest}"
