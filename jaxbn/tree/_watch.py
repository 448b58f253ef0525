"""Watching: a model runs, and a handler takes each call of a norm layer.

What a handler finds out, it returns as *notes*: arrays by name. They leave the model
with its `batch_stats`, the way the running statistics do, so that layers under
`nn.scan`, `nn.remat` or `nn.jit` can be watched too, and come out as [L, ...] where the
layers are stacked.
"""

from collections.abc import Callable
from typing import Any

from jaxbn.base import Array
from jaxbn.tree._call import Handler, Watcher, own_notes
from jaxbn.tree._variables import find_layers


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
    its layers would have updated is dropped. May be jitted. A subclass of such a layer
    is handed over where it calls the layer that it extends.

    Notes are new entries of `batch_stats`, so that JAX refuses them where its structure
    may not change: in `nn.cond`, and where `nn.scan` carries `batch_stats` along.

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
        linen's `apply`, so `rngs=`, `method=` and `mutable=` (what else is to be beside
        'batch_stats') are its own, or to the nnx model. The notes come by path and
        name.

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


def notes_in(stats: Any) -> dict[str, dict[str, Array]]:
    """Returns the notes that lie in a tree of statistics, by path of the layer."""
    found = {}
    for path, layer in find_layers(stats).items():
        notes = own_notes(layer)
        if notes:
            found[path] = notes
    return found
