"""Watching a linen model, by intercepting the calls of its modules."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn.base import Array, Axes
from jaxbn.tree._call import NOTE, Call, Watcher, is_norm, own_notes


def run_linen(
    model: nn.Module, watcher: Watcher, variables: Any, args: tuple, kwargs: dict
) -> tuple[Any, Any]:
    """Returns the output of the model, and its statistics with the notes."""

    def intercept(call_next: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        layer = context.module
        called = context.method_name == "__call__"
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
) -> Call:
    """Returns what the layer was called with, and what it holds."""
    norm, given = is_norm(layer, nn.BatchNorm), use_running_average
    if norm and given is None:
        given = layer.use_running_average

    def proceed(use_running_average: bool = bool(given), x: Array = x) -> Array:
        if not norm:
            return call_next(x)
        with without_attribute(layer):
            return call_next(x, use_running_average, mask=mask)

    held = {**layer.variables.get("batch_stats", {})}
    notes = own_notes(held)
    return Call(
        "/".join(layer.path),
        layer,
        axes_of(layer, x),
        x,
        mask,
        bool(given),
        {**layer.variables.get("params", {})},
        {k: v for k, v in held.items() if not k.startswith(NOTE)},
        notes,
        proceed,
    )


def axes_of(layer: Any, x: Array) -> Axes:
    """Returns the feature axes of a layer; the last of those that are no norms."""
    if hasattr(layer, "as_norm"):
        return layer.as_norm(x).axis
    return layer.axis if isinstance(layer, nn.BatchNorm) else -1


@contextlib.contextmanager
def without_attribute(layer: Any) -> Iterator[None]:
    """Lets a call decide on `use_running_average`, which linen allows in one place."""
    before = layer.use_running_average
    object.__setattr__(layer, "use_running_average", None)
    try:
        yield
    finally:
        object.__setattr__(layer, "use_running_average", before)
