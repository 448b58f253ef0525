"""Watching a linen model, by intercepting the calls of its modules."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn.base import Array
from jaxbn.tree._call import NOTE, Call, Watcher, is_norm, own_notes

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
        if not wanted or layer.is_initializing():
            return call_next(*args, **kwargs)
        call = as_call(layer, call_next, *args, **kwargs)
        y, notes = watcher.handler(call)
        for name, value in notes.items():
            layer.put_variable("batch_stats", NOTE + name, jnp.asarray(value))
        return y

    with nn.intercept_methods(intercept):
        output, new = model.apply(variables, *args, mutable=True, **kwargs)
    return output, new.get("batch_stats", {})


def as_call(
    layer: Any,
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

    held = nn.meta.unbox({**layer.variables.get("batch_stats", {})})
    state = {k: v for k, v in held.items() if not k.startswith(NOTE)}
    again = itertools.count()

    def proceed(use_running_average: bool = bool(given), x: Array = x) -> Array:
        if not norm:
            return call_next(x)
        kwargs = {"use_running_average": use_running_average, "mask": mask}
        with without_attribute(layer):
            if next(again):
                return called_again(layer, state, x, **kwargs, **overrides)
            return call_next(x, **kwargs, **overrides)

    pair = layer.as_norm(x) if hasattr(layer, "as_norm") else None
    last = layer.axis if isinstance(layer, nn.BatchNorm) else -1
    return Call(
        "/".join(layer.path),
        layer,
        pair.axis if pair else last,
        x,
        mask,
        bool(given),
        overrides,
        nn.meta.unbox({**layer.variables.get("params", {})}),
        state,
        own_notes(held),
        pair.parts if pair else None,
        proceed,
    )


def called_again(layer: Any, state: dict, *args: Any, **kwargs: Any) -> Array:
    """Returns what a copy of the layer does: linen lets one call be run once."""
    variables = {**layer.variables, "batch_stats": state}
    copy = layer.clone(parent=None, name=AGAIN)
    return copy.apply(variables, *args, mutable=["batch_stats"], **kwargs)[0]


@contextlib.contextmanager
def without_attribute(layer: Any) -> Iterator[None]:
    """Lets a call decide on `use_running_average`, which linen allows in one place."""
    before = layer.use_running_average
    object.__setattr__(layer, "use_running_average", None)
    try:
        yield
    finally:
        object.__setattr__(layer, "use_running_average", before)
