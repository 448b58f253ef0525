"""Norms that are drawn: each kind a function of a random generator and a shape.

A kind returns a row of the catalog with the options it drew, or None where the shape
has no such norm. `_compositions` has those that are put around another norm.
"""

import functools
from dataclasses import dataclass, field
from random import Random

import numpy as np
import oracle
import oracle_variants as variants
from catalog import BY_PLACE, EVERY, OF_BATCHES, Law, Row

import jaxbn
from tests.properties import _references as references

EPSILONS = (1e-5, 1e-5, 1e-3, 1e-12, 0.5)
MOMENTA = (0.0, 0.5, 0.9, 0.99, 1.0)
STATELESS = EVERY - {*OF_BATCHES, Law.CHANNELS, Law.WEIGHTS, Law.DEVICES}
SWITCHED = frozenset({Law.ORACLE, Law.SCAN, Law.JIT, Law.HALF})
"""What is claimed where a switch says otherwise than `train`."""


@dataclass(frozen=True, eq=False)
class Drawn(Row):
    """A row with what its properties have to know of its options.

    Attributes:
        axis: the feature axis, or several.
        epsilon: added to the variance.
        domains: how many it has; 0 for a norm without.
        moving: whether a call may bring a momentum of its own.
        debias: whether its average is debiased.
        skips: whether a channel that is not finite keeps its state.
        across: whether an example is normalized over its channels.
        folded: whether the mean is folded into the bias, which loses its digits.
        shuffled: whether it counts its shuffles.
        out: the dtype of its outputs where that is not the one of `x`.
        smooth: whether its derivative is that of its values, once its state has moved.
    """

    axis: int | tuple[int, ...] = -1
    epsilon: float = 1e-5
    domains: int = 0
    moving: bool = False
    debias: bool = False
    skips: bool = True
    across: bool = False
    folded: bool = False
    shuffled: bool = False
    out: str | None = None
    smooth: bool = True
    laws: frozenset[Law] = field(default=EVERY, repr=False)

    def __repr__(self) -> str:
        """Returns the call that makes it."""
        return self.name


def said(name, options):
    """Returns a call as one would write it."""
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})"


def examples_of(shape, axis):
    """Returns how many examples an array of that shape has; None without their axis."""
    along = variants.example_axis(len(shape), axis)
    return None if along is None else shape[along]


def averaging(rng: Random, *, debias=True):
    """Returns options of the running statistics, and what the oracle is told."""
    options = {"epsilon": rng.choice(EPSILONS)}
    options["momentum"] = rng.choice((*MOMENTA, None))
    if options["momentum"] not in (None, 1.0) and debias:
        options["debias"] = rng.random() < 0.4
    options["unbiased"] = rng.random() < 0.5
    return options


def affine(rng: Random):
    """Returns options of scale and bias, mostly none."""
    return rng.choice(
        ({}, {}, {}, {"use_scale": False}, {"use_bias": False},
         {"use_scale": False, "use_bias": False})
    )  # fmt: skip


def batch_norm(rng: Random, shape, axis, *, inside=False):
    """Draws batch norm."""
    options, also = averaging(rng), affine(rng)
    if rng.random() < 0.2:
        also["custom_derivative"] = False
    out = rng.choice((None,) * 10 + ("float32", "bfloat16"))
    if out:
        also["dtype"] = out
    if rng.random() < 0.15 and not inside:
        options["skip_nonfinite"] = False
    if axis != -1:
        options["axis"] = axis
    chosen = {**options, **also}
    return Drawn(
        said("batch_norm", chosen),
        make=functools.partial(jaxbn.batch_norm, **chosen),
        reference=functools.partial(oracle.bn_apply_devices, **options),
        gradient=functools.partial(oracle.bn_gradient_devices, **options),
        modules=chosen,
        axis=axis,
        epsilon=options["epsilon"],
        moving=options["momentum"] is not None,
        debias=options.get("debias", False),
        skips=options.get("skip_nonfinite", True),
        out=out,
    )


