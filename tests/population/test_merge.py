"""Pooled statistics are those of all examples together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import batch_norm, bn_apply, bn_init
from jaxbn.population import pool_batch_stats


@pytest.mark.parametrize("sizes", [(7, 7, 7), (1, 20, 3), (5, 0, 9)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_pooled_equals_numpy_on_everything(sizes, offset):
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(n, 4, 3)) + offset).astype(np.float32) for n in sizes]
    params, state = bn_init(3)
    each = [bn_apply(params, state, x, True, momentum=0.0)[1] for x in parts]
    stacked = {"net": {"bn": jax.tree.map(lambda *s: jnp.stack(s), *each)}}
    pooled = pool_batch_stats(stacked, jnp.array(sizes))["net"]["bn"]
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
    pooled = pool_batch_stats({"bn": stacked, "other": jnp.arange(3.0)}, jnp.ones(3))
    assert pooled["bn"].keys() == state.keys()
    np.testing.assert_array_equal(pooled["bn"]["count"], 3)
    assert pooled["other"] == 2


def test_a_layer_without_variance_is_refused():
    with pytest.raises(ValueError, match=r"has \['mean'\], expected 'mean' and 'var'"):
        pool_batch_stats({"bn": {"mean": jnp.zeros((2, 1))}}, jnp.ones(2))
