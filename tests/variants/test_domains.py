"""Domains by an index of each example: one pass where there can be, exact elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(3, 2, (8, 3, 4)), jnp.float32)
DOMAIN = jnp.array([0, 1, 1, 0, 2, 0, 1, 0])


@pytest.mark.parametrize("make", [jaxbn.batch_norm, jaxbn.batch_renorm])
def test_the_program_does_not_grow_with_the_domains(make):
    def size(num_domains):
        norm = jaxbn.domain_norm(num_domains, make())
        params, state = norm.init(4)
        step = jax.make_jaxpr(
            lambda x: norm.apply(params, state, x, True, domain=DOMAIN)
        )
        return len(step(X).eqns)

    assert size(3) == size(30)


def test_domains_of_ghost_batches_are_those_of_masks():
    """Where a size makes groups already an index cannot, and masks do it."""
    ghosts = jaxbn.batch_norm(normalization_batch_size=4, momentum=0.5)
    norm = jaxbn.domain_norm(3, ghosts)
    params, state = norm.init(4)
    y, new = norm.apply(params, state, X, True, domain=DOMAIN)
    total = 0
    for d in range(3):
        mine = {key: value[d] for key, value in state.items()}
        part, moved = ghosts.apply(params, mine, X, True, mask=domain_mask(d))
        total = total + part
        for key in moved:
            np.testing.assert_allclose(new[key][d], moved[key], rtol=1e-6)
    np.testing.assert_allclose(y, total, rtol=1e-5, atol=1e-6)


def domain_mask(d):
    return jnp.broadcast_to((d == DOMAIN)[:, None], X.shape[:2])


@pytest.mark.parametrize("shape", [(64, 4), (64, 5, 4)], ids=["rows", "images"])
@pytest.mark.parametrize("masked", [False, True])
def test_domains_far_from_0_and_from_each_other_keep_their_digits(shape, masked):
    rng = np.random.default_rng(1)
    domain = rng.integers(0, 3, 64)
    places = np.array([1e4, -2e4, 3.0]).reshape(3, *[1] * (len(shape) - 1))
    x = (rng.normal(size=shape) + places[domain]).astype(np.float32)
    mask = rng.random(shape[:-1]) < 0.7 if masked else np.ones(shape[:-1], bool)
    norm = jaxbn.domain_norm(3, jaxbn.batch_norm(momentum=0.0))
    params, state = norm.init(4)
    y, new = norm.apply(
        params,
        state,
        x,
        True,
        domain=jnp.asarray(domain),
        mask=mask if masked else None,
    )
    for d in range(3):
        inside = mask & (domain == d).reshape(-1, *[1] * (len(shape) - 2))
        rows = x[inside].astype(np.float64)
        np.testing.assert_allclose(new["var"][d], rows.var(0), rtol=1e-5)
        expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        np.testing.assert_allclose(np.asarray(y)[inside], expected, atol=1e-4)
