"""Watching a linen model, by intercepting the calls of its modules."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn.base import NOTHING_SHARED, Array
from jaxbn.tree._call import (
    NOTE,
    Call,
    Watcher,
    is_norm,
    lacks_axis,
    library_class,
    own_notes,
)
from jaxbn.tree._replacing import replacement_of

AGAIN = "called again"
"""The name of a copy of a layer, which is not handed to the handler."""


def run_linen(
    model: nn.Module, watcher: Watcher, variables: Any, args: tuple, kwargs: dict
) -> tuple[Any, Any]:
    """Returns the output of the model, and its statistics with the notes."""

    def intercept(call_next: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        layer = context.module
        called = context.method_name == "__call__" and layer.name != AGAIN
        wanted = called and watcher.wants(layer, nn.BatchNorm)
        # A subclass may do more: what it hands on to the layer it extends is the call.
        method = getattr(context.orig_method, "func", None)
        theirs = library_class(type(layer))
        if not wanted or layer.is_initializing() or not is_method(method, theirs):
            return call_next(*args, **kwargs)
        call = as_call(layer, path_of(layer), call_next, *args, **kwargs)
        y, notes = watcher.handler(call)
        for name, value in notes.items():
            layer.put_variable("batch_stats", NOTE + name, jnp.asarray(value))
        return y

    asked = kwargs.pop("mutable", [])
    asked = [asked] if isinstance(asked, str) else asked
    mutable = asked if asked is True else ["batch_stats", *(asked or [])]
    with nn.intercept_methods(intercept):
        output, new = model.apply(variables, *args, mutable=mutable, **kwargs)
    return output, new.get("batch_stats", {})


def is_method(method: Any, kind: type) -> bool:
    """Returns whether a function is the call of a class, which linen has wrapped."""
    names = getattr(method, "__module__", ""), getattr(method, "__qualname__", "")
    return names == (kind.__call__.__module__, kind.__call__.__qualname__)


def as_call(
    layer: Any,
    path: str,
    call_next: Any,
    x: Array,
    use_running_average: bool | None = None,
    *,
    mask: Array | None = None,
    **overrides: Any,
) -> Call:
    """Returns what the layer was called with, and what it holds."""
    norm, given = is_norm(layer, nn.BatchNorm), use_running_average
    if norm and given is None:
        given = layer.use_running_average
    pair = replacement_of(layer, path)
    if pair is None and hasattr(type(layer), "norm_pair"):
        pair = layer.norm_pair
    held = nn.meta.unbox({**layer.variables.get("batch_stats", {})})
    params = nn.meta.unbox({**layer.variables.get("params", {})})
    state = {k: v for k, v in held.items() if not k.startswith(NOTE)}
    again = itertools.count()

    def proceed(use_running_average: bool = bool(given), x: Array = x) -> Array:
        if not norm:
            return call_next(x)
        alone = lacks_axis(layer, pair)
        options = {**overrides, **(NOTHING_SHARED if alone and pair else {})}
        options["mask"] = mask
        hidden = ["use_running_average"]
        hidden += ["axis_name", "axis_index_groups"] if alone and not pair else []
        with without_attributes(layer, hidden):
            if not next(again):
                return call_next(x, use_running_average, **options)
            if pair is not None:
                train = not use_running_average
                return pair.apply(params, state, x, train, **options)[0]
            return called_again(layer, state, x, use_running_average, **options)

    last = layer.axis if isinstance(layer, nn.BatchNorm) else -1
    return Call(
        path,
        layer,
        pair,
        pair.axis if pair else last,
        x,
        mask,
        bool(given),
        overrides,
        params,
        state,
        own_notes(held),
        proceed,
    )


def path_of(layer: Any) -> str:
    """Returns where the variables of a bound module lie.

    Its `path` says where it was made, which is elsewhere under `nn.share_scope`.
    """
    names, scope = [], layer.scope
    while scope.parent is not None:
        names.append(scope.name)
        scope = scope.parent
    return "/".join([*scope.path, *reversed(names)])


def called_again(layer: Any, state: dict, *args: Any, **kwargs: Any) -> Array:
    """Returns what a copy of a layer of Flax does: linen lets a call be run once."""
    variables = {**layer.variables, "batch_stats": state}
    copy = layer.clone(parent=None, name=AGAIN)
    options = {
        "mutable": ["batch_stats"],
        "method": library_class(type(layer)).__call__,
    }
    return copy.apply(variables, *args, **options, **kwargs)[0]


@contextlib.contextmanager
def without_attributes(layer: Any, names: list[str]) -> Iterator[None]:
    """Lets a call decide on what linen allows in one place, or on None."""
    before = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    try:
        for name in before:
            object.__setattr__(layer, name, None)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)
