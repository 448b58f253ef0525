"""Values: what an argument may be at all, and how a message shows what came instead.

One question each (a number, a switch, an array, a dtype, a key), asked of Python values
while tracing. What a value means where it is used is judged there. Imports nothing of
jaxbn, and is imported by all of it.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

LONGEST = 60
"""Characters of a value in a message."""


def shown(value: Any) -> str:
    """Returns a value for a message, on one line that is not long.

    Example:
        >>> shown('x'), shown(np.zeros((2, 3)))
        ("'x'", 'an array of shape (2, 3) and dtype float64')
    """
    if isinstance(value, int | float | np.generic):
        text = str(value)
    elif hasattr(value, "dtype") and isinstance(getattr(value, "shape", None), tuple):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def is_number(value: object) -> bool:
    """Returns whether a value is a real number of Python or NumPy, and no bool."""
    kinds = int | float | np.integer | np.floating
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    return isinstance(value, float) or bool(abs(value) < 2**63)  # What arrays can hold.


def is_count(value: object, least: float = 1, most: float = 2**31) -> bool:
    """Returns whether a value is an int from `least` to below `most`, and no bool.

    As many as an index can count, by default.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return False
    return bool(least <= value < most)


def is_axis(axis: object, ndim: int) -> bool:
    """Returns whether a value names one axis of an array of rank `ndim`."""
    return is_count(axis, least=-ndim) and axis < ndim  # pyrefly: ignore


def is_hashable(value: object) -> bool:
    """Returns whether a value can be a name, or an option that a program is kept by."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    fix: str = "",
) -> None:
    """Refuses what is no number from `least` to `most`, NaN included.

    Raises:
        ValueError: naming it.
    """
    if not is_number(value) or not least <= value <= most:
        bounds = f" from {least}" * (least > -math.inf) + f" to {most}" * (
            most < math.inf
        )
        raise ValueError(f"{name} is {shown(value)}, expected a number{bounds}; {fix}")


def check_count(
    name: str, value: Any, least: int = 0, most: int = 2**31, otherwise: str = ""
) -> None:
    """Refuses what is no int from `least` to below `most`, which int32 holds.

    Raises:
        ValueError: naming it.
    """
    if not is_count(value, least, most):
        large = is_count(value, most, math.inf)
        bound = f"less than {most}" if large else f"{least} or more"
        whole = is_count(value, -math.inf, math.inf)
        bound = bound if whole else f"an int, {bound}"
        raise ValueError(f"{name} is {shown(value)}; expected {bound}{otherwise}")


def check_flags(**flags: object) -> None:
    """Refuses what is neither true nor false: words, arrays, what is traced.

    Raises:
        ValueError: naming it.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | int | np.bool_ | None):
            raise ValueError(
                f"{name} is {shown(value)}, expected True or False; under jit mark it "
                f"static, for example jax.jit(f, static_argnames={name!r})"
            )


def check_function(name: str, value: object, what: str) -> None:
    """Refuses what cannot be called.

    Raises:
        ValueError: naming it.
    """
    if not callable(value):
        raise ValueError(f"{name} is {shown(value)}, expected a function {what}")


def as_array(name: str, value: Any) -> jax.Array:
    """Returns `value` as an array of numbers or bools.

    Raises:
        ValueError: naming it, if it is none.
    """
    array: Any = value
    if not isinstance(value, jax.Array):
        words = [v for v in jax.tree.leaves(value) if isinstance(v, str | bytes)]
        try:
            array = None if value is None or words else jnp.asarray(value)
        except (TypeError, ValueError, OverflowError):
            array = None
    if array is None or not has_numbers(array):
        raise ValueError(
            f"{name} is {shown(value)}, expected an array of numbers; pass one of JAX "
            "or NumPy"
        )
    return array


def as_numpy(name: str, value: Any) -> np.ndarray:
    """Returns `value` as an array of NumPy, of numbers or bools.

    Raises:
        ValueError: naming it, if it is none, or traced.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name} is traced, expected an array of numbers that are known; call it "
            "outside of jit"
        )
    return np.asarray(as_numbers(name, value))


def as_tensor(name: str, value: Any) -> np.ndarray:
    """Returns a tensor, or what NumPy takes, as an array; floats of torch as float64.

    NumPy reads no bfloat16 of torch's, no tensor that requires gradients, and none on
    another device.
    """
    if not hasattr(value, "detach"):
        return as_numpy(repr(name), value)
    value = value.detach()
    if value.is_meta:
        raise ValueError(
            f"{name!r} is on torch's meta device, expected numbers; load the state "
            "dict from its file, with map_location='cpu'"
        )
    value = value.cpu()
    return np.asarray(value.double() if value.is_floating_point() else value)


def as_numbers(name: str, value: Any) -> np.ndarray | jax.Array:
    """Returns an array of numbers or bools; JAX's stay as they are, traced ones too.

    Raises:
        ValueError: naming it, if it is none.
    """
    array: Any = value
    if not isinstance(value, jax.Array):
        try:
            array = None if isinstance(value, str | bytes) else np.asarray(value)
        except (TypeError, ValueError):
            array = None
    if array is None or not has_numbers(array):
        raise ValueError(f"{name} is {shown(value)}, expected an array of numbers")
    return array


def check_mapping(name: str, value: Any) -> None:
    """Refuses what does not hold values by names.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise ValueError(f"{name} is {shown(value)}, expected a dict of values by name")


def has_numbers(array: Any) -> bool:
    """Returns whether something is an array, of numbers or bools."""
    dtype = getattr(array, "dtype", None)
    known = isinstance(dtype, np.dtype) and hasattr(array, "shape")
    return known and (dtype == np.bool_ or jnp.issubdtype(dtype, jnp.number))


def as_dtype(
    name: str, dtype: DTypeLike | None, default: str = "that of x"
) -> np.dtype:
    """Returns a floating or complex dtype; the message says what the `default` is.

    Raises:
        ValueError: naming it, if it is none.
    """
    found = _dtype_of(dtype)
    if found is None or not jnp.issubdtype(found, jnp.inexact):
        raise ValueError(
            f"{name} is {shown(dtype)}, expected a floating or complex dtype, such as "
            f"'bfloat16'; {default} is the default"
        )
    return found


def as_number_dtype(name: str, dtype: Any) -> np.dtype:
    """Returns a dtype of numbers or bools.

    Raises:
        ValueError: naming it, if it is none.
    """
    found = _dtype_of(dtype)
    if found is None or not has_numbers(np.zeros((), found)):
        raise ValueError(f"{name} is {shown(dtype)}, expected a dtype of numbers")
    return found


def _dtype_of(dtype: Any) -> np.dtype | None:
    if dtype is None or isinstance(dtype, jax.Array | np.ndarray | np.generic):
        return None
    try:
        return np.dtype(dtype)
    except (TypeError, ValueError):
        return None


def check_key(key: Any) -> None:
    """Refuses what is no random key, of `jax.random.key` or of `PRNGKey`.

    Raises:
        ValueError: saying what came.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and shape in ((2,), (4,))
    if not (typed and shape == ()) and not raw:
        raise ValueError(
            f"key is {shown(key)}, expected one random key; pass jax.random.key(0)"
        )
