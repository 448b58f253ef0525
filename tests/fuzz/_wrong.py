"""Wrong values: things that no argument wants, and valid values made wrong."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TRACED = "traced"
"""The label of a value that is traced: what is called with it runs within `jit`."""


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A value that may be wrong.

    Attributes:
        label: how a report calls it.
        value: itself.
        traced: whether a tracer of it is passed instead.
    """

    label: str
    value: Any
    traced: bool = False


def anything() -> list[Wrong]:
    """Returns values of all kinds, most of which are wrong everywhere."""
    plain = [None, "x", "", b"x", -1, 0, 1, 7, 1.5, -0.5, float("nan"), float("inf")]
    plain += [-float("inf"), True, False, [], {}, (), 2**40, -(2**70), 1j, "float99"]
    plain += ["int32", [1, "x"], [[1], [2, 3]], {1: 2}, {"x": None}, ["a", "a"], [0, 0]]
    plain += [(0, 1), [[0, 1], [1]], [[]], [None], "1", "a/b", Path("nowhere"), set()]
    named = [Wrong(repr(value), value) for value in plain]
    odd = {
        "object()": object(),
        "a huge int": 10**400,
        "a function": lambda *args, **kwargs: None,
        "a function of nothing": lambda: None,
        "a class": int,
        "NumPy []": np.zeros(()),
        "NumPy [2, 1, 3, 1, 2]": np.zeros((2, 1, 3, 1, 2), np.float32),
        "NumPy [0]": np.zeros(0),
        "NumPy [3] of ints": np.arange(3),
        "NumPy [3] of bytes": np.arange(3, dtype=np.uint8),
        "NumPy [2] of objects": np.array([object(), None]),
        "NumPy [2] of dates": np.array(["2026-01-01", "2026-01-02"], "datetime64[D]"),
        "NumPy [2] of words": np.array(["a", "b"]),
        "NumPy [3] of float16": np.ones(3, np.float16),
        "a NumPy float": np.float32(0.5),
        "a NumPy int": np.int64(2),
        "JAX []": jnp.float32(0.5),
        "JAX [3]": jnp.ones(3),
        "JAX [3] of complex64": jnp.ones(3, jnp.complex64),
        "a random key": jax.random.key(0),
        "a range": range(2),
        "an iterator": iter(()),
    }
    named += [Wrong(label, value) for label, value in odd.items()]
    named += [Wrong(f"{TRACED} float", np.float32(0.5), traced=True)]
    named += [Wrong(f"{TRACED} [3]", np.ones(3, np.float32), traced=True)]
    return named


def like(value: Any) -> Iterator[Wrong]:
    """Yields a valid value made wrong: of another shape, dtype, key, length, sign."""
    if isinstance(value, Mapping):
        yield from _like_mapping(value)
    elif isinstance(value, np.ndarray | jax.Array):
        if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            yield from _like_array(value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name in value._fields:
            for wrong in (*few(), *like(getattr(value, name))):
                new = value._replace(**{name: wrong.value})
                yield Wrong(f"its {name} {wrong.label}", new)
        yield Wrong("a plain tuple of it", tuple(value))
    elif isinstance(value, list | tuple):
        yield from _like_sequence(value)
    elif isinstance(value, str):
        for new in (value.upper() + "?", value + " ", f"{value},{value}", value + "/"):
            yield Wrong(repr(new), new)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        new: Any
        for new in (-value, str(value), [value], value * 1000, np.asarray([value])):
            yield Wrong(repr(new), new)


def few() -> list[Wrong]:
    """Returns some of `anything`, for places within a value."""
    values = [None, "x", -1, {}, [], object(), np.zeros((2, 1, 3)), np.array(["a"])]
    return [Wrong("object()" if type(v) is object else repr(v), v) for v in values]


def _like_mapping(value: Mapping) -> Iterator[Wrong]:
    kind: Callable = type(value) if isinstance(value, dict) else dict
    for key in value:
        rest = {k: v for k, v in value.items() if k != key}
        yield Wrong(f"without {key!r}", kind(rest))
        yield Wrong(f"{key!r} renamed", kind({**rest, f"{key}?": value[key]}))
        for wrong in (*few(), *like(value[key])):
            new = kind({**value, key: wrong.value})
            yield Wrong(f"[{key!r}] {wrong.label}", new)
    yield Wrong("with one more", kind({**value, "extra": np.zeros(2)}))
    yield Wrong("with a key that is a number", kind({**value, 3: np.zeros(2)}))
    yield Wrong("as a list", list(value.items()))


def _like_array(value: Any) -> Iterator[Wrong]:
    array = np.asarray(value)
    shapes = {"one axis more": array[None]}
    if array.ndim:
        shapes |= {
            "one axis less": array[0],
            "one row less": array[:-1],
            "one row more": np.concatenate([array, array[:1]]),
            "no rows": array[:0],
            "no columns": array[..., :0],
            "one column less": array[..., :-1],
            "as a list": array.tolist(),
        }
    for label, new in shapes.items():
        yield Wrong(label, new)
    kinds = ["int32", "uint8", "bool", "object", "complex64", "float16", "U3"]
    for kind in kinds:
        with np.errstate(all="ignore"):
            yield Wrong(f"of {kind}", array.real.astype(kind))
    yield Wrong("of dates", np.zeros(array.shape, "datetime64[D]"))
    if array.dtype.kind in "fiu":
        for dtype in (jnp.bfloat16, jnp.float8_e4m3fn):
            yield Wrong(f"of {np.dtype(dtype)}", jnp.asarray(array).astype(dtype))
    if array.dtype.kind == "f":
        yield Wrong("all NaN", np.full_like(array, np.nan))
        yield Wrong("below 0", -np.abs(array) - 1)
    if array.dtype.kind in "fc":
        yield Wrong(f"{TRACED}, one axis more", array[None], traced=True)


def _like_sequence(value: list | tuple) -> Iterator[Wrong]:
    kind = type(value)
    yield Wrong("none of it", kind())
    yield Wrong("its first twice", kind([*value, *value[:1]]))
    yield Wrong("its first alone", kind(value[:1]))
    yield Wrong("within another", kind([value]))
    yield Wrong("as an iterator", iter(value))
    for wrong in few():
        yield Wrong(f"its first {wrong.label}", kind([wrong.value, *value[1:]]))
    for wrong in like(value[0]) if len(value) else ():
        yield Wrong(f"its first {wrong.label}", kind([wrong.value, *value[1:]]))
