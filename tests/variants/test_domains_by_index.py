"""Domains by an index an example: empty batches, complex data, states of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxbn
from jaxbn.core import Moments, update_running

DOMAIN = jnp.array([0, 1, 0, 1, 1, 1, 0, 0])
RNG = np.random.default_rng(0)


def complex_data(*shape):
    real, imaginary = RNG.normal(size=(2, *shape)).astype(np.float32)
    return jnp.asarray(real + 1j * imaginary)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("inner", [jaxbn.batch_norm, jaxbn.batch_renorm])
def test_an_empty_batch_of_domains_keeps_the_states(inner, train):
    norm = jaxbn.domain_norm(2, inner())
    params, state = norm.init(3)
    x = jnp.zeros((0, 5, 3), jnp.bfloat16)
    y, new = norm.apply(params, state, x, train, domain=jnp.zeros(0, jnp.int32))
    assert y.shape == x.shape and y.dtype == x.dtype
    jax.tree.map(np.testing.assert_array_equal, new, state)


@pytest.mark.parametrize("shape", [(8, 5, 3), (8, 3)])
@pytest.mark.parametrize("options", [{}, {"param_dtype": jnp.complex64}])
def test_complex_data_by_domain_is_that_of_two_masked_norms(shape, options):
    inner = jaxbn.batch_norm(dtype=jnp.complex64, **options)
    norm = jaxbn.domain_norm(2, inner)
    (params, state), (_, alone) = norm.init(3), inner.init(3)
    x, cotangent = complex_data(*shape), complex_data(*shape)

    def by_domain(params, x):
        return norm.apply(params, state, x, True, domain=DOMAIN)

    def by_mask(params, x):
        masks = [(k == DOMAIN).reshape(-1, *[1] * (x.ndim - 2)) for k in range(2)]
        each = [inner.apply(params, alone, x, True, mask=m) for m in masks]
        stacked = {k: jnp.stack([new[k] for _, new in each]) for k in alone}
        return each[0][0] + each[1][0], stacked

    found, expected = by_domain(params, x), by_mask(params, x)
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, 2e-6), found, expected)
    slopes, theirs = (
        jax.grad(lambda p, x, f=f: jnp.sum(f(p, x)[0] * cotangent).real, (0, 1))(
            params, x
        )
        for f in (by_domain, by_mask)
    )
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-5), slopes, theirs)


@pytest.mark.parametrize("affine", ["shared", "per_domain"])
@pytest.mark.parametrize("train", [True, False])
def test_as_many_features_as_there_are_groups(affine, train):
    inner = jaxbn.batch_norm(axis=(-2, -1), momentum=0.0)
    norm = jaxbn.domain_norm(2, inner, affine=affine)  # And one of the unseen: 3.
    params, state = norm.init((3, 4))
    params = {k: v + jnp.arange(v.size).reshape(v.shape) for k, v in params.items()}
    x = jnp.asarray(RNG.normal(size=(8, 3, 4)), jnp.float32)
    with jax.numpy_rank_promotion("raise"):
        y, _ = norm.apply(params, state, x, train, domain=DOMAIN)
    for d in range(2):
        here = {k: v[d] if affine == "per_domain" else v for k, v in params.items()}
        given = here, {k: v[d] for k, v in state.items()}, x[d == DOMAIN], train
        expected, _ = inner.apply(*given)
        oracle.assert_close(y[d == DOMAIN], expected, 1e-6)


def test_parameters_of_more_digits_than_the_data(x64):
    with x64():
        inner = jaxbn.batch_norm(param_dtype=jnp.float64)
        norm = jaxbn.domain_norm(2, inner)
        params, state = norm.init(3)
        x = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
        y, new = norm.apply(params, state, x, True, domain=DOMAIN)
        for k in range(2):
            here = np.asarray(DOMAIN) == k
            _, alone = inner.init(3)
            expected, after = inner.apply(params, alone, x[here], True)
            oracle.assert_close(np.asarray(y)[here], expected, 2e-6)
            oracle.assert_close(new["var"][k], after["var"], 1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_one_group_is_plain_batch_norm(train):
    params, state = jaxbn.bn_init(3)
    x = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
    rows = {key: value[None] for key, value in state.items()}
    index = jnp.zeros(8, jnp.int32)
    y, new = jaxbn.bn_apply(params, rows, x, train, group_index=index)
    expected, after = jaxbn.bn_apply(params, state, x, train)
    oracle.assert_close(y, expected, 2e-6)
    for key in after:
        oracle.assert_close(new[key], after[key][None], 1e-6)
    with pytest.raises(ValueError, match=r"state\['mean'\] has shape \(1, 3\)"):
        jaxbn.bn_apply(params, rows, x, train)


def test_a_state_of_numpy_arrays_is_taken():
    norm = jaxbn.domain_norm(2, jaxbn.batch_norm())
    params, state = norm.init(3)
    x = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
    for domain in (1, DOMAIN):
        wanted = norm.apply(params, state, x, True, domain=domain)
        restored = jax.tree.map(np.asarray, state)
        found = norm.apply(params, restored, x, True, domain=domain)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_traced_momentum_has_the_digits_of_the_state(x64):
    with x64():
        state = {"mean": jnp.ones(1), "var": jnp.ones(1)}
        one = jnp.ones(1)
        batch = Moments(one, one, 0 * one, one)  # What the state is already.
        new = jax.jit(lambda m: update_running(state, batch, momentum=m))(
            jnp.float32(0.9)
        )
        np.testing.assert_allclose(new["mean"], 1.0, rtol=0, atol=1e-15)
