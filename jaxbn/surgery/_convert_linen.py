"""A converted linen model: the old one, the calls of whose norms are taken over."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn import base
from jaxbn.base import Array
from jaxbn.core import feature_axes, feature_shape
from jaxbn.core._checks import check_norm
from jaxbn.linen import call_norm
from jaxbn.surgery._options import check_axis, refuse_subclass
from jaxbn.surgery._where import Where, choose, is_chosen
from jaxbn.tree import find_layers, is_norm, replacing
from jaxbn.tree._watch_linen import AGAIN, path_of


class Converted(nn.Module):
    """A linen module whose batch norms are other norms; made by `convert`.

    Attributes:
        inner: the model. Its variables are those of this module, at the same paths.
        steps: conversions, one after the other: the pair, or a function of the old
            layer (later, of the pair) that returns it, and which layers by path.
    """

    inner: nn.Module
    steps: tuple[tuple[Any, Where], ...]

    def setup(self) -> None:
        """Takes the place of the model."""
        nn.share_scope(self, self.inner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the model does, with other norms."""
        seen: dict[str, None] = {}
        mine = path_of(self)

        def norm_of(layer: Any, path: str) -> base.Norm | None:
            path = path.removeprefix(mine).removeprefix("/")
            pair = None
            for norm, where in self.steps:
                if is_chosen(path, where):
                    refuse_subclass(layer, path)
                    pair = as_pair(norm, layer if pair is None else pair)
            return pair

        def intercept(call_next: Any, args: tuple, kwargs: dict, context: Any) -> Any:
            layer = context.module
            called = context.method_name == "__call__" and layer.name != AGAIN
            if not called or not is_norm(layer, nn.BatchNorm):
                return call_next(*args, **kwargs)
            path = path_of(layer)
            seen[path.removeprefix(mine).removeprefix("/")] = None
            pair = norm_of(layer, path)
            if pair is None:
                return call_next(*args, **kwargs)
            return apply_norm(pair, layer, path, *args, **kwargs)

        with nn.intercept_methods(intercept), replacing(norm_of):
            output = self.inner(*args, **kwargs)
        there = [*seen, *find_layers(self.variables.get("batch_stats", {}))]
        for _, where in self.steps:
            choose(dict.fromkeys(there), where)  # Says what there is.
        return output


def as_pair(norm: Any, layer: Any) -> base.Norm:
    """Returns the pair for a layer."""
    pair = norm if isinstance(norm, base.Norm) else norm(layer)
    check_norm(pair)
    return pair


def apply_norm(
    norm: base.Norm,
    layer: Any,
    path: str,
    x: Array,
    use_running_average: bool | None = None,
    **overrides: Any,
) -> Array:
    """Returns `x` normalized, with variables where those of `layer` lie.

    Raises:
        ValueError: if some of them are not there, or the features are elsewhere.
    """
    use_running_average = nn.merge_param(
        "use_running_average", layer.use_running_average, use_running_average
    )
    x = jnp.asarray(x)
    check_axis(norm, layer, path, x.ndim)
    num_features = feature_shape(x, feature_axes(norm.axis, x.ndim))
    names = base.variable_shapes(norm, num_features)
    missing = [
        name
        for kind, wanted in zip(("params", "batch_stats"), names, strict=True)
        for name in wanted
        if not layer.has_variable(kind, name)
    ]
    if missing and not layer.is_initializing():
        raise ValueError(
            f"the layer {path!r} has no {missing}, expected the variables of the norm "
            "it was converted to; start them by init of the converted model, and bring "
            "the old values by carry_over"
        )
    return call_norm(layer, norm, x, use_running_average, **overrides)
