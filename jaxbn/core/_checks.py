"""Checks: what is known while tracing is refused with got, expected and a fix.

What is known only at run time (an all-masked batch, a non-finite value) has a
defined result instead and is not checked here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbn._values import (
    check_flags,
    has_numbers,
    is_count,
    is_number,
    shown,
)
from jaxbn.base import Array, Norm, Params, State
from jaxbn.core._arrays import check_bits, is_jet, is_symbolic
from jaxbn.core._devices import axis_names
from jaxbn.core._layout import split_along


def check_features(num_features: int | Sequence[int]) -> tuple[int, ...]:
    """Returns `num_features` as a shape.

    Raises:
        ValueError: unless it is a positive int or a tuple of them.
    """
    given = num_features if isinstance(num_features, Sequence) else (num_features,)
    shape = tuple(int(n) for n in given if is_count(n))
    if not shape or len(shape) != len(given):
        raise ValueError(
            f"num_features is {shown(num_features)}, expected a positive int or a "
            "tuple of positive ints; pass the shape of x along its feature axes"
        )
    return shape


def check_options(
    momentum: Any,
    epsilon: Any,
    debias: bool,
    axis_name: Any = None,
    axis_index_groups: Any = None,
    normalization_batch_size: object = None,
    **flags: object,
) -> None:
    """Refuses options that contradict each other or have no meaning.

    Raises:
        ValueError: if `momentum` is outside [0, 1], `epsilon` negative or not finite,
            `debias` has nothing to debias, one of the `flags` is neither true nor
            false, there are groups of no axis or that are not lists, a size that is
            none, or both.
    """
    known = is_number(momentum)
    given = known or momentum is None or _is_real_array(momentum)
    if not given or (known and not 0 <= momentum <= 1):
        raise ValueError(
            f"momentum is {shown(momentum)}, expected 0 <= momentum <= 1, the weight "
            "of the old value; PyTorch's momentum is 1 - momentum here"
        )
    check_epsilon(epsilon)
    check_flags(debias=debias, **flags)
    if debias and (momentum is None or (known and momentum == 1)):
        raise ValueError(
            f"debias=True with momentum={momentum}, expected 0 <= momentum < 1; a "
            "cumulative average (momentum=None) has no bias to remove"
        )
    axis_names(axis_name)
    if axis_index_groups is not None and axis_name is None:
        raise ValueError(
            f"axis_index_groups is {shown(axis_index_groups)} but axis_name is None; "
            "name the axis that the groups partition"
        )
    _check_together(axis_index_groups, normalization_batch_size)


def check_epsilon(epsilon: Any) -> None:
    """Refuses what cannot be added to a variance.

    Raises:
        ValueError: unless it is a number, not negative and not large.
    """
    if not is_number(epsilon) or not 0 <= epsilon < 2**31:
        raise ValueError(
            f"epsilon is {shown(epsilon)}, expected a small number >= 0; it is added "
            "to the variance, 1e-5 is the default"
        )


def _check_together(groups: Any, size: object) -> None:
    if groups is not None and not _are_lists_of_ints(groups):
        flat = isinstance(groups, Sequence) and all(map(is_number, groups))
        hint = f", or [{list(groups)}]" if flat else ""
        raise ValueError(
            f"axis_index_groups is {shown(groups)}, expected a list of lists of device "
            f"indices; for all devices together pass None{hint}"
        )
    if size is None:
        return
    symbolic = is_symbolic(size)
    if not symbolic and not is_count(size):
        raise ValueError(
            f"normalization_batch_size is {shown(size)}, expected an int from 1 on; "
            "None normalizes all examples together"
        )
    if groups is not None:
        raise ValueError(
            f"normalization_batch_size is {size} and axis_index_groups is {groups}, "
            "expected one of the two; the size makes the groups"
        )


def _is_real_array(value: object) -> bool:
    """Returns whether a value is an array of real numbers, traced or not."""
    return has_numbers(value) and not jnp.iscomplexobj(value)


def _are_lists_of_ints(groups: Any) -> bool:
    if not isinstance(groups, Sequence):
        return False
    lists = all(isinstance(g, Sequence) for g in groups)
    return lists and all(is_count(n, least=0) for g in groups for n in g)


def check_tracing(x: Array) -> None:
    """Refuses the one transformation of JAX that knows no custom derivatives.

    Raises:
        ValueError: if `x` is traced by `jax.experimental.jet`.
    """
    if is_jet(x):
        raise ValueError(
            "x is traced by jax.experimental.jet, which cannot go through functions "
            "and sums with a derivative of their own, expected another transformation; "
            "nest jax.jvp or jax.jacfwd for higher derivatives"
        )


def check_layout(x: Array, axis: int, axis_name: object, size: object) -> None:
    """Refuses to cut examples into ghost batches where they lie on devices not named.

    Args:
        x: to be cut.
        axis: of its examples.
        axis_name: the axes named.
        size: normalization_batch_size.

    Raises:
        ValueError: if the mesh types `x` as split and no axis is named.
    """
    names = split_along(x, axis)
    if size is not None and axis_name is None and names:
        raise ValueError(
            f"normalization_batch_size is {size} and axis_name is None, but the "
            f"examples of x are split along {names} of an Explicit mesh; pass "
            f"axis_name={names}"
        )


def check_switch(name: str, value: object) -> bool:
    """Returns `value` as a bool.

    Raises:
        ValueError: if it is traced or not a bool.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(
            f"{name} is {shown(value)}, expected a Python bool; under jit mark it "
            f"static, for example jax.jit(f, static_argnames={name!r})"
        )
    return bool(value)


