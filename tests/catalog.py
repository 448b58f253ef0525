"""Every norm variant, one row each, and the laws it claims.

`test_laws.py` and `test_laws_devices.py` run each law for each row that claims it, so
a new variant is tested by adding its row. One that is plain batch norm with other
options is `_batch_norm('name', option=...)`. One with arithmetic of its own brings a
reference in NumPy and leaves out the laws that are not its own:

    Row(
        'ghost of 2',
        make=functools.partial(jaxbn.ghost_norm, num_groups=2),
        reference=functools.partial(oracle.ghost_apply_devices, num_groups=2),
        laws=EVERY - {Law.PERMUTING},
    )
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxbn


class Law(StrEnum):
    """What a row may promise; each is a test of test_laws.py, or of the file named."""

    ORACLE = "agrees with the float64 reference, training and evaluating"
    EVAL = "evaluation returns the state it was given"
    SCAN = "the state keeps structure, shapes and dtypes"
    PERMUTING = "permuting examples permutes outputs"
    CHANNELS = "channels do not talk"
    AFFINE = "a*x + b normalizes to the same thing"
    MASKED = "masked equals removed"
    WEIGHTS = "a weight of k equals k copies"
    NOTHING = "an empty or all-masked batch is finite and keeps the state"
    SINGLE = "one element per channel gives the bias"
    NONFINITE = "a non-finite channel keeps its state"
    OFFSET = "an offset of 1e4 survives in float32"
    HALF = "half precision in and out, float32 statistics"
    JIT = "jit equals eager, one compilation for ten steps"
    GRADIENT = "the gradient is the reference's finite differences"
    FLAX = "functional equals linen equals nnx, bitwise"
    DEVICES = "k devices equal one, groups equal separate runs (test_laws_devices)"


EVERY = frozenset(Law)


@dataclass(frozen=True, eq=False)
class Row:
    """A variant of norm.

    Attributes:
        name: as the tests print it.
        make: `make(**options) -> jaxbn.Norm`. The laws pass `param_dtype`, `axis_name`
            and `axis_index_groups`.
        reference: what it is compared with, of the signature of
            `oracle.bn_apply_devices` up to `groups`.
        gradient: likewise, of the signature of `oracle.bn_gradient_devices`; None where
            there is no formula, and finite differences have to do.
        laws: what it claims.
        modules: options that make the same layer of `jaxbn.linen.BatchNorm` and
            `jaxbn.nnx.BatchNorm`; None where no options do.
    """

    name: str
    make: Callable[..., jaxbn.Norm]
    reference: Callable
    gradient: Callable | None = None
    laws: frozenset[Law] = field(default=EVERY, repr=False)
    modules: Mapping | None = None

    def expected(self, params, state, x, train, mask=None):
        """Returns what the reference gives on one device, `(y, new_state)`."""
        ys, states = self.reference(params, [state], [x], train, masks=[mask])
        return ys[0], states[0]


def start(norm, x, seed=0):
    """Returns random parameters and the initial state of `norm` for data like `x`."""
    num_features = tuple(x.shape[a] for a in oracle.feature_axes(norm.axis, x.ndim))
    params, state = norm.init(num_features)
    rng = np.random.default_rng(seed)
    for key, value in params.items():
        params[key] = jnp.asarray(rng.uniform(0.5, 2.0, value.shape), value.dtype)
    return params, state


def rows_claiming(law: Law, rows: Iterable[Row] | None = None):
    """Parametrizes a test by `row`, one for each row of the catalog that claims `law`.

    Args:
        law: which.
        rows: of these only; None for all.
    """
    claiming = [row for row in (ROWS if rows is None else rows) if law in row.laws]
    return pytest.mark.parametrize("row", claiming, ids=lambda row: row.name)


_ORACLE_KNOWS = {"axis", "momentum", "epsilon", "unbiased", "debias", "skip_nonfinite"}


def _batch_norm(name: str, **options) -> Row:
    known = {key: options[key] for key in options if key in _ORACLE_KNOWS}
    return Row(
        name,
        make=functools.partial(jaxbn.batch_norm, **options),
        reference=functools.partial(oracle.bn_apply_devices, **known),
        gradient=functools.partial(oracle.bn_gradient_devices, **known),
        modules=options,
    )


PLAIN = _batch_norm("plain")
ROWS = (
    PLAIN,
    _batch_norm("keras", momentum=0.9, epsilon=1e-3),
    _batch_norm("no scale", use_scale=False),
    _batch_norm("no bias", use_bias=False),
    _batch_norm("no affine", use_scale=False, use_bias=False),
    _batch_norm("unbiased", unbiased=True, momentum=0.9),
    _batch_norm("cumulative", momentum=None),
    _batch_norm("debiased", debias=True, momentum=0.9),
    _batch_norm("channels first", axis=1),
    _batch_norm("two feature axes", axis=(-1, 1)),
    _batch_norm("plain autodiff", custom_derivative=False),
)