def switched_norm(rng: Random, shape, axis):
    """Draws batch norm that normalizes by, or absorbs, what `train` does not say."""
    row = batch_norm(rng, shape, axis, inside=True)
    switches = rng.choice(
        ({"use_running_average": True}, {"update_stats": False},
         {"use_running_average": False}, {"update_stats": True},
         {"use_running_average": True, "update_stats": True},
         {"use_running_average": False, "update_stats": False})
    )  # fmt: skip
    chosen = {**row.make.keywords, **switches}
    return Drawn(
        said("batch_norm", chosen),
        make=functools.partial(jaxbn.batch_norm, **chosen),
        reference=functools.partial(row.reference, **switches),
        axis=axis,
        epsilon=row.epsilon,
        laws=SWITCHED,
        out=row.out,
        moving=row.moving,
        debias=row.debias,
    )


def ghost_norm(rng: Random, shape, axis, *, inside=False):
    """Draws batch norm of ghost batches, by any of the three ways to say so."""
    examples = examples_of(shape, axis)
    if not examples:
        return None
    plain = batch_norm(rng, shape, axis, inside=True)
    options = plain.make.keywords
    how = rng.choice(("size", "num_groups", "normalization_batch_size"))
    number = rng.randint(1, examples + 1)
    if how == "normalization_batch_size":
        number = rng.choice([n for n in range(1, examples + 1) if examples % n == 0])
    chosen = {how: number, **options}
    factory = jaxbn.batch_norm if how.startswith("normal") else jaxbn.ghost_norm
    name = "batch_norm" if how.startswith("normal") else "ghost_norm"
    cut = functools.partial(runs, number, by_size=how != "num_groups")
    return Drawn(
        said(name, chosen),
        make=functools.partial(factory, **chosen),
        reference=references.ghosts(plain.reference, cut, axis),
        axis=axis,
        epsilon=plain.epsilon,
        laws=EVERY - BY_PLACE,
        out=plain.out,
        moving=plain.moving,
        debias=plain.debias,
    )


