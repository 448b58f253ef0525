"""Options: what a layer was made with, and what of it a norm in its place has to be."""

from collections.abc import Callable
from typing import Any

from jaxbn._values import check_function, shown
from jaxbn.base import Norm
from jaxbn.core import batch_norm
from jaxbn.tree import library_class

_NAMES = ("axis", "momentum", "epsilon", "dtype", "param_dtype", "use_bias")
_NAMES += ("use_scale", "bias_init", "scale_init", "axis_name", "axis_index_groups")
_NAMES += ("normalization_batch_size", "unbiased", "debias", "skip_nonfinite")
_NAMES += ("custom_derivative",)


def like(factory: Callable[..., Norm], **options: Any) -> Callable[[Any], Norm]:
    """Returns `(layer) -> norm`, with the options of the layer and those given.

    `convert(model, like(ghost_norm, size=32))` keeps axis, momentum, epsilon, dtype,
    devices, parameters and their initializers; a pair has its own.

    Args:
        factory: such as `ghost_norm`; it has to take the options of `batch_norm`.
        **options: of it, which come before those of the layer.

    Returns:
        A function for `convert`, of a layer of Flax or of jaxbn, or of a pair.

    Raises:
        ValueError: in the function, if a pair's options cannot be read.

    Example:
        >>> from flax import linen as nn
        >>> from jaxbn import ghost_norm
        >>> like(ghost_norm, size=4)(nn.BatchNorm(axis=1, epsilon=0.5)).epsilon
        0.5
    """
    check_function("factory", factory, "that makes a norm, such as ghost_norm")
    return lambda layer: factory(**{**options_of(layer), **options})


def batch_norm_like(layer: Any) -> Norm:
    """Returns jaxbn's batch norm with the options of a layer.

    Args:
        layer: of `flax.linen.BatchNorm`, `flax.nnx.BatchNorm` or of jaxbn, or a pair
            made by `batch_norm`.

    Returns:
        A pair with its axis, momentum, epsilon, devices, parameters and initializers:
        `convert(model, batch_norm_like)`. What differs from Flax's arithmetic is said
        at `jaxbn.linen.BatchNorm`; `dtype`, if the layer has one, is kept.

    Raises:
        ValueError: if a pair's options cannot be read.

    Example:
        >>> from flax import linen as nn
        >>> batch_norm_like(nn.BatchNorm(epsilon=1e-3)).epsilon
        0.001
    """
    return like(batch_norm)(layer)


def options_of(layer: Any) -> dict[str, Any]:
    """Returns the options of `batch_norm` that a layer, or a pair, was made with.

    Raises:
        ValueError: if it is a pair that does not show them.
    """
    pair = layer if isinstance(layer, Norm) else getattr(layer, "norm", None)
    if not isinstance(pair, Norm) and not hasattr(layer, "momentum"):
        raise ValueError(
            f"layer is {shown(layer)}, expected a BatchNorm of Flax or of jaxbn, or a "
            "pair made by batch_norm"
        )
    if pair is None:
        return {name: getattr(layer, name) for name in _NAMES if hasattr(layer, name)}
    if pair.epsilon is None and not getattr(pair.init, "keywords", None):
        raise ValueError(
            "the norm is a pair that does not show its options, expected one made by "
            "batch_norm; pass a pair with the options you want"
        )
    known = {
        **getattr(pair.init, "keywords", {}),
        **getattr(pair.apply, "keywords", {}),
    }
    options = {name: value for name, value in known.items() if name in _NAMES}
    options |= {} if pair.epsilon is None else {"epsilon": pair.epsilon}
    return {**options, "axis": pair.axis}


def refuse_subclass(layer: Any, path: str) -> None:
    """Refuses a layer that does something else than a library's.

    Raises:
        ValueError: naming it.
    """
    kind = type(layer)
    if kind.__call__ is not library_class(kind).__call__:
        raise ValueError(
            f"the layer {path!r} is a {kind.__name__}, a subclass of a BatchNorm with "
            "a call of its own, which would be lost; leave it out by where=..."
        )


def check_axis(norm: Norm, layer: Any, path: str, ndim: int | None) -> None:
    """Refuses a norm with features along other axes; `ndim` None if it is not known.

    Raises:
        ValueError: naming the layer.
    """
    pair = getattr(layer, "norm", None)
    had = pair.axis if isinstance(pair, Norm) else layer.axis
    old, new = (
        sorted(a % ndim if ndim else a for a in ((v,) if isinstance(v, int) else v))
        for v in (had, norm.axis)
    )
    known = ndim is not None or (min(old) < 0) == (min(new) < 0)
    if known and old != new:
        raise ValueError(
            f"the layer {path!r} has its features along axis {had} and the norm along "
            f"{norm.axis}, expected the same; make it with that axis, or pass "
            "like(factory, ...)"
        )
