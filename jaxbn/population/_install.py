"""Installing: measured statistics into a model's variables, linen's or nnx's."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

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


def variables_of(model: Any, variables: Any) -> Any:
    """Returns the variables to run `model` with; None means what an nnx model holds."""
    if variables is None and isinstance(model, nnx.Module):
        return nnx.state(model)
    return variables


def stats_of(model: Any, variables: Any) -> Any:
    """Returns the statistics among the variables of a model."""
    if isinstance(model, nn.Module):
        return variables.get("batch_stats", {})
    return nnx.filter_state(variables, nnx.BatchStat)


def with_stats(variables: Any, stats: Any) -> Any:
    """Returns the variables with other statistics."""
    if isinstance(variables, nnx.State):
        return nnx.merge_state(variables, stats)
    return {**variables, "batch_stats": stats}


def as_static(model: Any) -> Any:
    """Returns what of a model is not an array, hashable: a module or an nnx graph."""
    return nnx.graphdef(model) if isinstance(model, nnx.Module) else model


def as_model(static: Any, variables: Any) -> Any:
    """Returns the model of which `as_static` was given."""
    return static if isinstance(static, nn.Module) else nnx.merge(static, variables)


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


def has_statistics(layer: Mapping[str, Any]) -> bool:
    """Returns whether a layer's entries are those of a batch norm."""
    return {"mean", "var"} <= set(layer)
