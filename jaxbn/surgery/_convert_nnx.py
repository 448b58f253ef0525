"""A converted nnx model: a copy, in which norms hold and do something else."""

from typing import Any

import jax
from flax import nnx

from jaxbn import base
from jaxbn.base import Array
from jaxbn.surgery._convert_linen import as_pair, refuse_subclass
from jaxbn.surgery._where import Where, choose
from jaxbn.tree import is_norm


class Replaced(nnx.Module):
    """What a norm becomes: its variables under the names of the new pair.

    Not made, but put in the place of a layer's class on a copy of the model.
    """

    norm: base.Norm
    param_names: tuple[str, ...]
    state_names: tuple[str, ...]
    use_running_average: bool | None

    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        **overrides: Any,
    ) -> Array:
        """Returns `x` normalized; moves the running statistics unless they do it."""
        if use_running_average is None:
            use_running_average = self.use_running_average
        params = {name: getattr(self, name)[...] for name in self.param_names}
        state = {name: getattr(self, name)[...] for name in self.state_names}
        train = not use_running_average
        y, new = self.norm.apply(params, state, x, train, mask=mask, **overrides)
        if overrides.get("update_stats", train):
            for name in self.state_names:
                getattr(self, name)[...] = jax.lax.stop_gradient(new[name])
        return y

    def as_norm(self) -> base.Norm:
        """Returns the pair that is applied."""
        return self.norm

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets what `nnx.view` asks for.

        Args:
          use_running_average: whether the running statistics normalize.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


def convert_nnx(model: nnx.Module, norm: Any, where: Where) -> nnx.Module:
    """Returns a copy of the model whose norms are `norm`."""
    copy = nnx.clone(model)
    layers = {
        "/".join(map(str, path)): layer
        for path, layer in nnx.iter_graph(copy)
        if is_norm(layer, nnx.BatchNorm)
    }
    for path in choose(layers, where):
        refuse_subclass(layers[path], path, nnx.BatchNorm)
        replace(layers[path], as_pair(norm, layers[path]))
    return copy


def replace(layer: Any, norm: base.Norm) -> None:
    """Makes a layer of a copy one that applies `norm`, keeping what it can."""
    num_features = layer.num_features
    params, state = norm.init(num_features)
    held = {k: v for k, v in vars(layer).items() if isinstance(v, nnx.Variable)}
    for kind, values in ((nnx.Param, params), (nnx.BatchStat, state)):
        for name, value in values.items():
            old = held.get(name)
            if old is not None and old[...].shape == value.shape:
                value = old[...]
            setattr(layer, name, kind(value))
    for name in set(held) - set(params) - set(state):
        delattr(layer, name)
    layer.__class__ = Replaced
    layer.norm = norm
    layer.param_names, layer.state_names = tuple(params), tuple(state)
