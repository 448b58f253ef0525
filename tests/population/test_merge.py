"""Pooled statistics are those of all examples together."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn import batch_norm, bn_apply, bn_init
from jaxbn.diagnostics import find_collectives
from jaxbn.population import merge_batch_stats


@pytest.mark.parametrize("sizes", [(7, 7, 7), (1, 20, 3), (5, 0, 9)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_pooled_equals_numpy_on_everything(sizes, offset):
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(n, 4, 3)) + offset).astype(np.float32) for n in sizes]
    params, state = bn_init(3)
    each = [bn_apply(params, state, x, True, momentum=0.0)[1] for x in parts]
    stacked = {"net": {"bn": jax.tree.map(lambda *s: jnp.stack(s), *each)}}
    pooled = merge_batch_stats(stacked, jnp.array(sizes))["net"]["bn"]
    everything = np.concatenate(parts).astype(np.float64)
    mean, var = everything.mean((0, 1)), everything.var((0, 1))
    np.testing.assert_allclose(pooled["mean"], mean, rtol=2e-7, atol=1e-6)
    # Stored means have 1e-3 of room at 1e4: the batches' means are rounded there.
    tolerance = 1e-5 if offset == 0 else 1e-3
    np.testing.assert_allclose(pooled["var"], var, rtol=tolerance)


def test_other_entries_are_those_of_the_last_batch():
    norm = batch_norm(debias=True)
    params, state = norm.init(2)
    states = []
    for i in range(3):
        x = jnp.array([[0.0, 1.0], [2.0, 5.0]]) + i
        _, state = norm.apply(params, state, x, True)
        states.append(state)
    stacked = jax.tree.map(lambda *s: jnp.stack(s), *states)
    pooled = merge_batch_stats({"bn": stacked, "other": jnp.arange(3.0)}, jnp.ones(3))
    assert pooled["bn"].keys() == state.keys()
    np.testing.assert_array_equal(pooled["bn"]["count"], 3)
    assert pooled["other"] == 2


def test_what_is_not_statistics_is_refused():
    words = r"'bn' of batch_stats has \['mean'\], expected 'mean' and 'var'"
    with pytest.raises(ValueError, match=words):
        merge_batch_stats({"bn": {"mean": jnp.zeros((2, 1))}})
    layers = {n: {"mean": jnp.zeros(n), "var": jnp.zeros(n)} for n in (2, 3)}
    with pytest.raises(ValueError, match="expected all alike; give every array a lead"):
        merge_batch_stats(layers)


@pytest.mark.parametrize("counts", [[1, 2], [[1], [1], [1]]])
def test_counts_that_are_not_one_a_replica_are_refused(counts):
    stats = {"bn": {"mean": jnp.zeros((3, 2)), "var": jnp.ones((3, 2))}}
    with pytest.raises(ValueError, match=r"expected \(3,\), one a replica; pass how"):
        merge_batch_stats(stats, counts)


def test_shapes_that_do_not_fit_are_refused():
    stats = {"bn": {"mean": jnp.zeros((3, 2)), "var": jnp.ones((3, 4))}}
    with pytest.raises(ValueError, match=r"'bn' .* and var \(3, 4\), expected one"):
        merge_batch_stats(stats)
    stats = {"bn": {"mean": jnp.zeros((3, 2)), "var": jnp.ones((3, 2))}, "step": 3}
    with pytest.raises(ValueError, match="expected all alike; give every array a lead"):
        merge_batch_stats(stats)


def test_where_nothing_was_counted_a_layer_is_as_new():
    stats = {"bn": {"mean": jnp.full((3, 2), 7.0), "var": jnp.full((3, 2), jnp.nan)}}
    merged = merge_batch_stats(stats, [0, 0, 0])["bn"]
    np.testing.assert_array_equal(merged["mean"], 0)
    np.testing.assert_array_equal(merged["var"], 1)


DEVICES = 8
MAPPED = ("pmap", "vmap", "typed shard_map", "untyped shard_map", "jit")


def replicas():
    """Statistics of two layers on eight devices that have seen different numbers."""
    rng = np.random.default_rng(0)

    def layer(shape, dtype):
        mean = rng.normal(size=(DEVICES, *shape)) + 1e4
        var = rng.uniform(1, 2, (DEVICES, *shape))
        return {"mean": mean.astype(dtype), "var": var.astype("float32")}

    tree = {"a": layer((3,), "float32"), "b": {"c": layer((2, 2), "float32")}}
    return tree, np.array([3, 0, 1, 5, 2, 2, 2, 9], np.float32)


def by_hand(layer, counts):
    weights = counts.reshape(-1, *(1,) * (layer["mean"].ndim - 1)) / counts.sum()
    mean = (weights * layer["mean"].astype(np.float64)).sum(0)
    var = (weights * (layer["var"] + (layer["mean"] - mean) ** 2)).sum(0)
    return {"mean": mean, "var": var}


@pytest.mark.parametrize("how", MAPPED)
def test_replicas_merge_in_one_collective(how, mesh):
    tree, counts = replicas()

    def merge(tree, counts):
        return merge_batch_stats(tree, counts, axis_name="devices")

    def local(tree, counts):
        tree, counts = jax.tree.map(lambda a: a[0], (tree, counts))
        return merge(tree, counts)

    if how in ("pmap", "vmap"):
        mapped = {"pmap": jax.pmap, "vmap": jax.vmap}[how](merge, axis_name="devices")
        function = mapped if how == "pmap" else jax.jit(mapped)
    elif how == "jit":
        sharding = NamedSharding(mesh, P("devices"))
        tree, counts = jax.device_put((tree, counts), sharding)
        function = jax.jit(merge)
    else:
        typed = how == "typed shard_map"
        specs = {"in_specs": P("devices"), "out_specs": P()}
        function = jax.jit(jax.shard_map(local, mesh=mesh, **specs, check_vma=typed))
    with jax.set_mesh(mesh) if how == "jit" else contextlib.nullcontext():
        program = function.lower(tree, counts).compile()
        merged = function(tree, counts)
    if how != "vmap":
        assert len(find_collectives(program)) == 1
    for found, layer in ((merged["a"], tree["a"]), (merged["b"]["c"], tree["b"]["c"])):
        expected = by_hand(jax.tree.map(np.asarray, layer), np.asarray(counts))
        for key in expected:
            value = found[key][3] if how in ("pmap", "vmap") else found[key]
            np.testing.assert_allclose(value, expected[key], rtol=1e-6)


def test_replicas_over_axes_of_both_kinds(mesh):
    mean = np.random.default_rng(0).normal(size=(3, DEVICES, 2)).astype(np.float32)

    def merge(mean):
        stats = {"bn": {"mean": mean, "var": jnp.ones_like(mean)}}
        return merge_batch_stats(stats, axis_name=("lanes", "devices"))["bn"]

    with jax.set_mesh(mesh):
        merged = jax.jit(jax.vmap(merge, axis_name="lanes"))(mean)
    assert merged["mean"].shape == (3, 2)
    for lane in range(3):
        np.testing.assert_allclose(merged["mean"][lane], mean.mean((0, 1)), atol=1e-6)
        np.testing.assert_allclose(merged["var"][lane], 1 + mean.var((0, 1)), rtol=1e-6)


def test_averaging_the_variances_would_lose_what_lies_between():
    stats = {"bn": {"mean": jnp.array([[0.0], [4.0]]), "var": jnp.ones((2, 1))}}
    assert merge_batch_stats(stats)["bn"]["var"] == 5.0


def test_an_nnx_state_is_merged_as_it_is():
    layers = [nnx.BatchNorm(2, rngs=nnx.Rngs(0)) for _ in range(3)]
    for i, layer in enumerate(layers):
        layer.mean[...] = jnp.full(2, float(i))
    states = [nnx.state(layer, nnx.BatchStat) for layer in layers]
    merged = merge_batch_stats(jax.tree.map(lambda *s: jnp.stack(s), *states))
    nnx.update(layers[0], merged)
    np.testing.assert_allclose(layers[0].mean[...], 1.0)
    np.testing.assert_allclose(layers[0].var[...], 1 + 2 / 3, rtol=1e-6)
