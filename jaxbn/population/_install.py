"""Installing: measured statistics into a model's variables, linen's or nnx's."""

from collections.abc import Mapping
from typing import Any, Protocol

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
    for path, new in found.items():
        layer = layers[path]
        counted = new.total > 0
        for name, value in (("mean", new.mean), ("var", new.var)):
            old = jnp.asarray(layer[name])
            value = value if jnp.iscomplexobj(old) else value.real
            layer[name] = jnp.where(counted, value, old).astype(old.dtype)
    return replace_layers(stats, layers)
