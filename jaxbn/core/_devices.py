"""Named axes: what differs between pmap, vmap, the two modes of shard_map, and jit.

Under `shard_map(check_vma=True)` every value is typed by the mesh axes along which
it may differ between devices (is *varying*); a sum over devices takes a varying value
and returns an *invariant* one, and autodiff inserts the matching collectives. Under
pmap, vmap and `check_vma=False` there are no such types. The functions here give
code that is right in all four without asking where it runs.

Under plain jit an axis of the mesh in context (`jax.set_mesh`) is named too, but not
*bound*: one function sees the arrays of all devices, and the compiler splits the work.
"""

import math
from collections.abc import Sequence

import jax
from jax import lax
from jax.sharding import get_abstract_mesh

from jaxbn._values import is_hashable, shown
from jaxbn.base import Array, AxisIndexGroups, AxisName


def axis_names(axis_name: AxisName | None) -> tuple[str, ...]:
    """Returns the names as a tuple, empty for None.

    Raises:
        ValueError: if one is there twice, or cannot be a name.
    """
    if axis_name is None:
        return ()
    alone = isinstance(axis_name, str) or not isinstance(axis_name, Sequence)
    names = (axis_name,) if alone else tuple(axis_name)
    # To JAX an int is the axis of an array.
    if not is_hashable(names) or any(isinstance(name, int) for name in names):
        raise ValueError(
            f"axis_name is {shown(axis_name)}, expected the name of an axis or "
            "several; pass that of pmap, vmap, shard_map or the mesh"
        )
    if len(set(names)) != len(names):
        raise ValueError(
            f"axis_name is {names}, which names an axis twice, expected distinct axes; "
            "remove the repetition"
        )
    return names


def axis_index(names: tuple[str, ...]) -> Array:
    """Returns this device's index along the joint axis `names`.

    Raises:
        ValueError: if one of them is not bound.
    """
    try:
        return lax.axis_index(names)
    except NameError:
        raise not_bound(names) from None


def is_bound(name: str) -> bool:
    """Returns whether functions run once for each index along the axis `name`."""
    try:
        lax.axis_index(name)
    except NameError:
        return False
    return True


def mesh_size(names: tuple[str, ...]) -> int:
    """Returns how many devices of the mesh in context lie along `names`.

    Raises:
        ValueError: if there is no mesh with such axes.
    """
    shape = get_abstract_mesh().shape
    if not set(names) <= set(shape):
        raise not_bound(names)
    return math.prod(shape[name] for name in names)


def not_bound(names: tuple[str, ...]) -> ValueError:
    """Returns the error that no axis is called `names` here."""
    return ValueError(
        f"axis_name is {names}, which is not bound here; call inside pmap, vmap or "
        "shard_map with that axis, or under jit and jax.set_mesh of a mesh that has "
        "it, or pass axis_name=None for local statistics"
    )


def axis_size(names: tuple[str, ...]) -> int:
    """Returns the number of devices along the joint axis `names`."""
    return lax.psum(1, names)


def are_mesh_axes(names: tuple[str, ...]) -> bool:
    """Returns whether all of `names` are axes of the mesh mapped over here.

    Not so for an axis of vmap, and for pmap before jax 0.8, which had no mesh. JAX
    traces a custom derivative late, when such an axis is no longer bound.
    """
    return set(names) <= set(get_abstract_mesh().manual_axes)


def varying_axes(x: Array) -> frozenset[str]:
    """Returns the mesh axes along which `x` is typed as varying."""
    aval = jax.typeof(x)
    if hasattr(aval, "manual_axis_type"):  # jax >= 0.10
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(aval.vma)


def match_varying(x: Array, like: Array) -> Array:
    """Returns `x` typed as varying wherever `like` is; nothing moves forward.

    The transpose of this cast is a sum over devices, which is how the gradient of a
    replicated parameter becomes whole.
    """
    return _vary(x, varying_axes(like))


def vary_alike(*arrays: Array) -> tuple[Array, ...]:
    """Returns the arrays typed as varying wherever any of them is."""
    names = frozenset().union(*map(varying_axes, arrays))
    return tuple(_vary(a, names) for a in arrays) if names else arrays


def _vary(x: Array, names: frozenset[str]) -> Array:
    missing = tuple(sorted(names - varying_axes(x)))
    if not missing:
        return x
    if hasattr(lax, "pcast"):  # jax >= 0.9
        return lax.pcast(x, missing, to="varying")
    return lax.pvary(x, missing)  # pyrefly: ignore[missing-attribute]


def split_by_kind(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Returns `names` as groups that one collective can reduce together.

    A sum over a mesh axis is typed, one over an axis of vmap is not. The latter come
    first, while what is summed still shows whether types are on.
    """
    typed = [n for n in names if varying_axes(axis_index((n,)))]
    of_vmap = [n for n in names if n not in typed]
    return [tuple(group) for group in (of_vmap, typed) if group]


def sum_over(value: Array, names: tuple[str, ...]) -> Array:
    """Returns the sum of `value` along the joint axis `names`: one collective.

    Raises:
        ValueError: for an axis of vmap under typed shard_map, where JAX (up to 0.12)
            has no collective at all.
    """
    return lax.psum(as_varying(value, names), names)


def as_varying(value: Array, names: tuple[str, ...]) -> Array:
    """Returns `value` as a collective along the joint axis `names` takes it.

    Raises:
        ValueError: as `sum_over`.
    """
    for name in names:
        if varying_axes(value) and not varying_axes(axis_index((name,))):
            raise ValueError(
                f"axis_name is {names}, of which {name!r} is an axis of vmap under "
                "shard_map(check_vma=True), where JAX has no collectives, expected "
                "mesh axes; pass check_vma=False"
            )
    return match_varying(value, like=axis_index(names))


def group_indices(groups: AxisIndexGroups | None, size: int) -> list[int]:
    """Returns the number of the group of each of `size` devices; all 0 for None.

    Raises:
        ValueError: unless every device is in exactly one group.
    """
    if groups is None:
        return [0] * size
    members = sorted(index for group in groups for index in group)
    if members != list(range(size)):
        raise ValueError(
            f"axis_index_groups is {groups}, expected every index from 0 to {size - 1} "
            "exactly once; add the missing devices, each alone if it is to be local"
        )
    group_of = {index: k for k, group in enumerate(groups) for index in group}
    return [group_of[index] for index in range(size)]
