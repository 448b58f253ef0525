"""Where nothing is counted, or hardly anything, in one variant or the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn

X = jnp.asarray(np.random.default_rng(0).normal(3, 2, (6, 4)), jnp.float32)


@pytest.mark.parametrize("prior", [0.0, 4.0])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_parameters_of_a_masked_channel_have_no_gradient(prior, train):
    norm = jaxbn.adaptive_norm(prior_count=prior)
    params, state = norm.init(4)
    mask = jnp.ones(X.shape, bool).at[:, 1].set(False)

    def loss(params, x):
        return jnp.sum(norm.apply(params, state, x, train, mask=mask)[0] ** 3)

    dparams, dx = jax.grad(loss, argnums=(0, 1))(params, X)
    for leaf in (*dparams.values(), dx):
        assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(np.moveaxis(leaf, -1, 0)[1], 0)
    assert np.abs(dparams["scale"][0]) > 0


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(0, 4), (0, 3, 4)])
def test_domains_of_no_example_keep_their_states(train, shape):
    norm = jaxbn.domain_norm(2, jaxbn.batch_norm())
    params, state = norm.init(4)
    domain = jnp.zeros(0, int)
    y, new = norm.apply(params, state, jnp.zeros(shape), train, domain=domain)
    assert y.shape == shape
    jax.tree.map(np.testing.assert_array_equal, new, state)


def test_what_has_no_examples_cannot_be_split():
    norm = jaxbn.split_norm(jaxbn.batch_norm(axis=0))
    params, state = norm.init(4)
    with pytest.raises(ValueError, match="x has 1 examples, expected a multiple of"):
        norm.apply(params, state, X[0], True)


@pytest.mark.parametrize("steps", [{"warmup_steps": -1}, {"warmup_steps": -0.5}])
def test_a_warm_up_of_less_than_no_step_is_refused(steps):
    with pytest.raises(ValueError, match=r"^warmup_steps is -"):
        jaxbn.batch_renorm(**steps)


@pytest.mark.parametrize("shape", [(0, 4, 3, 4), (2, 0, 3, 4), (2, 4, 0, 4)])
@pytest.mark.parametrize("by", ["example", "element"])
@pytest.mark.parametrize(
    "make",
    [
        jaxbn.layer_norm,
        functools.partial(jaxbn.layer_norm, over_positions=True),
        functools.partial(jaxbn.group_norm, num_groups=2),
        jaxbn.instance_norm,
        jaxbn.batch_norm,
    ],
)
def test_arrays_without_elements_have_a_mask_and_a_gradient(make, by, shape):
    norm, mask = make(), jnp.ones(shape if by == "element" else shape[:1], bool)
    mask = mask.reshape(shape if by == "element" else (-1, 1, 1))
    params, state = norm.init(4)

    def total(x):
        y, new = norm.apply(params, state, x, True, mask=mask)
        return y.sum(), (y, new)

    (_, (y, new)), slope = jax.value_and_grad(total, has_aux=True)(jnp.ones(shape))
    assert y.shape == slope.shape == shape
    jax.tree.map(np.testing.assert_array_equal, new, state)
