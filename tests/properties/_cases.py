"""Cases: a program and the numbers it is run with, as a strategy that shrinks.

What shrinks is drawn: the program, how the data lie and what stands out in them, how
much of a mask is true, a seed for the rest. A failing case is one line, and can be made
again from what that line says.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.properties._programs import Program, compiled

WEIGHTS = np.array([1, 1, 2, 3, 5, 0.125, 0.25, 0.5, 0.75])
"""Sums of them are exact in float32, so that none minus 1 loses digits."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and numbers for it.

    Attributes:
        program: what is run.
        seed: of all that is not said here.
        location: where the data lie; each channel is moved by up to `spread`.
        spread: how far they lie apart; 0 for channels that are constant.
        special: places in the flat data, modulo its size, and what stands there.
        density: how much of a mask is true.
        behind: what lies behind the mask.
        momentum: of programs that take it in a call.
        pick: chooses, where a property has something to choose.
    """

    program: Program
    seed: int = 0
    location: float = 0.0
    spread: float = 1.0
    special: tuple[tuple[int, float], ...] = ()
    density: float = 0.7
    behind: float = 0.0
    momentum: float = 0.0
    pick: int = 0

    def rng(self, *words: int) -> np.random.Generator:
        """Returns a generator, another one for other words."""
        return np.random.default_rng((self.seed, *words))

    def numbers(self, k: int = 0, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Returns the data of step `k`, in the precision of the program."""
        shape, rng = shape or self.program.shape, self.rng(1, k)
        x = self.location + self.spread * (
            rng.normal(size=shape) * (self.spread != 0) + rng.normal(size=shape[-1:])
        )
        if self.spread == 0:
            x = np.full(shape, self.location)
        x = np.array(x)
        for place, value in self.special:
            if x.size:
                x.reshape(-1)[(place + 7 * k) % x.size] = value
        if self.program.dtype.startswith("complex"):
            x = x + 1j * self.spread * rng.normal(size=shape)
        return x.astype(jnp.dtype(self.program.dtype))

    def mask(self, k: int = 0, *, some: bool = False) -> np.ndarray | None:
        """Returns the mask of step `k`; with `some`, not all of it false."""
        program, rng = self.program, self.rng(2, k)
        if program.mask == "none":
            return None
        rest, whole = program.rest, program.shape
        shape = {
            "scalar": (),
            "example": rest[:1] + (1,) * (len(rest) - 1),
            "position": rest,
            "element": whole,
            "channel": [n if a in program.features else 1 for a, n in enumerate(whole)],
        }[program.mask]
        keep = rng.random(shape) < self.density
        if some and keep.size and not keep.any():
            keep.reshape(-1)[self.pick % keep.size] = True
        return self.weigh(keep, rng)

    def weigh(self, keep: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns weights of the program's dtype, 0 where `keep` is false."""
        program = self.program
        if program.weights == "bool":
            return keep
        weights = rng.choice(WEIGHTS, np.shape(keep))
        if program.weights == "int32":
            weights = np.ceil(weights)
        return (weights * keep).astype(jnp.dtype(program.weights))

    def hide(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Returns `x` with something else behind the mask."""
        if mask is None:
            return x
        with np.errstate(over="ignore"):  # 1e30 is infinite in half precision
            behind = np.asarray(self.behind).astype(x.dtype)
        return np.where(spread_over(self.program, mask) != 0, x, behind)

    def more(self, k: int = 0) -> dict:
        """Returns what else `apply` takes in step `k`: momentum and domain."""
        program, more = self.program, {}
        if program.moving:
            # Less than 1 where it is debiased, as `bn_apply` asks for.
            top = 1 - 2.0**-24 if program.row.debias else 1.0
            real = np.float64 if program.double else np.float32
            more["momentum"] = real(min(self.momentum, top))
        if program.row.domains:
            shape = (program.examples,) if program.by_example else ()
            unseen = self.pick % 3 == 1  # One before and one behind are no domains.
            among = -unseen, program.row.domains + unseen
            more["domain"] = self.rng(3, k).integers(*among, shape, np.int32)
            more["domain"] = np.asarray(more["domain"], np.int32)
        return more

    def start(self):
        """Returns random parameters and a new state."""
        program = self.program
        given = program.row, program.param_dtype, program.num_features
        return start(*given, self.seed)

    def step(self, params, state, x, mask, more):
        """Returns `y, new_state, y_eval` of the compiled program, in NumPy."""
        _, step = compiled(self.program.row, self.program.param_dtype)
        return jax.tree.map(np.asarray, step(params, state, x, mask, more))


@functools.cache
def initial(row, param_dtype, num_features):
    trees = row.make(param_dtype=param_dtype).init(num_features)
    return tuple({k: np.asarray(v) for k, v in tree.items()} for tree in trees)


def start(row, param_dtype, num_features, seed):
    """Returns random parameters and a state: a new one, or one that has moved."""
    rng = np.random.default_rng(seed)
    draw = {
        "scale": lambda shape: rng.normal(size=shape) + 1.5,
        "bias": lambda shape: rng.normal(size=shape),
        "mean": lambda shape: rng.normal(size=shape) * 3,
        "var": lambda shape: rng.uniform(0.1, 5.0, shape),
    }
    trees = tuple(dict(tree) for tree in initial(row, param_dtype, num_features))
    for tree in trees:
        for key, value in tree.items():
            if key in ("scale", "bias") or (key in draw and seed % 2):
                tree[key] = draw[key](value.shape).astype(value.dtype)
    return trees


def spread_over(program: Program, mask: np.ndarray) -> np.ndarray:
    """Returns the mask in the shape of `x`."""
    if mask.ndim == len(program.rest):
        mask = np.expand_dims(mask, program.features)
    return np.broadcast_to(mask, program.shape)


LOCATIONS = (0.0, 1.0, -3.0, 30.0, 1e4)
SPREADS = (1.0, 5.0, 0.0, 1e-3, 1e3)
SPECIAL = (0.0, 1.0, -1.0, 1e-3, 100.0, -1e4)
BEHIND = (0.0, np.nan, np.inf, -np.inf, 1e30)
DENSITIES = (0.7, 1.0, 0.3, 0.9, 0.0)


def cases(programs, *, locations=LOCATIONS, spreads=SPREADS, special=SPECIAL):
    """Returns a strategy of cases of some programs."""
    places = st.tuples(st.integers(0, 1000), st.sampled_from(special))
    standing_out = st.lists(places, max_size=3).map(tuple) if special else st.just(())
    return st.builds(
        Case,
        program=st.sampled_from(programs),
        seed=st.integers(0, 2**32 - 1),
        location=st.sampled_from(locations),
        spread=st.sampled_from(spreads),
        special=standing_out,
        density=st.sampled_from(DENSITIES),
        behind=st.sampled_from(BEHIND),
        momentum=st.floats(0, 1, width=32, allow_subnormal=False),
        pick=st.integers(0, 1000),
    )


calm = functools.partial(cases, locations=(0.0, -3.0), spreads=(1.0, 3.0), special=())
"""Cases whose deviation is far from 0, where derivatives and ratios are compared."""