def runs(number, n, *, by_size):
    if not by_size:
        return [len(part) for part in np.array_split(range(n), min(number, n))]
    return [number] * (n // number) + [n % number] * (n % number > 0)


def batch_renorm(rng: Random, shape, axis, *, inside=False):
    """Draws batch renormalization."""
    start = rng.choice((0, 0, 1))
    limits = {
        "r_max": rng.choice((1.0, 1.2, 3.0, 10.0)),
        "d_max": rng.choice((0.0, 0.5, 5.0)),
        "warmup_steps": start,
        "r_steps": start + rng.choice((0, 1, 2)),
        "d_steps": start + rng.choice((0, 1, 3)),
    }
    options = {"momentum": rng.choice((0.0, 0.5, 0.9)), "epsilon": rng.choice(EPSILONS)}
    where = {} if axis == -1 else {"axis": axis}
    size, examples, laws = {}, examples_of(shape, axis), EVERY - {Law.AFFINE}
    reference = functools.partial(variants.renorm, **options, **limits)
    reference = references.on_last_axis(reference, axis)
    if examples and not inside and rng.random() < 0.3:
        divisors = [n for n in range(1, examples + 1) if examples % n == 0]
        size = {"normalization_batch_size": rng.choice(divisors)}
        laws -= BY_PLACE
        cut = functools.partial(runs, *size.values(), by_size=True)
        reference = references.ghosts(reference, cut, axis)
    chosen = {**limits, **options, **where, **size}
    return Drawn(
        said("batch_renorm", chosen),
        make=functools.partial(jaxbn.batch_renorm, **chosen),
        reference=reference,
        axis=axis,
        epsilon=options["epsilon"],
        laws=laws,
        debias=True,
        smooth=False,
    )


def adaptive_norm(rng: Random, shape, axis, *, inside=False):
    """Draws adaptive norm."""
    mixing = {
        "prior_count": rng.choice((0.0, 0.5, 3.0, 16.0, float("inf"))),
        "adapt_mean": rng.random() < 0.75,
        "adapt_var": rng.random() < 0.75,
    }
    options, stream = averaging(rng), {}
    if rng.random() < 0.3:  # Of no meaning without `update_stats`.
        stream["stream_momentum"] = rng.choice(MOMENTA)
    reference = references.mixed(
        functools.partial(oracle.bn_apply_devices, **options),
        **mixing,
        epsilon=options["epsilon"],
    )
    where = {} if axis == -1 else {"axis": axis}
    chosen = {**mixing, **options, **stream, **where}
    return Drawn(
        said("adaptive_norm", chosen),
        make=functools.partial(jaxbn.adaptive_norm, **chosen),
        reference=references.on_last_axis(reference, axis),
        axis=axis,
        epsilon=options["epsilon"],
        debias=options.get("debias", False),
    )


def frozen_norm(rng: Random, shape, axis, *, inside=False):
    """Draws frozen norm."""
    chosen = {
        "constant_affine": rng.random() < 0.4,
        "fold": rng.random() < 0.5,
        "epsilon": rng.choice((1e-5, 1e-3)),
        **affine(rng),
    }
    where = {} if axis == -1 else {"axis": axis}
    return Drawn(
        said("frozen_norm", {**chosen, **where}),
        make=functools.partial(_started, jaxbn.frozen_norm, **chosen, **where),
        reference=references.held(
            functools.partial(
                oracle.bn_apply_devices, axis=axis, epsilon=chosen["epsilon"]
            )
        ),
        axis=axis,
        epsilon=chosen["epsilon"],
        laws=EVERY - {*OF_BATCHES, Law.DEVICES},
        folded=chosen["fold"],
    )


def _started(factory, **options):
    """Returns the norm of options that are left where no axis is named."""
    named = ("axis_name", "axis_index_groups")
    return factory(**{k: v for k, v in options.items() if k not in named})


def baseline(rng: Random, shape, axis, *, inside=False):
    """Draws group, instance, layer or no norm."""
    if isinstance(axis, tuple) or len(shape) == 1:
        return None
    channels = shape[axis]
    epsilon = rng.choice((1e-5, 1e-3))
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    kind = rng.choice(("group_norm", "instance_norm", "layer_norm", "no_norm"))
    chosen = {"epsilon": epsilon, **affine(rng)}
    over, laws = None, STATELESS
    if kind == "group_norm":
        chosen["num_groups"] = rng.choice(divisors)
        over = variants.by_group(chosen["num_groups"])
    elif kind == "instance_norm":
        over, laws = variants.by_group(None), STATELESS | {Law.CHANNELS}
    elif kind == "layer_norm":
        chosen["over_positions"] = rng.random() < 0.4
        over = (
            variants.by_group(1) if chosen["over_positions"] else variants.by_position
        )
    else:
        chosen = {"use_scale": rng.random() < 0.5, "use_bias": rng.random() < 0.5}
        laws = STATELESS | {Law.CHANNELS}
    reference = references.untouched(axis)
    if over is not None:
        reference = _with_epsilon(over, epsilon)
        reference = references.on_last_axis(reference, axis)
    where = {} if axis == -1 else {"axis": axis}
    return Drawn(
        said(kind, {**chosen, **where}),
        make=functools.partial(_started, getattr(jaxbn, kind), **chosen, **where),
        reference=reference,
        axis=axis,
        epsilon=epsilon,
        laws=laws,
        across=True,
    )


def _with_epsilon(over, epsilon):
    """Returns `each_example` with another epsilon: of data so much smaller or larger.

    (x - mean) / sqrt(var + e) is that of x c over sqrt(c^2 var + 1e-5), c^2 = 1e-5 / e.
    """
    c = np.sqrt(1e-5 / epsilon)
    plain = variants.each_example(over)

    def apply(params, states, xs, train, *, masks=None, groups=None, **_):
        xs = [c * oracle.wide(x) for x in xs]
        return plain(params, states, xs, train, masks=masks, groups=groups)

    return apply
