"""Axes of devices: several at once, of two kinds, as a mesh or as lanes of vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxbn import batch_moments, bn_apply, bn_init, reduce_moments

PARAMS, STATE = bn_init(3)
X = jnp.asarray(np.random.default_rng(0).normal(5, 2, (16, 3)), jnp.float32)
WHOLE, _ = bn_apply(PARAMS, STATE, X, True)


def layer(names):
    return lambda x: bn_apply(PARAMS, STATE, x, True, axis_name=names)[0]


@pytest.mark.parametrize("check_vma", [False, True])
def test_two_axes_of_a_mesh(check_vma):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("hosts", "chips"))
    spec = P(("hosts", "chips"))
    mapped = jax.jit(
        jax.shard_map(
            layer(("hosts", "chips")),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=check_vma,
        )
    )
    np.testing.assert_allclose(mapped(X), WHOLE, atol=1e-6)
    text = mapped.lower(X).compile().as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1


def test_one_axis_of_a_mesh_normalizes_its_rows():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("hosts", "chips"))
    spec = P(("hosts", "chips"))
    y = jax.shard_map(layer("chips"), mesh=mesh, in_specs=spec, out_specs=spec)(X)
    for half in (slice(0, 8), slice(8, 16)):
        alone, _ = bn_apply(PARAMS, STATE, X[half], True)
        np.testing.assert_allclose(y[half], alone, atol=1e-6)


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_mesh_axis_and_lanes_of_vmap_together(check_vma):
    mesh = Mesh(np.array(jax.devices()[:4]), ("devices",))
    lanes = jax.vmap(layer(("devices", "lanes")), axis_name="lanes")
    spec = P(None, "devices")
    mapped = jax.shard_map(
        lanes, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma
    )
    np.testing.assert_allclose(
        mapped(X.reshape(2, 8, 3)).reshape(16, 3), WHOLE, atol=1e-6
    )
    grad = jax.grad(lambda x: (mapped(x) ** 3).sum())(X.reshape(2, 8, 3))
    alone = jax.grad(lambda x: (bn_apply(PARAMS, STATE, x, True)[0] ** 3).sum())(X)
    np.testing.assert_allclose(grad.reshape(16, 3), alone, atol=1e-5)


def test_pooled_statistics_are_typed_as_equal_on_all_devices():
    mesh = Mesh(np.array(jax.devices()[:8]), ("devices",))

    def pooled(x):
        return reduce_moments(batch_moments(x), "devices")

    moments = jax.shard_map(pooled, mesh=mesh, in_specs=P("devices"), out_specs=P())(X)
    np.testing.assert_allclose(moments.mean, X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.var, X.var(0), rtol=1e-6)
