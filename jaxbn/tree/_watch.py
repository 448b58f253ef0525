"""Watching: a model runs, and a handler takes each call of a norm layer.

What a handler finds out, it returns as *notes*: arrays by name. They leave the model
with its `batch_stats`, the way the running statistics do, so that layers under
`nn.scan`, `nn.remat` or `nn.jit` can be watched too, and come out as [L, ...] where the
layers are stacked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxbn.base import Array, Axes
from jaxbn.tree._variables import find_layers


class Call(NamedTuple):
    """One call of a norm layer, about to happen.

    Attributes:
        path: of the layer in `batch_stats`, as `find_layers` names it.
        layer: the module: of `flax.linen`, `flax.nnx`, `jaxbn.linen` or `jaxbn.nnx`.
        axis: its feature axes.
        x: [..., C] what it is called with.
        mask: the mask it is called with, or None.
        use_running_average: which statistics it would normalize with.
        params: its own parameters, such as 'scale' and 'bias'.
        state: its own entries of `batch_stats`, such as 'mean' and 'var'.
        notes: what the handler noted at earlier calls of this layer in this run.
        proceed: `proceed(use_running_average=..., x=...)` calls the layer as it is
            (defaults: as it was called) and returns its output.
    """

    path: str
    layer: Any
    axis: Axes
    x: Array
    mask: Array | None
    use_running_average: bool
    params: dict[str, Array]
    state: dict[str, Array]
    notes: dict[str, Array]
    proceed: Callable[..., Array]


Handler: TypeAlias = Callable[[Call], tuple[Array, dict[str, Array]]]
"""`handler(call) -> (y, notes)`: what the layer gives, and what to know of it."""

NOTE = "note: "
"""What names of notes begin with where they lie among the statistics."""


def watch(
    model: Any,
    handler: Handler,
    *,
    also: tuple[type, ...] = (),
    updating: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """Returns `run(variables, *args, **kwargs) -> (output, notes)`, a pure function.

    It calls the model with `handler` in the place of each norm layer: of
    `flax.linen.BatchNorm`, `flax.nnx.BatchNorm` and their subclasses, and of every
    layer of `jaxbn.linen` and `jaxbn.nnx`. Nothing of the model is changed, and what
    its layers would have updated is dropped. May be jitted.

    Args:
        model: a linen module, or an nnx module.
        handler: gets a `Call`; returns what the layer's output is to be, usually
            `call.proceed()`, and notes, usually of the same names at every call. They
            replace those of an earlier call of the same layer.
        also: other types of modules to hand over, such as `nn.Conv`, by exact type.
        updating: `run` returns the statistics after the call instead of the notes, of
            which there should be none.

    Returns:
        `run`. Its `variables` are linen's `{'params': ..., 'batch_stats': ...}`, or an
        `nnx.State` of the model, None for what the model holds. Further arguments go to
        linen's `apply`, so `rngs=` and `method=` are its own, or to the nnx model. The
        notes come by path and name.

    Raises:
        ValueError: if the model is of neither kind.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = nn.Sequential([nn.Dense(2), nn.BatchNorm(use_running_average=True)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> run = watch(model, lambda call: (call.proceed(), {'largest': call.x.max()}))
        >>> _, notes = run(variables, jnp.zeros((4, 3)))
        >>> notes
        {'layers_1': {'largest': Array(0., dtype=float32)}}
    """
    import flax.linen
    import flax.nnx

    if isinstance(model, flax.linen.Module):
        from jaxbn.tree._watch_linen import run_linen as run
    elif isinstance(model, flax.nnx.Module):
        from jaxbn.tree._watch_nnx import run_nnx as run
    else:
        raise ValueError(
            f"model is a {type(model).__name__}, expected a linen or an nnx module; "
            "pass the module itself, not its apply function"
        )

    def watched(variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict]:
        output, stats = run(model, Watcher(handler, also), variables, args, kwargs)
        return output, stats if updating else notes_in(stats)

    return watched


class Watcher(NamedTuple):
    """Who is called, and for which layers.

    Attributes:
        handler: of the calls.
        also: types of modules besides norms.
    """

    handler: Handler
    also: tuple[type, ...]

    def wants(self, layer: Any, flax_layer: type) -> bool:
        """Returns whether a module is handed over: `flax_layer` is Flax's norm."""
        return is_norm(layer, flax_layer) or type(layer) in self.also


def notes_in(stats: Any) -> dict[str, dict[str, Array]]:
    """Returns the notes that lie in a tree of statistics, by path of the layer."""
    found = {}
    for path, layer in find_layers(stats).items():
        notes = own_notes(layer)
        if notes:
            found[path] = notes
    return found


def own_notes(layer: dict[str, Any]) -> dict[str, Any]:
    """Returns the notes among the entries of one layer, by their names."""
    return {k.removeprefix(NOTE): v for k, v in layer.items() if k.startswith(NOTE)}


def is_norm(layer: Any, flax_layer: type) -> bool:
    """Returns whether a module is a norm layer: Flax's, or one with `as_norm`."""
    return isinstance(layer, flax_layer) or hasattr(type(layer), "as_norm")
