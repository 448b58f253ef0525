"""Collected moments by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbn import batch_moments
from jaxbn.population import collect_moments, pool_collected

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


def test_layers_of_several_shapes_are_pooled_together():
    """One collective for all; each layer gets its own moments back."""
    rng = np.random.default_rng(1)
    parts = {"a": (3,), "b": (2, 2), "c": (1,)}
    xs = {path: rng.normal(2, 1, (2, 5, *shape)) for path, shape in parts.items()}

    def of_device(xs):
        moments = {
            path: batch_moments(x, axis=tuple(range(1, x.ndim)))
            for path, x in xs.items()
        }
        return pool_collected(moments, "d")

    xs = jax.tree.map(jnp.float32, xs)
    pooled = jax.vmap(of_device, axis_name="d")(xs)
    for path, shape in parts.items():
        whole = np.asarray(xs[path], np.float64).reshape(10, *shape)
        for field, expected in (("mean", whole.mean(0)), ("var", whole.var(0))):
            found = getattr(pooled[path], field)
            np.testing.assert_allclose(found[0], expected, rtol=1e-5)
            np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(pooled[path].total, 10)
