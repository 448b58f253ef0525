"""What experiments share: runs side by side are runs alone, devices are one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbn import batch_norm
from jaxbn.data import Split
from jaxbn.experiments import Settings
from jaxbn.experiments._measure import errors, logits, precise
from jaxbn.experiments._runs import (
    axis_of,
    classification,
    devices_of,
    fit,
    last_epoch,
    sgd,
    start,
)
from jaxbn.experiments._samplers import at_random, in_patterns
from jaxbn.models import create_model
from jaxbn.training import ConfigError

SEEDS, BATCH = (3, 4), 16


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 2, 2, 1)).astype(np.float32)
    return Split(inputs, rng.integers(0, 3, 64).astype(np.int32))


def trained(data, norm, parallel=None, seeds=SEEDS, rates=None):
    model = create_model("mlp", 3, norm, hidden=(5,))
    optimizer = sgd(0.1, 8, weight_decay=1e-3)
    plain = create_model("mlp", 3, batch_norm(), hidden=(5,))
    runs = start(plain, data.inputs[:2], seeds, optimizer)
    rows = at_random(seeds, len(data.labels), BATCH)
    how = {"optimizer": optimizer, "parallel": parallel, "rates": rates}
    return fit(classification(model), runs, data, rows, range(2), **how)


def test_runs_together_are_runs_alone(data):
    together, losses = trained(data, batch_norm(momentum=0.9), rates=(1.0, 0.5))
    assert losses.shape == (2, 8)
    alone, own = trained(data, batch_norm(momentum=0.9), seeds=(4,), rates=(0.5,))
    np.testing.assert_allclose(losses[1], own[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b[0], rtol=1e-4, atol=1e-6)


def test_the_last_epoch_is_of_whole_batches():
    losses = np.array([[9.0, 9.0, 1.0, 3.0], [9.0, 9.0, 0.0, 2.0]])
    np.testing.assert_array_equal(last_epoch(losses, 33, BATCH), [2, 1])


def test_a_step_is_what_optax_would_take(data):
    model = create_model("mlp", 3, batch_norm(momentum=0.9), hidden=(5,))
    runs = start(model, data.inputs[:2], (3,), optax.sgd(0.1))
    params = jax.tree.map(lambda a: a[0], runs.params)
    stats = jax.tree.map(lambda a: a[0], runs.batch_stats)

    def loss(params):
        variables = {"params": params, "batch_stats": stats}
        out, _ = model.apply(variables, data.inputs, True, mutable=["batch_stats"])
        each = jax.nn.log_softmax(out)[np.arange(64), data.labels]
        return -each.mean()

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    every = lambda epoch: np.arange(64)[None, None]
    runs, losses = fit(
        classification(model), runs, data, every, range(1), optimizer=optax.sgd(0.1)
    )
    np.testing.assert_allclose(losses[0, 0], loss(params), rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(runs.params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize("size", [4, 8, 16])
def test_devices_that_share_a_batch_train_as_one(data, size):
    settings = Settings("", num_devices=4, parallel="shard_map")
    parallel = devices_of(settings, BATCH)
    norm = {"momentum": 0.9, "normalization_batch_size": size}
    one, losses = trained(data, batch_norm(**norm))
    several = batch_norm(**norm, axis_name=axis_of(parallel))
    many, shared = trained(data, several, parallel)
    np.testing.assert_allclose(losses, shared, rtol=1e-4)
    for a, b in zip(
        jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert devices_of(Settings(""), BATCH) is None
    with pytest.raises(ConfigError, match="expected 'pmap' or 'shard_map'"):
        devices_of(Settings("", num_devices=4, parallel="jit"), BATCH)


def test_measured_statistics_and_errors_are_those_of_everything(data):
    runs, _ = trained(data, batch_norm())
    model = create_model("mlp", 3, batch_norm(), hidden=(5,))
    stats = precise(model, runs.params, runs.batch_stats, data.inputs, batch=16)
    flat = data.inputs.reshape(64, -1)
    for run in range(2):
        hidden = flat @ np.asarray(runs.params["dense1"]["kernel"][run])
        np.testing.assert_allclose(stats["bn1"]["mean"][run], hidden.mean(0), atol=1e-5)
        np.testing.assert_allclose(stats["bn1"]["var"][run], hidden.var(0), rtol=1e-4)
    said = logits(model, runs.params, stats, data.inputs, batch=24)
    assert said.shape == (2, 64, 3)
    # One batch of everything has the statistics of everything.
    whole = logits(model, runs.params, stats, data.inputs, train=True, batch=64)
    np.testing.assert_allclose(said, whole, rtol=1e-3, atol=1e-4)
    wrong = 100 * (np.asarray(said).argmax(-1) != data.labels).mean(-1)
    np.testing.assert_allclose(errors(model, runs.params, stats, data), wrong)
    lost = jax.tree.map(lambda a: a * jnp.nan, runs.params)
    np.testing.assert_array_equal(errors(model, lost, stats, data), [100, 100])


def test_a_mini_batch_that_is_not_whole_is_masked(data):
    runs, _ = trained(data, batch_norm())
    model = create_model("mlp", 3, batch_norm(), hidden=(5,))
    how = {"train": True, "batch": 40}
    said = logits(model, runs.params, runs.batch_stats, data.inputs, **how)
    last = logits(model, runs.params, runs.batch_stats, data.inputs[40:], **how)
    np.testing.assert_allclose(said[:, 40:], last, rtol=1e-3, atol=1e-4)


def test_patterns_have_their_classes_and_use_all_images():
    labels = np.repeat(np.arange(5), 24)
    rows = in_patterns((0, 1), labels, 24, classes=3, images=4)
    found = rows(0)
    assert found.shape == (2, 5, 24)
    kinds = labels[found].reshape(2, -1, 3, 4)
    assert (kinds == kinds[..., :1]).all()
    assert all(len(set(run[:, 0])) == 3 for run in kinds.reshape(-1, 3, 4))
    np.testing.assert_array_equal(found, rows(0))
    assert (found != rows(1)).any()
    seen = np.unique(found[0], return_counts=True)[1]
    assert seen.max() <= 3
    with pytest.raises(ValueError, match="expected a multiple of 12"):
        in_patterns((0,), labels, 20, classes=3, images=4)


def test_keys_differ_between_runs_and_steps(data):
    def loss(params, stats, batch, key):
        return jnp.sum(params["x"]) * 0 + jax.random.uniform(key), stats

    import flax.linen as nn

    class Nothing(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return self.param("x", nn.initializers.zeros, (1,))

    optimizer = optax.sgd(1.0)
    runs = start(Nothing(), data.inputs[:1], SEEDS, optimizer)
    rows = at_random(SEEDS, 64, 16)
    _, values = fit(loss, runs, data, rows, range(1), optimizer=optimizer)
    assert len(np.unique(values)) == 8
