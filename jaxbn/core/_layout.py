"""Layouts: where arrays lie on the mesh, on meshes that make it part of their type.

Under jit over a mesh with `Explicit` axes (the default of `jax.make_mesh`) an array is
typed by the axes it is split along, and some operations refuse operands that lie apart.
Under one with `Auto` axes the compiler decides, and what is here changes nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.sharding import auto_axes, get_abstract_mesh, reshard

from jaxbn.base import Array


def is_explicit(names: tuple[str, ...]) -> bool:
    """Returns whether the mesh in context types values by `names`.

    Raises:
        ValueError: if it does so by some of them only.
    """
    explicit = set(names) & set(get_abstract_mesh().explicit_axes)
    if explicit and explicit != set(names):
        raise ValueError(
            f"axis_name is {names}, of which only {tuple(sorted(explicit))} are "
            "Explicit axes of the mesh, expected axes of one type; make the mesh with "
            "the same axis_types for all of them"
        )
    return bool(explicit)


def split_along(x: Array, axis: int) -> tuple[str, ...]:
    """Returns the axes of the mesh that `x` is typed as split along on its `axis`."""
    if not get_abstract_mesh().explicit_axes:
        return ()
    names = _spec(x)[axis]
    return () if names is None else (names,) if isinstance(names, str) else names


def laid_like(x: Array, like: Array) -> Array:
    """Returns `x`, of the shape of `like`, typed as lying where that does."""
    if not get_abstract_mesh().explicit_axes or _spec(x) == _spec(like):
        return x
    return reshard(x, P(*_spec(like)))


def laid_per_feature(value: Array, x: Array, features: tuple[int, ...]) -> Array:
    """Returns an array [C] lying as the `features` of `x` do."""
    if not get_abstract_mesh().explicit_axes:
        return value
    return reshard(value, P(*(_spec(x)[a] for a in features)))


def left_to_compiler(
    function: Callable[..., Array], x: Array, *others: Array, features: tuple[int, ...]
) -> Array:
    """Returns `function(x, *others)`, an array [C], compiled as on an `Auto` mesh.

    For what has no rule of its own on typed arrays, such as taking one element.
    """
    if not get_abstract_mesh().explicit_axes:
        return function(x, *others)
    if not any(any(_spec(a)) for a in (x, *others)):
        return function(x, *others)
    out = P(*(_spec(x)[a] for a in features))
    compiled: Any = auto_axes(function, out_sharding=out)
    return compiled(x, *others)


def layout_of(x: Array) -> Any:
    """Returns what `out_sharding=` takes for a result that lies as `x` does."""
    return jax.typeof(x).sharding if get_abstract_mesh().explicit_axes else None


def keep(flags: Array, value: Array, other: Array | int = 0) -> Array:
    """Returns `value` where `flags`, else `other`.

    Unlike a product, 0 also where the value is not finite. `flags` broadcast from their
    first axes.
    """
    flags = flags.reshape(flags.shape + (1,) * (value.ndim - flags.ndim))
    if get_abstract_mesh().explicit_axes:
        shape = jnp.broadcast_shapes(flags.shape, value.shape)
        value = jnp.broadcast_to(value, shape)
        flags = laid_like(jnp.broadcast_to(flags, shape), value)
        if not isinstance(other, int):
            other = laid_like(jnp.broadcast_to(other, shape), value)
    return jnp.where(flags, value, other)


def _spec(x: Array) -> tuple:
    return tuple(jax.typeof(x).sharding.spec)
