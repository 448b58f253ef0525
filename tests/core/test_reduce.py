"""Axes of devices: several at once, of two kinds, as a mesh or as lanes of vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxbn import batch_moments, bn_apply, bn_init, reduce_moments
from jaxbn.diagnostics import find_collectives

PARAMS, STATE = bn_init(3)
X = jnp.asarray(np.random.default_rng(0).normal(5, 2, (16, 3)), jnp.float32)
WHOLE, _ = bn_apply(PARAMS, STATE, X, True)


def layer(names):
    return lambda x: bn_apply(PARAMS, STATE, x, True, axis_name=names)[0]


@pytest.mark.usefixtures("eight_devices")
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
    assert len(find_collectives(mapped.lower(X).compile())) == 1


@pytest.mark.usefixtures("eight_devices")
def test_one_axis_of_a_mesh_normalizes_its_rows():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("hosts", "chips"))
    spec = P(("hosts", "chips"))
    rows = jax.shard_map(layer("chips"), mesh=mesh, in_specs=spec, out_specs=spec)
    y = jax.jit(rows)(X)
    for half in (slice(0, 8), slice(8, 16)):
        alone, _ = bn_apply(PARAMS, STATE, X[half], True)
        np.testing.assert_allclose(y[half], alone, atol=1e-6)


def mesh_and_lanes(check_vma):
    mesh = Mesh(np.array(jax.devices()[:4]), ("devices",))
    lanes = jax.vmap(layer(("devices", "lanes")), axis_name="lanes")
    spec = P(None, "devices")
    return jax.jit(
        jax.shard_map(
            lanes, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma
        )
    )


def test_a_mesh_axis_and_lanes_of_vmap_together():
    mapped, x = mesh_and_lanes(check_vma=False), X.reshape(2, 8, 3)
    np.testing.assert_allclose(mapped(x).reshape(16, 3), WHOLE, atol=1e-6)
    grad = jax.grad(lambda x: (mapped(x) ** 3).sum())(x)
    alone = jax.grad(lambda x: (bn_apply(PARAMS, STATE, x, True)[0] ** 3).sum())(X)
    np.testing.assert_allclose(grad.reshape(16, 3), alone, atol=1e-5)


def test_lanes_of_vmap_under_typed_shard_map_are_refused():
    with pytest.raises(ValueError, match=r"no collectives.*pass check_vma=False"):
        mesh_and_lanes(check_vma=True)(X.reshape(2, 8, 3))


def test_gradient_outside_of_compiled_lanes():
    # JAX traces a custom derivative after the lanes are gone; ours must not need them.
    lanes = jax.jit(jax.vmap(layer("lanes"), axis_name="lanes"))
    grad = jax.grad(lambda x: (lanes(x) ** 3).sum())(X.reshape(4, 4, 3))
    alone = jax.grad(lambda x: (bn_apply(PARAMS, STATE, x, True)[0] ** 3).sum())(X)
    np.testing.assert_allclose(grad.reshape(16, 3), alone, atol=1e-5)


def test_pooled_statistics_are_typed_as_equal_on_all_devices():
    mesh = Mesh(np.array(jax.devices()[:8]), ("devices",))

    def pooled(x):
        return reduce_moments(batch_moments(x), "devices")

    mapped = jax.shard_map(pooled, mesh=mesh, in_specs=P("devices"), out_specs=P())
    moments = jax.jit(mapped)(X)
    np.testing.assert_allclose(moments.mean, X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.var, X.var(0), rtol=1e-6)


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize("groups", [None, [[0, 1]]])
def test_the_gradient_of_one_group_of_all_devices(groups):
    """A group of all is typed as equal on all, as no groups are."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("devices",))

    def train(params, x):
        options = {"axis_name": "devices", "axis_index_groups": groups}
        return bn_apply(params, STATE, x, True, **options)[0]

    spec = P("devices")
    mapped = jax.shard_map(train, mesh=mesh, in_specs=(P(), spec), out_specs=spec)
    found, expected = (
        jax.grad(lambda params, f=f: jnp.sum(f(params, X) ** 3))(PARAMS)
        for f in (mapped, lambda params, x: bn_apply(params, STATE, x, True)[0])
    )
    for key in PARAMS:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-4)
