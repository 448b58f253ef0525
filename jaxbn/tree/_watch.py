"""Watching: a model runs, and a handler takes each call of a norm layer.

What a handler finds out, it returns as *notes*: arrays by name. They leave the model
with its `batch_stats`, the way the running statistics do, so that layers under
`nn.scan`, `nn.remat` or `nn.jit` can be watched too, and come out as [L, ...] where the
layers are stacked.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import tree_util

from jaxbn._values import check_flags, check_function, has_numbers, shown
from jaxbn.base import Array
from jaxbn.tree._call import Handler, Watcher, own_notes
from jaxbn.tree._variables import find_layers, path_name


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

    check_kind(model)
    check_function("handler", handler, "(call) -> (y, notes)")
    check_flags(updating=updating)
    if not isinstance(also, tuple) or not all(isinstance(kind, type) for kind in also):
        raise ValueError(
            f"also is {shown(also)}, expected a tuple of types of modules, such as "
            "(nn.Conv,)"
        )
    if isinstance(model, flax.linen.Module):
        from jaxbn.tree._watch_linen import run_linen as run
    else:
        from jaxbn.tree._watch_nnx import run_nnx as run

    def watched(variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict]:
        check_model(model, variables)
        output, stats = run(model, Watcher(handler, also), variables, args, kwargs)
        return output, stats if updating else notes_in(stats)

    return watched


def check_kind(model: Any) -> None:
    """Refuses what is no model.

    Raises:
        ValueError: unless it is a linen or an nnx module.
    """
    import flax.linen
    import flax.nnx

    if not isinstance(model, flax.linen.Module | flax.nnx.Module):
        raise ValueError(
            f"model is a {type(model).__name__}, expected a linen or an nnx module; "
            "pass the module itself, not its apply function"
        )


def check_model(model: Any, variables: Any) -> None:
    """Refuses what is no model, and variables of another kind.

    Raises:
        ValueError: unless the model is a linen or an nnx module, and its variables
            are arrays in linen's dicts or an `nnx.State`.
    """
    import flax.nnx

    check_kind(model)
    if isinstance(model, flax.nnx.Module):
        kind, what = flax.nnx.State, "an nnx.State, or None for what the model holds"
        known = variables is None or isinstance(variables, kind)
    else:
        what = "linen's {'params': ..., 'batch_stats': ...}, as init returns them"
        known = isinstance(variables, Mapping)
        known = known and all(isinstance(v, Mapping) for v in variables.values())
    if not known:
        raise ValueError(f"variables is {shown(variables)}, expected {what}")
    for path, leaf in tree_util.tree_leaves_with_path(variables):
        if not is_array(leaf):
            raise ValueError(
                f"variables has {shown(leaf)} at {path_name(path)!r}, expected an "
                "array; pass those of the model"
            )


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf is an array of numbers or of keys, or a number."""
    dtype = getattr(leaf, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    return is_key or has_numbers(leaf) or isinstance(leaf, int | float | complex)


def notes_in(stats: Any) -> dict[str, dict[str, Array]]:
    """Returns the notes that lie in a tree of statistics, by path of the layer."""
    found = {}
    for path, layer in find_layers(stats).items():
        notes = own_notes(layer)
        if notes:
            found[path] = notes
    return found
