"""A converted nnx model: a copy, in which norms hold and do something else."""

from typing import Any

from flax import nnx

from jaxbn import base
from jaxbn.nnx import Norm
from jaxbn.surgery._convert_linen import as_pair
from jaxbn.surgery._options import check_axis, refuse_subclass
from jaxbn.surgery._where import Where, choose
from jaxbn.tree import is_norm


def convert_nnx(model: nnx.Module, norm: Any, where: Where) -> nnx.Module:
    """Returns a copy of the model whose norms are `norm`."""
    copy = nnx.clone(model)
    layers = {
        "/".join(map(str, path)): layer
        for path, layer in nnx.iter_graph(copy)
        if is_norm(layer, nnx.BatchNorm)
    }
    for path in choose(layers, where):
        layer = layers[path]
        refuse_subclass(layer, path)
        pair = as_pair(norm, layer)
        check_axis(pair, layer, path, None)
        replace(layer, pair, path)
    return copy


def replace(layer: Any, norm: base.Norm, path: str) -> None:
    """Makes a layer of a copy one of `jaxbn.nnx.Norm`, keeping the variables it can.

    Raises:
        ValueError: if the layer is several, stacked.
    """
    num_features, use = layer.num_features, layer.use_running_average
    held = {k: v for k, v in vars(layer).items() if isinstance(v, nnx.Variable)}
    shape = num_features if isinstance(num_features, tuple) else (num_features,)
    rows = getattr(getattr(layer, "norm", None), "parts", None)
    if "mean" in held and held["mean"][...].shape != shape and not rows:
        raise ValueError(
            f"the layer {path!r} has statistics of shape {held['mean'][...].shape} for "
            f"{shape} features, expected one layer, not several stacked; convert "
            "before they are stacked, within nnx.vmap"
        )
    params, state = norm.init(num_features)
    for name in [name for name in vars(layer) if not name.startswith("_")]:
        delattr(layer, name)
    for kind, values in ((nnx.Param, params), (nnx.BatchStat, state)):
        for name, value in values.items():
            old = held.get(name)
            same = old is not None and old[...].shape == base.unboxed(value).shape
            keeps = same and isinstance(old, kind)
            setattr(layer, name, old if keeps else kind(old[...] if same else value))
    layer.__class__ = Norm
    layer.num_features, layer.norm, layer.use_running_average = num_features, norm, use
    layer.param_names, layer.state_names = tuple(params), tuple(state)
    for name in ("scale", "bias"):
        if name not in params and name not in state:
            setattr(layer, name, nnx.data(None))
