"""Trees: where the layers are in a model's variables. The only traversal.

A layer is what has a name and holds arrays under names of its own: the dict
`{'mean', 'var'}` at 'block1/bn2' of Flax's `batch_stats`, the same part of an
`nnx.State`, or of any other tree whose keys have names.
"""

from collections.abc import Mapping
from typing import Any

from jax import tree_util

from jaxbn._values import shown
from jaxbn.base import Array


def find_layers(tree: Any) -> dict[str, dict[str, Array]]:
    """Returns the arrays of each layer by the path of the layer, in order.

    Raises:
        ValueError: if two layers have the same path, such as 'a/b' and 'b' within 'a'.

    Example:
        >>> import jax.numpy as jnp
        >>> stats = {'block': [{'bn': {'mean': jnp.zeros(2), 'var': jnp.ones(2)}}]}
        >>> list(find_layers(stats)), list(find_layers(stats)['block/0/bn'])
        (['block/0/bn'], ['mean', 'var'])
    """
    layers: dict[str, dict[str, Array]] = {}
    seen: dict[str, list[str]] = {}
    for path, leaf in tree_util.tree_leaves_with_path(tree):
        layer, name = _place(path)
        steps = _names(path)[:-1]
        if seen.setdefault(layer, steps) != steps:
            raise ValueError(
                f"two layers have the path {layer!r}, {seen[layer]} and {steps}, "
                "expected one; rename the one whose name has a slash"
            )
        layers.setdefault(layer, {})[name] = leaf
    return layers


def replace_layers(tree: Any, layers: dict[str, dict[str, Array]]) -> Any:
    """Returns `tree` with all arrays taken from `layers`, made by `find_layers`."""

    if not isinstance(layers, Mapping):
        raise ValueError(f"layers is {shown(layers)}, expected what find_layers gives")

    def take(path: tuple, _: Array) -> Array:
        layer, name = _place(path)
        held = layers.get(layer)
        if not isinstance(held, Mapping) or name not in held:
            raise ValueError(
                f"layers has no {name!r} of layer {layer!r}, which tree has, expected "
                "all of them; change what find_layers gives"
            )
        return held[name]

    return tree_util.tree_map_with_path(take, tree)


def has_statistics(layer: Mapping[str, Any]) -> bool:
    """Returns whether a layer's entries are those of a batch norm."""
    return isinstance(layer, Mapping) and {"mean", "var"} <= set(layer)


def path_name(path: tuple) -> str:
    """Returns a path of JAX as 'block1/bn2/mean'."""
    return "/".join(_names(path))


def _place(path: tuple) -> tuple[str, str]:
    *layer, name = _names(path) or [""]
    return "/".join(layer), name


def _names(path: tuple) -> list[str]:
    """Returns the names along `path`, without the last step into an nnx variable."""
    names = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                names.append(str(getattr(key, attribute)))
                break
    return names[:-1] if len(names) > 1 and names[-1] == "value" else names
