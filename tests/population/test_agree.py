"""Replicas that differ are found, and the first is named."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxbn.population import assert_replicas_agree


def test_equal_replicas_pass(mesh):
    tree = {"bn": {"mean": jnp.array([[1.0, jnp.nan]] * 3)}}
    assert_replicas_agree(tree, stacked=True)
    everywhere = jax.device_put(tree, jax.sharding.NamedSharding(mesh, P()))
    assert_replicas_agree(everywhere)
    split = jax.device_put(
        jnp.arange(8.0), jax.sharding.NamedSharding(mesh, P("devices"))
    )
    assert_replicas_agree({"split": split, "numpy": np.ones(2)})


def test_what_untyped_shard_map_calls_replicated_is_found_out(mesh):
    def local(x):
        return {"a": {"mean": x.sum() * 0}, "b": {"var": x.sum(), "mean": x.sum() * 2}}

    different = jax.shard_map(
        local, mesh=mesh, in_specs=P("devices"), out_specs=P(), check_vma=False
    )
    tree = jax.jit(different)(jnp.arange(8.0))
    assert tree["b"]["var"].is_fully_replicated
    words = "b/mean differs between replicas 0 and 1, by up to 2"
    with pytest.raises(AssertionError, match=words):
        assert_replicas_agree(tree)


def test_the_first_that_differs_is_named():
    var = np.ones((4, 2))
    var[2, 1] = 1.25
    tree = {"a": {"mean": np.zeros((4, 2))}, "b": {"c": {"var": var}}}
    with pytest.raises(AssertionError, match=r"b/c/var .* 0 and 2, by up to 0.25"):
        assert_replicas_agree(tree, stacked=True)
    with pytest.raises(ValueError, match="step is a scalar, expected a leading axis"):
        assert_replicas_agree({"step": np.float32(0)}, stacked=True)


def test_keys_and_complex_numbers_are_compared():
    keys = jax.random.split(jax.random.key(0), 2)
    assert_replicas_agree({"key": jax.random.key(0), "step": 3})
    assert_replicas_agree({"key": keys[jnp.array([1, 1])]}, stacked=True)
    with pytest.raises(AssertionError, match="key differs between replicas 0 and 1"):
        assert_replicas_agree({"key": keys}, stacked=True)
    with pytest.raises(AssertionError, match=r"a differs .* 0 and 1, by up to 5"):
        assert_replicas_agree({"a": np.array([[1 + 1j], [4 + 5j]])}, stacked=True)


def test_each_process_learns_what_differs_within_another(monkeypatch):
    """Two processes in turn: what goes round says which array it is, and where."""
    module = sys.modules["jaxbn.population._agree"]
    leaves = [("a/mean", jnp.ones(2)), ("b/var", jnp.ones(3)), ("c", jnp.ones(1))]
    sent = []

    def gather(sums):
        sent.append(sums)
        return np.stack([sent[0], sums])

    monkeypatch.setattr(module.multihost_utils, "process_allgather", gather)
    module._compare_processes(leaves, (1, "b/var differs"))  # It says so itself.
    with pytest.raises(AssertionError, match="b/var differs between replicas of pro"):
        module._compare_processes(leaves, None)
    sent.clear()
    module._compare_processes(leaves, None)
    other = [*leaves[:2], ("c", jnp.zeros(1))]
    with pytest.raises(AssertionError, match="c differs between processes"):
        module._compare_processes(other, None)