def check_params(
    params: Params, shape: tuple[int, ...], x: Array, num_groups: int = 0
) -> None:
    """Refuses parameters that are not those of a batch norm of `x`.

    Raises:
        ValueError: on keys other than scale and bias, on a shape other than `shape`, on
            complex parameters for real `x`, or on floats of 8 bits.
    """
    check_tree("params", params)
    unknown = set(params) - {"scale", "bias"}
    if unknown:
        raise ValueError(
            f"params has keys {sorted(map(str, params))}, expected only 'scale' and "
            "'bias'; pass the subtree of one batch norm, e.g. "
            "variables['params']['bn1']"
        )
    for key, value in params.items():
        stacked = num_groups and np.shape(value) == (num_groups, *shape)
        if not stacked:
            _check_shapes("params", {key: value}, shape)
    for key, value in params.items():
        check_bits(f"params[{key!r}]", value)
        if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
            raise ValueError(
                f"params[{key!r}] has dtype {value.dtype} but x has dtype {x.dtype}, "
                "expected both complex or both real; cast x, or initialize with a real "
                "param_dtype"
            )


def check_state(
    state: State, shape: tuple[int, ...], *, counts: bool, devices: int = 0
) -> None:
    """Refuses a state that cannot serve `shape` channels.

    Args:
        state: to check.
        shape: of each entry.
        counts: whether it has to have 'count' too.
        devices: it may also be stacked so many times, apart for each; 0: it may not.

    Raises:
        ValueError: if mean, var (or count, where `counts`) is missing or misshapen.
    """
    check_tree("state", state)
    needed = ["mean", "var", "count"] if counts else ["mean", "var"]
    missing = [key for key in needed if key not in state]
    if missing:
        raise ValueError(
            f"state has keys {sorted(map(str, state))}, expected {needed}; start it by "
            "bn_init with the same momentum and debias, or pass the subtree of one "
            "batch norm, e.g. variables['batch_stats']['bn1']"
        )
    if devices and np.shape(state["mean"]) == (devices, *shape):
        shape = (devices, *shape)
    for key in needed:
        check_bits(f"state[{key!r}]", state[key])
    _check_shapes("state", {key: state[key] for key in needed}, shape)


def check_norm(norm: Any) -> None:
    """Refuses what is no norm.

    Raises:
        ValueError: saying what came.
    """
    pair = isinstance(norm, Norm) and callable(norm.init) and callable(norm.apply)
    pair = pair and isinstance(norm.axis, int | tuple)
    if not pair or not (norm.parts is None or callable(norm.parts)):
        raise ValueError(
            f"norm is {shown(norm)}, expected a jaxbn.Norm; pass what batch_norm() or "
            "another of the factories returns"
        )


def check_tree(name: str, tree: Any) -> None:
    """Refuses what are not the arrays of one norm by name.

    Raises:
        ValueError: if it is no dict, or an entry is no array of numbers.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"{name} is {shown(tree)}, expected a dict of arrays, those of one norm; "
            "start it by the norm's init"
        )
    for key, value in tree.items():
        if not has_numbers(value) or value.dtype == np.bool_:
            raise ValueError(
                f"{name}[{key!r}] is {shown(value)}, expected an array of numbers; "
                "pass the subtree of one norm"
            )


def _check_shapes(name: str, tree: dict[str, Array], shape: tuple[int, ...]) -> None:
    for key, value in tree.items():
        if np.shape(value) != shape:
            raise ValueError(
                f"{name}[{key!r}] has shape {np.shape(value)}, expected {shape}, the "
                "shape of x along its feature axes; check axis and num_features"
                + stacked_hint(np.shape(value), shape)
            )


def stacked_hint(found: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Returns what to do with statistics that seem stacked over devices."""
    stacked = found[1:] == shape
    return (
        "; if these are statistics of devices, merge_batch_stats pools them" * stacked
    )


def check_state_dtypes(state: State, mean_dtype: np.dtype) -> None:
    """Refuses to store statistics where they would be rounded away.

    Raises:
        ValueError: if a running statistic is below float32, or real for complex data.
    """
    for key, value in state.items():
        dtype = jnp.result_type(value)
        if jnp.promote_types(dtype, jnp.float32) != dtype:
            raise ValueError(
                f"state[{key!r}] has dtype {dtype}, expected float32 or wider, since "
                "an average moves by less than half precision can hold; cast the state "
                "with jax.tree.map(lambda a: a.astype(jnp.float32), state)"
            )
    mean = jnp.result_type(state["mean"])
    if jnp.issubdtype(mean_dtype, jnp.complexfloating) and not jnp.issubdtype(
        mean, jnp.complexfloating
    ):
        raise ValueError(
            f"x is complex but state['mean'] has dtype {mean}, expected a complex "
            "dtype; start the state by bn_init(..., dtype=jnp.complex64)"
        )
