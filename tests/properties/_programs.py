"""Programs: what XLA compiles once and many examples run.

A program is a norm, the shape and dtype of what it is given, and the kind of mask. A
pool of them is drawn from a seed, a few of each kind of norm, the simplest first, since
a strategy that samples from the pool shrinks towards its beginning.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from random import Random
from typing import Any

import jax
import oracle
import oracle_variants
from float64 import double_precision

from tests.properties import _norms as norms
from tests.properties._compositions import KINDS

DTYPES = ("float32",) * 4 + ("bfloat16", "float16", "float64", "complex64")
MASKS = ("none",) * 4 + ("element",) * 4 + ("example",) * 3 + ("position",) * 2 + (
    "channel",
    "scalar",
)  # fmt: skip
WEIGHTS = ("bool", "bool", "float32", "float32", "int32", "bfloat16")
LARGEST = 160
"""Elements of an array: the reference takes its time for each."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What is compiled.

    Attributes:
        row: the norm.
        shape: of `x`; on devices, of what one of them has.
        dtype: of `x`.
        mask: what varies in a mask: 'none', 'scalar', 'example', 'position',
            'element' or 'channel'.
        weights: dtype of the mask.
        moving: whether a call brings its momentum, traced.
        by_example: whether domains are one an example, or one of all.
        train: what is differentiated, training or evaluation.
        wrapper: what spreads it over devices, of `wrappers.py`; None for nothing.
        devices: how many of them.
        groups: lists of devices that are normalized together; None for all.
        size: `normalization_batch_size` in place of groups.
    """

    row: norms.Drawn
    shape: tuple[int, ...]
    dtype: str
    mask: str = "none"
    weights: str = "bool"
    moving: bool = False
    by_example: bool = True
    train: bool = True
    wrapper: str | None = None
    devices: int = 1
    groups: tuple[tuple[int, ...], ...] | None = None
    size: int | None = None

    def __repr__(self) -> str:
        """Returns all that is needed to write it down again."""
        parts = [f"{self.row.name} of {self.dtype}{list(self.shape)}"]
        if self.mask != "none":
            parts.append(f"{self.weights} mask by {self.mask}")
        if self.moving:
            parts.append("momentum traced")
        if self.row.domains:
            parts.append("domains by example" if self.by_example else "one domain")
        if self.wrapper:
            parts.append(f"{self.wrapper} on {self.devices}, groups {self.groups}")
        if self.size:
            parts.append(f"normalization_batch_size {self.size}")
        return f"<{', '.join(parts)}>"

    def _repr_pretty_(self, printer, cycle) -> None:
        """Prints it so where hypothesis reports a case."""
        printer.text(repr(self))

    @property
    def features(self) -> list[int]:
        """The feature axes, from 0."""
        return oracle.feature_axes(self.row.axis, len(self.shape))

    @property
    def rest(self) -> tuple[int, ...]:
        """The shape without feature axes."""
        return tuple(n for a, n in enumerate(self.shape) if a not in self.features)

    @property
    def num_features(self) -> tuple[int, ...]:
        """The shape along the feature axes."""
        return tuple(self.shape[a] for a in self.features)

    @property
    def along(self) -> int | None:
        """The axis of the examples."""
        return oracle_variants.example_axis(len(self.shape), self.row.axis)

    @property
    def examples(self) -> int | None:
        """How many there are; None without an axis of them."""
        return None if self.along is None else self.shape[self.along]

    @property
    def together(self) -> int:
        """At most how many elements are normalized together."""
        elements = self.shape if self.row.across else self.rest
        return self.devices * math.prod(elements)

    @property
    def out(self) -> str:
        """The dtype of outputs."""
        return self.row.out or self.dtype

    @property
    def param_dtype(self) -> str:
        """Of scale and bias."""
        wide = self.dtype.startswith("complex") or self.dtype == "float64"
        return self.dtype if wide else "float32"

    @property
    def double(self) -> bool:
        """Whether it is computed in float64."""
        return self.dtype in ("float64", "complex128")

    def precision(self) -> contextlib.AbstractContextManager:
        """Returns the context that its dtype needs."""
        return double_precision() if self.double else contextlib.nullcontext()

    def with_examples(self, examples: int) -> "Program":
        """Returns the program of another number of examples."""
        shape = list(self.shape)
        shape[self.along] = examples
        return dataclasses.replace(self, shape=tuple(shape))


@functools.cache
def compiled(row, param_dtype: str) -> tuple[Any, Callable]:
    """Returns the norm, and `step(params, state, x, mask, more) -> y, new, y_eval`."""
    norm = row.make(param_dtype=param_dtype)

    @jax.jit
    def step(params, state, x, mask, more):
        y, new = norm.apply(params, state, x, True, mask=mask, **more)
        return y, new, norm.apply(params, new, x, False, mask=mask, **more)[0]

    return norm, step


@functools.cache
def gradients(row, param_dtype: str, train: bool) -> Callable:
    """Returns `pull(params, state, x, cotangent, mask, more) -> y, dparams, dx`."""
    norm = row.make(param_dtype=param_dtype)

    @jax.jit
    def pull(params, state, x, cotangent, mask, more):
        def forward(params, x):
            return norm.apply(params, state, x, train, mask=mask, **more)[0]

        y, pullback = jax.vjp(forward, params, x)
        return (y, *pullback(cotangent))

    return pull


def draw_pool(seed: object, of_each_kind: int) -> list[Program]:
    """Returns programs, `of_each_kind`, the simplest first."""
    pool = []
    for number, kind in enumerate(KINDS):
        for k in range(of_each_kind):
            rng = Random(f"{seed} {number} {k}")
            program = None
            while program is None:
                program = _draw(rng, kind)
            pool.append(program)
    return sorted(pool, key=_complexity)


def _complexity(program: Program) -> tuple:
    odd = program.dtype != "float32", program.mask != "none", program.moving
    return len(program.shape), sum(odd), math.prod(program.shape), program.row.name


def _draw(rng: Random, kind: Callable) -> Program | None:
    shape, axis = draw_shape(rng)
    row = kind(rng, shape, axis)
    dtype = rng.choice(DTYPES)
    if row is None or (row.out and dtype == "complex64"):
        return None
    return Program(
        row,
        shape,
        dtype=dtype,
        mask=rng.choice(MASKS),
        weights=rng.choice(WEIGHTS),
        moving=row.moving and rng.random() < 0.4,
        by_example=rng.random() < 0.7,
        train=rng.random() < 0.7,
    )


def draw_shape(rng: Random) -> tuple[tuple[int, ...], int | tuple[int, ...]]:
    """Returns a shape of rank 1 to 5, and its feature axis or axes."""
    rank = rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 5))
    shape = [rng.choice((1, 2, 3, 4, 5)) for _ in range(rank)]
    axis: int | tuple[int, ...] = -1
    if rng.random() < 0.4:
        axis = rng.randrange(-rank, rank)
    if rank > 2 and rng.random() < 0.25:
        axis = tuple(rng.sample(range(-rank, 0), 2))
    along = oracle_variants.example_axis(rank, axis)
    if along is not None:
        shape[along] = rng.choice((1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 12))
    while math.prod(shape) > LARGEST:
        shape[rng.choice([a for a in range(rank) if shape[a] > 1])] -= 1
    if along is not None and rng.random() < 0.05:
        empty = [a for a in range(rank) if a not in oracle.feature_axes(axis, rank)]
        shape[rng.choice(empty)] = 0
    return tuple(shape), axis
