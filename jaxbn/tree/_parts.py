"""Parts of a model: what it is made of and what it holds, linen or nnx alike."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

from jaxbn._values import is_hashable, shown
from jaxbn.tree._call import Handler
from jaxbn.tree._variables import find_layers, has_statistics
from jaxbn.tree._watch import check_model, is_array, watch


def variables_of(model: Any, variables: Any) -> Any:
    """Returns the variables to run `model` with; None means what an nnx model holds.

    Raises:
        ValueError: if the model is of neither kind, or they are not of its kind.
    """
    check_model(model, variables)
    if variables is None and isinstance(model, nnx.Module):
        return nnx.state(model)
    return variables


def stats_of(variables: Any) -> Any:
    """Returns the statistics among the variables of a model."""
    if isinstance(variables, nnx.State):
        return nnx.filter_state(variables, nnx.BatchStat)
    return variables.get("batch_stats", {})


def layers_with_statistics(variables: Any) -> dict[str, dict[str, Any]]:
    """Returns the entries of the layers that hold a mean and a variance, by path.

    Raises:
        ValueError: if there are none.
    """
    layers = find_layers(stats_of(variables))
    known = {path: held for path, held in layers.items() if has_statistics(held)}
    if not known:
        raise ValueError(
            "the model has no layer with 'mean' and 'var' among its statistics, "
            "expected at least one; pass its variables, batch_stats included"
        )
    return known


def check_known(what: str, *trees: Any) -> None:
    """Refuses what is traced, where numbers are looked at.

    Raises:
        ValueError: naming the function that looks.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise ValueError(
            f"{what} is given what is traced, expected arrays that are known: it looks "
            "at numbers; call it outside of jit, grad and vmap"
        )


def at_batch(variables: Any, num: int) -> Any:
    """Returns variables whose random keys, which nnx models hold, are of a batch."""
    if not isinstance(variables, nnx.State):
        return variables

    def fold(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.RngKey):
            return leaf
        return leaf.replace(jax.random.fold_in(leaf[...], num))

    return jax.tree.map(
        fold, variables, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )


def params_of(variables: Any) -> Any:
    """Returns the parameters among the variables of a model."""
    if isinstance(variables, nnx.State):
        return nnx.filter_state(variables, nnx.Param)
    return variables.get("params", {})


def with_stats(variables: Any, stats: Any) -> Any:
    """Returns the variables with other statistics."""
    if isinstance(variables, nnx.State):
        return nnx.merge_state(variables, stats)
    return {**variables, "batch_stats": stats}


class Held:
    """A linen module that holds a list, and so has no hash; equal to itself only.

    Args:
        model: the module.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other.model is self.model


def as_static(model: Any) -> Any:
    """Returns what of a model is not an array, hashable: a module or an nnx graph."""
    if isinstance(model, nnx.Module):
        return nnx.graphdef(model)
    try:
        hash(model)
    except TypeError:
        return Held(model)
    return model


def as_model(static: Any, variables: Any) -> Any:
    """Returns the model of which `as_static` was given."""
    if isinstance(static, Held):
        return static.model
    return static if isinstance(static, nn.Module) else nnx.merge(static, variables)


class Fixed(NamedTuple):
    """What of a tree is not an array; hashable if that is.

    Attributes:
        structure: of the tree.
        values: of its leaves; None where there is an array.
    """

    structure: Any
    values: tuple


def split_arrays(tree: Any) -> tuple[list[Any], Fixed]:
    """Returns the arrays of a tree, None for other leaves, and the rest.

    Raises:
        ValueError: if a leaf is neither an array of numbers nor hashable.
    """
    leaves, structure = jax.tree.flatten(tree)
    for leaf in leaves:
        of_others = isinstance(leaf, np.ndarray | np.generic) and not is_array(leaf)
        if of_others or (not is_hashable(leaf) and not is_array(leaf)):
            raise ValueError(
                f"an argument of the call is {shown(leaf)}, expected arrays of numbers "
                "or constants that can be hashed; pass what the model takes"
            )
    flags = [isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves]
    pairs = list(zip(leaves, flags, strict=True))
    arrays = [leaf if is_array else None for leaf, is_array in pairs]
    values = tuple(None if is_array else leaf for leaf, is_array in pairs)
    return arrays, Fixed(structure, values)


def join_arrays(arrays: list[Any], fixed: Fixed) -> Any:
    """Returns the tree that `split_arrays` was given."""
    pairs = zip(arrays, fixed.values, strict=True)
    leaves = [value if array is None else array for array, value in pairs]
    return jax.tree.unflatten(fixed.structure, leaves)


def run_jitted(
    model: Any, handler: Handler, variables: Any, *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, dict]]:
    """Returns what `watch(model, handler)` does, compiled and kept for the next call.

    Args:
        model: as in `watch`.
        handler: likewise; programs are kept by what it is.
        variables: likewise.
        *args: of the call. What is not an array, such as `True`, is a constant.
        **kwargs: likewise.
    """
    arrays, fixed = split_arrays((args, kwargs))
    variables = variables_of(model, variables)
    return _run(as_static(model), handler, fixed, variables, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    static: Any, handler: Handler, fixed: Fixed, variables: Any, arrays: list
) -> tuple[Any, dict[str, dict]]:
    args, kwargs = join_arrays(arrays, fixed)
    return watch(as_model(static, variables), handler)(variables, *args, **kwargs)
