"""Collected moments by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbn.population import collect_moments

X = jnp.asarray(np.random.default_rng(0).normal(3, 2, (6, 4)), jnp.float32)


def test_no_gradient_flows_through_collected_moments():
    model = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)])
    variables = model.init(jax.random.key(0), X)
    run = collect_moments(model)

    def loss(params, x):
        y, moments = run({**variables, "params": params}, x)
        (collected,) = moments.values()
        return jnp.sum(collected.mean**2) + jnp.sum(collected.var), y

    slopes, _ = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], X)
    jax.tree.map(lambda a: np.testing.assert_array_equal(a, 0), slopes)


def test_a_layer_that_evaluates_has_no_moments():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True, name="frozen")(x)
            return nn.BatchNorm(use_running_average=False, name="trained")(x)

    model = Net()
    variables = model.init(jax.random.key(0), X)
    _, moments = collect_moments(model)(variables, X)
    assert list(moments) == ["trained"]
