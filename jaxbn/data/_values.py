"""Values: what an argument of the data may be; what came instead, in a message.

The data know nothing of the arithmetic, which has a file of that name for itself.
"""

from typing import Any

import jax
import numpy as np

LONGEST = 60
"""Characters of a value in a message."""


def shown(value: Any) -> str:
    """A value for a message, on one line that is not long.

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


def check_count(
    name: str, value: Any, least: int = 0, most: int = 2**31, otherwise: str = ""
) -> None:
    """Refuses what is no int from `least` to below `most`, which int32 holds.

    Raises:
        ValueError: naming it.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value < most:
        bound = f"less than {most}" if whole and value >= most else f"{least} or more"
        bound = bound if whole else f"an int, {bound}"
        raise ValueError(f"{name} is {shown(value)}; expected {bound}{otherwise}")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither true nor false.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(value, bool | int | np.bool_ | None):
        raise ValueError(f"{name} is {shown(value)}; expected True or False")


def as_dtype(name: str, dtype: Any) -> np.dtype:
    """A dtype of numbers.

    Raises:
        ValueError: naming it, if it is none.
    """
    found = None
    if dtype is not None and not isinstance(dtype, jax.Array | np.ndarray | np.generic):
        try:
            found = np.dtype(dtype)
        except (TypeError, ValueError):
            found = None
    if found is None or not (
        found == np.bool_ or jax.numpy.issubdtype(found, np.number)
    ):
        raise ValueError(f"{name} is {shown(dtype)}; expected a dtype of numbers")
    return found


def check_key(key: Any) -> None:
    """Refuses what is no random key, of `jax.random.key` or of `PRNGKey`.

    Raises:
        ValueError: saying what came.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (
        dtype == np.uint32 and shape in ((2,), (4,))
    ):
        raise ValueError(f"key is {shown(key)}; expected one random key")


def as_numbers(name: str, value: Any) -> np.ndarray | jax.Array:
    """An array of numbers or bools; JAX's stay as they are, traced ones too.

    Raises:
        ValueError: naming it, if it is none.
    """
    array: Any = value
    if not isinstance(value, jax.Array):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            array = None
    if array is None or not has_numbers(array):
        raise ValueError(f"{name} is {shown(value)}; expected an array of numbers")
    return array


def as_numpy(name: str, value: Any) -> np.ndarray:
    """A NumPy array of numbers or bools.

    Raises:
        ValueError: naming it, if it is none, or traced.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name} is traced; expected an array that is known, not in jit"
        )
    return np.asarray(as_numbers(name, value))


def has_numbers(array: Any) -> bool:
    """Whether something is an array of numbers or bools."""
    dtype = getattr(array, "dtype", None)
    if not isinstance(dtype, np.dtype) or not hasattr(array, "shape"):
        return False
    return dtype == np.bool_ or jax.numpy.issubdtype(dtype, np.number)
