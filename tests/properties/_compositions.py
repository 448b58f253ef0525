"""Norms put around norms: domains, splits and shuffles of any kind that is drawn."""

from random import Random

import numpy as np
from catalog import BY_PLACE, Law

import jaxbn
from tests.properties import _references as references
from tests.properties._norms import (
    Drawn,
    adaptive_norm,
    baseline,
    batch_norm,
    batch_renorm,
    examples_of,
    frozen_norm,
    ghost_norm,
    said,
    switched_norm,
)


def domain_norm(rng: Random, shape, axis, *, inside=False, kinds=None):
    """Draws domain norm of another norm."""
    if examples_of(shape, axis) is None:
        return None
    kinds = kinds or (batch_norm, batch_norm, batch_renorm, ghost_norm, adaptive_norm,
                      frozen_norm, baseline)  # fmt: skip
    inner = rng.choice(kinds)(rng, shape, axis, inside=True)
    if inner is None:
        return None
    count, own = rng.choice((1, 2, 3)), rng.random() < 0.4
    sharing = {"affine": "per_domain"} if own else {}
    reference = inner.reference
    if reference is not None:
        reference = references.domains(reference, count, axis, own)
    return _around(
        inner,
        f"domain_norm({count}, {inner.name}{', own affine' if own else ''})",
        lambda **options: jaxbn.domain_norm(count, inner.make(**options), **sharing),
        reference,
        inner.laws,
        domains=count,
    )


def split_norm(rng: Random, shape, axis, *, inside=False):
    """Draws split norm of another norm."""
    examples = examples_of(shape, axis)
    splits = [n for n in (2, 3) if examples and examples % n == 0]
    if not splits:
        return None
    kinds = (batch_norm, batch_norm, batch_renorm, ghost_norm, adaptive_norm)
    inner = rng.choice(kinds)(rng, shape, axis, inside=True)
    number, own = rng.choice(splits), rng.random() < 0.5
    sharing = {"num_splits": number, "affine": "per_domain" if own else "shared"}
    reference = inner.reference
    if reference is not None:
        reference = references.domains(reference, number, axis, own)
        reference = references.splits(reference, number, axis)
    return _around(
        inner,
        said("split_norm", {"of": inner.name, **sharing}),
        lambda **options: jaxbn.split_norm(inner.make(**options), **sharing),
        reference,
        inner.laws - (BY_PLACE - {Law.DEVICES}),
    )


def shuffled(rng: Random, shape, axis, *, inside=False):
    """Draws another norm, shuffled."""
    first = [a for a in np.atleast_1d(axis) if a % len(shape) == 0]
    if first or len(shape) < 2:
        return None
    kinds = (batch_norm, batch_renorm, ghost_norm, adaptive_norm, split_norm,
             domain_norm, baseline)  # fmt: skip
    inner = rng.choice(kinds)(rng, shape, axis, inside=True)
    if inner is None:
        return None
    seed, reference = rng.randint(0, 3), None
    laws = inner.laws
    if Law.PERMUTING in laws and inner.reference is not None:
        reference = references.shuffles(inner.reference)
    else:
        laws = laws - {Law.ORACLE, Law.OFFSET}
    return _around(
        inner,
        f"shuffled({inner.name}, seed={seed})",
        lambda **options: jaxbn.shuffled(
            inner.make(**options), axis_name=options.get("axis_name"), seed=seed
        ),
        reference,
        laws,
        shuffled=True,
    )


def _around(inner, name, make, reference, laws, **more):
    """Returns the row of a norm that `make` puts around that of `inner`."""
    kept = ("epsilon", "moving", "debias", "skips", "across", "folded", "smooth")
    kept += ("domains", "out")
    known = {key: getattr(inner, key) for key in kept}
    return Drawn(
        name, make=make, reference=reference, laws=laws, axis=inner.axis,
        **{**known, **more},
    )  # fmt: skip


KINDS = (
    batch_norm,
    batch_norm,
    ghost_norm,
    domain_norm,
    batch_renorm,
    adaptive_norm,
    split_norm,
    shuffled,
    frozen_norm,
    baseline,
    switched_norm,
)
