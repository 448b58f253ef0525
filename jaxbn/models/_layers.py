"""What the models share: a normalization by name, and activations that can be seen."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

import jaxbn.linen
from jaxbn.base import Array, Norm


def normalize(
    norm: Norm | None,
    name: str,
    x: Array,
    train: bool,
    mask: Array | None,
    domain: Array | None = None,
) -> Array:
    """Returns `x` normalized by a layer called `name`, or `x` where `norm` is None.

    To be called within a compact method; the layer belongs to its module.

    Args:
        norm: the normalization, or None.
        name: of the layer in the variables.
        x: [N, ..., C].
        train: whether the batch normalizes.
        mask: [N], true (or a weight) where an example counts.
        domain: [N] or [], of `domain_norm`; None for norms that have none.
    """
    if norm is None:
        return x
    if mask is not None:
        mask = jnp.reshape(mask, (-1,) + (1,) * (x.ndim - 2))
    layer = jaxbn.linen.Norm(norm, use_running_average=not train, name=name)
    told: dict[str, Any] = {} if domain is None else {"domain": domain}
    return layer(x, mask=mask, **told)


def relu(module: nn.Module, name: str, x: Array) -> Array:
    """Returns relu of `x`, which is sown as an intermediate called `name`.

    Sown values cost nothing unless the collection 'intermediates' is asked for.
    """
    module.sow("intermediates", name, x)
    return nn.relu(x)
