"""A converted linen model: the old one, the calls of whose norms are taken over."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn import base
from jaxbn.base import Array
from jaxbn.core import feature_axes, feature_shape
from jaxbn.surgery._where import Where, choose
from jaxbn.tree import is_norm


class Converted(nn.Module):
    """A linen module whose batch norms are another norm; made by `convert`.

    Attributes:
        inner: the model. Its variables are those of this module, at the same paths.
        norm: the pair, or a function of the old layer that returns it.
        where: which layers by path; None for all.
    """

    inner: nn.Module
    norm: Any
    where: Where = None

    def setup(self) -> None:
        """Takes the place of the model."""
        nn.share_scope(self, self.inner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the model does, with other norms."""
        seen, taken = [], []

        def intercept(call_next: Any, args: tuple, kwargs: dict, context: Any) -> Any:
            layer = context.module
            if context.method_name != "__call__" or not is_norm(layer, nn.BatchNorm):
                return call_next(*args, **kwargs)
            path = "/".join(layer.path[len(self.path) :])
            seen.append(path)
            if not wanted(path, self.where):
                return call_next(*args, **kwargs)
            taken.append(path)
            refuse_subclass(layer, path, nn.BatchNorm)
            return apply_norm(as_pair(self.norm, layer), layer, *args, **kwargs)

        with nn.intercept_methods(intercept):
            output = self.inner(*args, **kwargs)
        if not taken:
            choose(dict.fromkeys(seen), self.where)  # Says what there is.
        return output


def wanted(path: str, where: Where) -> bool:
    """Returns whether one path is among those chosen."""
    if callable(where) or where is None:
        return where is None or where(path)
    patterns = (where,) if isinstance(where, str) else where
    for pattern in patterns:
        try:
            choose([path], pattern)
        except ValueError:
            continue
        return True
    return False


def as_pair(norm: Any, layer: Any) -> base.Norm:
    """Returns the pair for a layer."""
    return norm if isinstance(norm, base.Norm) else norm(layer)


def refuse_subclass(layer: Any, path: str, flax_layer: type) -> None:
    """Refuses a layer that does something else than Flax's.

    Raises:
        ValueError: naming it.
    """
    own = type(layer).__call__ is not flax_layer.__call__
    if own and not hasattr(type(layer), "as_norm"):
        raise ValueError(
            f"the layer {path!r} is a {type(layer).__name__}, a subclass of Flax's "
            "BatchNorm with a call of its own, which would be lost; leave it out by "
            "where=..."
        )


def apply_norm(
    norm: base.Norm,
    layer: Any,
    x: Array,
    use_running_average: bool | None = None,
    *,
    mask: Array | None = None,
    **overrides: Any,
) -> Array:
    """Returns `x` normalized, with variables where those of `layer` lie."""
    use_running_average = nn.merge_param(
        "use_running_average", layer.use_running_average, use_running_average
    )
    x = jnp.asarray(x)
    num_features = feature_shape(x, feature_axes(norm.axis, x.ndim))
    starting, scope = layer.is_initializing(), layer.scope
    update = not use_running_average and not starting
    param_names, state_names = base.variable_names(norm, num_features)

    def init(kind: int, name: str, key: Array | None = None) -> Array:
        return norm.init(num_features, key=key)[kind][name]

    state = {
        name: scope.variable("batch_stats", name, init, 1, name) for name in state_names
    }
    params = {
        name: scope.param(name, lambda key, name=name: init(0, name, key))
        for name in param_names
    }
    overrides = {"update_stats": update, **overrides}
    overrides |= base.NOTHING_SHARED if starting else {}
    values = {name: variable.value for name, variable in state.items()}
    y, new = norm.apply(
        params, values, x, not use_running_average, mask=mask, **overrides
    )
    if overrides["update_stats"]:
        for name, variable in state.items():
            variable.value = new[name]
    return y
