"""Installing: measured statistics into a model's variables, linen's or nnx's."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxbn.base import Array
from jaxbn.tree import find_layers, replace_layers


class Statistics(Protocol):
    """What can be installed: `total`, `mean` and `var`, [C] each."""

    @property
    def total(self) -> Array:
        """How much was counted."""
        ...

    @property
    def mean(self) -> Array:
        """The mean."""
        ...

    @property
    def var(self) -> Array:
        """The variance."""
        ...


def install(stats: Any, found: Mapping[str, Statistics]) -> Any:
    """Returns `stats` with mean and variance of the layers found.

    What counted nothing keeps what it had.
    """
    layers = find_layers(stats)
    names = "mean", "var"
    old = {path: {name: layers[path][name] for name in names} for path in found}
    for path, new in _where_counted(old, dict(found)).items():
        layers[path].update(new)
    return replace_layers(stats, layers)


@jax.jit
def _where_counted(old: Any, found: dict[str, Statistics]) -> Any:
    """Returns `old` with what was found of each layer where that counted anything."""
    for path, new in found.items():
        counted = new.total > 0
        for name, value in (("mean", new.mean), ("var", new.var)):
            kept = old[path][name]
            value = value if jnp.iscomplexobj(kept) else value.real
            old[path][name] = jnp.where(counted, value, kept).astype(kept.dtype)
    return old
