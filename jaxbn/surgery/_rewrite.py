"""Rewriting: a model that runs with other layers, and variables without what is gone.

The model's own code runs; a handler takes the calls of its norms (`jaxbn.tree.watch`).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import nnx

from jaxbn.tree import Handler, as_static, watch


class Model(NamedTuple):
    """How to run a rewritten model, and how to rewrite its variables.

    Attributes:
        apply: `apply(variables, *args, **kwargs)`.
        replace: `replace(variables, params, gone)`: other parameters for the layers in
            `params`, by path and name; those not named there, and the statistics of the
            layers in `gone`, are left out.
    """

    apply: Callable[..., Any]
    replace: Callable[..., Any]


def assemble(model: Any, handler: Handler | None) -> Model:
    """Returns the model with its norms handed to `handler`; None leaves it as it is."""
    if isinstance(model, nn.Module):
        return Model(_apply_linen(model, handler), _replace_linen)
    return Model(_apply_nnx(model, handler), _replace_nnx)


def _as_it_is(call: Any) -> Any:
    return call.proceed(), {}


def _apply_linen(model: Any, handler: Handler | None) -> Callable[..., Any]:
    run = watch(model, handler or _as_it_is)

    def apply(variables: Any, *args: Any, **kwargs: Any) -> Any:
        return run(variables, *args, **kwargs)[0]

    return apply


def _replace_linen(
    variables: Any, params: Mapping[str, Mapping[str, Any]], gone: Collection[str]
) -> Any:
    """Returns linen variables with other parameters, in the boxes of the old ones."""
    new = jax.tree.map(lambda leaf: leaf, dict(variables))
    for path, layer in params.items():
        _set(new["params"], path, dict(layer))
    for path in gone:
        _set(new["batch_stats"], path, {})
    return _pruned(new)


def _set(tree: Any, path: str, layer: dict[str, Any]) -> None:
    """Puts `layer` at a path of nested dicts, in place."""
    for name in path.split("/") if path else []:
        tree = tree.setdefault(name, {})
    boxes = {k: v for k, v in tree.items() if isinstance(v, nn.meta.AxisMetadata)}
    tree.clear()
    for name, value in layer.items():
        tree[name] = boxes[name].replace_boxed(value) if name in boxes else value


def _pruned(tree: Any) -> Any:
    """Returns nested dicts without those that are empty."""
    if not isinstance(tree, Mapping):
        return tree
    parts = {name: _pruned(part) for name, part in tree.items()}
    return {n: p for n, p in parts.items() if not (isinstance(p, Mapping) and not p)}


def _apply_nnx(model: Any, handler: Handler | None) -> Callable[..., Any]:
    """Returns what runs the model with other variables.

    The graph wants all it had; those that are gone are filled in, and not read. What it
    did not have, such as the bias that is left of a norm without one, is put there.
    """
    graph, whole = as_static(model), nnx.state(model)

    def apply(variables: Any, *args: Any, **kwargs: Any) -> Any:
        known = {path for path, _ in nnx.to_flat_state(whole)}
        leaves = dict(nnx.to_flat_state(variables))
        held = {path: leaf for path, leaf in leaves.items() if path in known}
        filled = nnx.merge_state(whole, nnx.from_flat_state(held))
        copy = nnx.merge(graph, filled)
        for path in leaves.keys() - known:
            node = copy
            for step in path[:-1]:
                node = getattr(node, step) if isinstance(step, str) else node[step]
            setattr(node, str(path[-1]), nnx.Param(leaves[path][...]))
        return watch(copy, handler or _as_it_is)(None, *args, **kwargs)[0]

    return apply


def _replace_nnx(
    variables: Any, params: Mapping[str, Mapping[str, Any]], gone: Collection[str]
) -> Any:
    """Returns an nnx state with other parameters."""
    leaves = list(nnx.to_flat_state(variables))
    places = {"/".join(map(str, path[:-1])): path[:-1] for path, _ in leaves}
    flat: dict[Any, Any] = {
        (*places[layer], name): nnx.Param(value)
        for layer, values in params.items()
        for name, value in values.items()
    }
    for path, leaf in leaves:
        *parents, name = map(str, path)
        layer = "/".join(parents)
        is_param = isinstance(leaf, nnx.Param)
        if is_param and layer in params:
            if name not in params[layer]:
                continue
            leaf = leaf.replace(params[layer][name])
        if layer in gone and isinstance(leaf, nnx.BatchStat):
            continue
        flat[path] = leaf
    return nnx.from_flat_state(flat)
