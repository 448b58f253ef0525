"""Every norm variant, one row each, and the laws it claims.

`test_laws.py` and `test_laws_devices.py` run each law for each row that claims it, so
a new variant is tested by adding its row. One that is plain batch norm with other
options is `_batch_norm('name', option=...)`. One with arithmetic of its own brings a
reference in NumPy (`oracle_variants.py`) and leaves out the laws that are not its own:

    Row(
        "ghost of 2",
        make=functools.partial(jaxbn.ghost_norm, size=2),
        reference=functools.partial(variants.ghost, cut=...),
        laws=EVERY - {Law.PERMUTING, Law.MASKED, Law.WEIGHTS, Law.DEVICES},
    )
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import jax.numpy as jnp
import numpy as np
import oracle
import oracle_variants as variants
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


def _started(options):
    """Returns the options that are left of those which a row is made with."""
    return {k: v for k, v in options.items() if not k.startswith("axis_")}


def _always(norm, **fixed):
    """Returns `norm` called with more keywords each time."""
    return norm._replace(apply=functools.partial(norm.apply, **fixed))


def _domain(**options):
    return _always(jaxbn.domain_norm(1, jaxbn.batch_norm(**options)), domain=0)


def _domains(**options):
    """An index an example, all of them 0."""
    norm = jaxbn.domain_norm(1, jaxbn.batch_norm(**options))

    def apply(params, state, x, train, **rest):
        domain = jnp.zeros(jnp.shape(x)[:1] if jnp.ndim(x) > 1 else (), jnp.int32)
        return norm.apply(params, state, x, train, domain=domain, **rest)

    return norm._replace(apply=apply)


def _split(**options):
    return jaxbn.split_norm(jaxbn.batch_norm(**options))


BY_PLACE = {Law.PERMUTING, Law.MASKED, Law.WEIGHTS, Law.DEVICES}
"""What does not hold where it matters at which place an example is."""
OF_STATES = {Law.CHANNELS, Law.NONFINITE, Law.SINGLE, Law.OFFSET}
"""What is tested on states [C]."""
OF_BATCHES = {Law.AFFINE, Law.NONFINITE, Law.SINGLE, Law.OFFSET}
"""What does not hold where batches do not normalize."""
WITHOUT_STATE = {*OF_BATCHES, Law.CHANNELS, Law.WEIGHTS, Law.DEVICES, Law.MASKED}
"""What is said of batches, or tested by their state."""

A_SISTER = frozenset({Law.ORACLE, Law.EVAL, Law.SCAN, Law.HALF, Law.FLAX})
"""What is run again of a form whose sister has run everything."""

PLAIN = _batch_norm("plain")
_RENORM = {"warmup_steps": 1, "r_steps": 2, "d_steps": 3}
_VARIANTS = (
    Row(
        "frozen",
        make=lambda **o: jaxbn.frozen_norm(**_started(o)),
        reference=variants.frozen,
        laws=EVERY - OF_BATCHES,
    ),
    Row(
        "frozen, affine too",
        make=lambda **o: jaxbn.frozen_norm(constant_affine=True, **_started(o)),
        reference=variants.frozen,
        laws=A_SISTER,
    ),
    Row(
        "frozen, not folded",
        make=lambda **o: jaxbn.frozen_norm(fold=False, **_started(o)),
        reference=variants.frozen,
        laws=A_SISTER,
    ),
    Row(
        "ghosts of 2",
        make=functools.partial(jaxbn.ghost_norm, size=2),
        reference=functools.partial(
            variants.ghost, cut=lambda n: [2] * (n // 2) + [1] * (n % 2)
        ),
        laws=EVERY - BY_PLACE,
    ),
    Row(
        "3 ghosts",
        make=functools.partial(jaxbn.ghost_norm, num_groups=3),
        reference=functools.partial(
            variants.ghost,
            cut=lambda n: [len(part) for part in np.array_split(range(n), 3)],
        ),
        laws=A_SISTER,
    ),
    Row(
        "renorm",
        make=functools.partial(jaxbn.batch_renorm, **_RENORM),
        reference=functools.partial(variants.renorm, **_RENORM),
        laws=EVERY - {Law.AFFINE},
    ),
    Row(
        "domain",
        make=_domain,
        reference=variants.one_domain(oracle.bn_apply_devices),
        laws=EVERY - OF_STATES,
    ),
    Row(
        "domain by example",
        make=_domains,
        reference=variants.one_domain(oracle.bn_apply_devices),
        laws=A_SISTER | {Law.MASKED, Law.GRADIENT, Law.DEVICES},
    ),
    Row(
        "adaptive",
        make=functools.partial(jaxbn.adaptive_norm, prior_count=3.0),
        reference=functools.partial(variants.adaptive, prior_count=3.0),
    ),
    Row(
        "split",
        make=_split,
        reference=oracle.bn_apply_devices,  # not of it: tests/variants/test_split.py
        laws=frozenset({Law.EVAL, Law.SCAN, Law.JIT, Law.FLAX}),
    ),
    Row(
        "group norm",
        make=lambda **o: jaxbn.group_norm(1, **_started(o)),
        reference=variants.each_example(variants.by_group(1)),
        laws=EVERY - WITHOUT_STATE,
    ),
    Row(
        "instance norm",
        make=lambda **o: jaxbn.instance_norm(**_started(o)),
        reference=variants.each_example(variants.by_group(None)),
        laws=EVERY - WITHOUT_STATE,
    ),
    Row(
        "layer norm",
        make=lambda **o: jaxbn.layer_norm(**_started(o)),
        reference=variants.each_example(variants.by_position),
        laws=EVERY - WITHOUT_STATE,
    ),
)
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
    *_VARIANTS,
)
