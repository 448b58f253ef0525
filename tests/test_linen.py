"""The linen modules: Flax's interface, its checkpoints, its quirks, not its faults."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxbn.linen
from jaxbn import batch_norm

X = jnp.asarray(np.random.default_rng(0).normal(2, 3, (8, 5, 4)), jnp.float32)
KEY = jax.random.key(0)


class Net(nn.Module):
    norm: type
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="dense")(x)
        x = self.norm(use_running_average=not self.train, momentum=0.9, name="bn")(x)
        return nn.relu(x)


def test_every_field_of_flax_is_here_in_its_order_with_its_default():
    ours = inspect.signature(jaxbn.linen.BatchNorm).parameters
    theirs = inspect.signature(nn.BatchNorm).parameters
    names = [n for n in theirs if n not in ("parent", "name")]
    assert list(ours)[: len(names)] == names
    for name in set(names) - {"bias_init", "scale_init"}:
        assert ours[name].default == theirs[name].default, name


def test_a_flax_checkpoint_goes_in_and_comes_back():
    variables = Net(nn.BatchNorm, True).init(KEY, X)
    _, updates = Net(nn.BatchNorm, True).apply(variables, X, mutable=["batch_stats"])
    trained = {**variables, **updates}
    ours = Net(jaxbn.linen.BatchNorm, False).apply(trained, X)
    theirs = Net(nn.BatchNorm, False).apply(trained, X)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)

    fresh = Net(jaxbn.linen.BatchNorm, True).init(KEY, X)
    _, moved = Net(jaxbn.linen.BatchNorm, True).apply(fresh, X, mutable=["batch_stats"])
    assert jax.tree.structure(fresh) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, fresh, variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        moved,
        updates,
    )


def test_initializing_updates_nothing_and_needs_no_axis():
    for layer in (
        jaxbn.linen.BatchNorm(use_running_average=False, axis_name="devices"),
        jaxbn.linen.Norm(batch_norm(axis_name="devices"), use_running_average=False),
    ):
        y, variables = layer.init_with_output(KEY, X)
        np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
        np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)
        np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-6)


def test_a_layer_used_twice_absorbs_both():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            bn = jaxbn.linen.BatchNorm(use_running_average=False, momentum=0.5)
            return bn(x) + bn(x + 10)

    variables = Twice().init(KEY, X)
    _, updates = Twice().apply(variables, X, mutable=["batch_stats"])
    (stats,) = updates["batch_stats"].values()
    mean = X.mean((0, 1))
    expected = 0.5 * (0.5 * mean) + 0.5 * (mean + 10)
    np.testing.assert_allclose(stats["mean"], expected, rtol=1e-5)


def test_statistics_that_are_not_mutable_are_not_silently_kept():
    layer = jaxbn.linen.BatchNorm(use_running_average=False)
    variables = layer.init(KEY, X)
    with pytest.raises(Exception, match="batch_stats"):
        layer.apply(variables, X)


def test_running_average_must_be_said_once():
    with pytest.raises(ValueError, match="use_running_average"):
        jaxbn.linen.BatchNorm().init(KEY, X)


def test_other_averages_add_their_count():
    layer = jaxbn.linen.BatchNorm(use_running_average=False, momentum=None)
    variables = layer.init(KEY, X)
    _, updates = layer.apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_array_equal(updates["batch_stats"]["count"], 1)
    np.testing.assert_allclose(
        updates["batch_stats"]["mean"], X.mean((0, 1)), rtol=1e-5
    )


def test_bfloat16_stays_bfloat16_with_float32_statistics():
    layer = jaxbn.linen.BatchNorm(use_running_average=False)
    x = X.astype(jnp.bfloat16)
    y, variables = layer.init_with_output(KEY, x)
    assert y.dtype == jnp.bfloat16
    _, updates = layer.apply(variables, x, mutable=["batch_stats"])
    assert {v.dtype for v in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}


def test_random_initial_scale_is_the_one_flax_draws():
    options = {"use_running_average": True, "scale_init": nn.initializers.uniform(1.0)}
    ours = jaxbn.linen.BatchNorm(**options).init(KEY, X)
    theirs = nn.BatchNorm(**options).init(KEY, X)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_scanned_and_rematerialized_layers_train():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jaxbn.linen.BatchNorm(use_running_average=False)(x) + x, None

    stack = nn.scan(
        nn.remat(Block),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=3,
    )()
    variables = stack.init(KEY, X, None)

    def loss(params):
        rest = {"batch_stats": variables["batch_stats"]}
        (y, _), updates = stack.apply(
            {"params": params, **rest}, X, None, mutable=["batch_stats"]
        )
        return (y**3).sum(), updates

    grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    (stats,) = updates["batch_stats"].values()
    assert stats["mean"].shape == (3, 4)
