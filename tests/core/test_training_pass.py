"""The written derivative, where derivatives of it are taken in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from jaxbn import bn_apply, bn_init


@pytest.mark.parametrize("nothing", ["a channel", "a group"])
def test_a_gradient_penalty_is_finite_where_nothing_was_counted(nothing):
    """The slope of a slope divides by the total a second time."""
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (6, 3)), jnp.float32)
    params, state = bn_init(3)
    mask, how = jnp.ones(x.shape, bool), {}
    if nothing == "a channel":
        mask = mask.at[:, 1].set(False)
    else:
        mask, how = mask.at[2:4].set(False), {"normalization_batch_size": 2}

    def penalty(params, x, **options):
        def loss(x):
            y, _ = bn_apply(params, state, x, True, mask=mask, **how, **options)
            return jnp.sum(y**3)

        return jnp.sum(jax.grad(loss)(x) ** 2)

    found = jax.grad(penalty, argnums=(0, 1))(params, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    if nothing == "a channel":
        plain = jax.grad(
            lambda params, x: penalty(params, x, custom_derivative=False), (0, 1)
        )(params, x)
        jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-4), found, plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tangents_are_typed_as_what_they_are_tangents_of(dtype):
    """A weakly typed one would take the dtype of what it is added to."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), dtype)
    params, state = bn_init(3)

    def f(params, x):
        return bn_apply(params, state, x, True)

    out, tangent = jax.jvp(f, (params, x), (params, x))
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(tangent), strict=True):
        assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type) and not a.weak_type
