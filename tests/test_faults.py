"""Faults in what one reads about batch norm: each differs, and jaxbn is right.

`docs/faults.md` says in words what is shown here. A formula that is wrong is written
out in NumPy inside its test; what is right is held to `oracle.py`.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import linen as nn

import jaxbn.linen
from jaxbn import adaptive_norm, batch_norm, bn_apply, bn_init
from jaxbn.models import create_model
from jaxbn.population import (
    assert_replicas_agree,
    effective_window,
    merge_batch_stats,
    precise_batch_stats,
)
from jaxbn.surgery import from_torch, momentum_from_torch

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"


def draw(shape, seed=0, mean=3.0, std=2.0):
    return np.random.default_rng(seed).normal(mean, std, shape).astype(np.float32)


def running(channels, seed=1):
    """Running statistics that are neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    mean, var = rng.normal(size=channels), rng.uniform(0.5, 4, channels)
    return {"mean": mean.astype(np.float32), "var": var.astype(np.float32)}


def test_evaluating_a_convolution():
    # Fault: one branch stores what it read as `var`, the line behind reads `variance`,
    # which only training defines. No convolutional net was ever evaluated.
    def evaluate(x, state, train=False):
        if train:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        else:
            mean, var = state["mean"], state["var"]  # noqa: F841
        return (x - mean) / np.sqrt(variance + 1e-5)

    x, state = draw((2, 4, 4, 3)), running(3)
    with pytest.raises(UnboundLocalError):
        evaluate(x, state)
    # Right: one function of any rank; the running statistics normalize each channel.
    params, _ = bn_init(3)
    for part in (x, x[:, 0], x[:, 0, 0], x[..., None, :]):
        y, same = bn_apply(params, state, part, False)
        expected, _ = oracle.bn_apply(params, state, part, False)
        oracle.assert_close(y, expected, 1e-6)
        assert same is state


def test_channels_of_images_see_every_pixel():
    # Fault: images are averaged over the first axis alone, as rows are; each pixel then
    # has statistics of its own, of as few values as there are images.
    x = draw((4, 6, 6, 3)) + np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    wrong = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    # Right: a channel sees N H W values, and differences between places survive.
    y, state = bn_apply(*bn_init(3), x, True, momentum=0.0)
    oracle.assert_close(y, oracle.bn_apply(*bn_init(3), x, True)[0], 1e-5)
    assert state["mean"].shape == (3,)
    assert np.ptp(np.mean(wrong, (0, 2, 3))) < 1e-5 < 1 < np.ptp(np.mean(y, (0, 2, 3)))


def test_unbiased_factor_counts_elements():
    # Fault: the running variance of images is multiplied by N / (N - 1), N the
    # number of images: a third too large for four, and infinite for one.
    x, options = draw((4, 8, 8, 3)), {"momentum": 0.0, "unbiased": True}
    wrong = x.var((0, 1, 2)) * 4 / 3
    # Right: n / (n - 1) with n = N H W, what a channel has seen.
    _, state = bn_apply(*bn_init(3), x, True, **options)
    oracle.assert_close(state["var"], x.reshape(-1, 3).var(0, ddof=1), 1e-6)
    oracle.assert_close(wrong / state["var"], np.full(3, 4 / 3 * 255 / 256), 1e-5)
    _, state = bn_apply(*bn_init(3), x[:1], True, **options)
    oracle.assert_close(state["var"], x[0].reshape(-1, 3).var(0, ddof=1), 1e-6)


def test_scale_starts_as_one():
    # Fault: the scale is drawn uniformly from [0, 1]. Channels start with deviations
    # from 0 to 1 instead of 1, half of it on average, and each layer loses more.
    x = draw((256, 64))
    wrong = {"scale": np.random.default_rng(0).uniform(size=64), "bias": np.zeros(64)}
    y, _ = oracle.bn_apply(wrong, bn_init(64)[1], x, True)
    assert np.ptp(np.std(y, 0)) > 0.9 and 0.4 < np.std(y) < 0.7
    # Right: ones, in the functions, the Flax modules and every model here.
    params, state = bn_init(64)
    y, _ = bn_apply(params, state, x, True)
    np.testing.assert_allclose(np.std(y, 0), 1, rtol=1e-4)
    model = create_model("mlp", 10, batch_norm(), hidden=(8, 8))
    found = model.init(jax.random.key(0), x, False)["params"]
    for layer in (params, found["bn1"], found["bn2"]):
        np.testing.assert_array_equal(layer["scale"], 1)
        np.testing.assert_array_equal(layer["bias"], 0)


def test_precise_statistics_pool():
    # Fault: a layer is called precise whose statistics are a moving average: it weighs
    # the last batches most, starts from 0 and 1, and never sees what lies between
    # batches. The mean of the batches' variances misses the last part too.
    batches = [draw((n, 3), seed=n, mean=n, std=1.0) for n in (4, 8, 20, 32)]
    everything = np.concatenate(batches).astype(np.float64)
    mean, var = np.zeros(3), np.ones(3)
    for batch in batches:
        mean, var = 0.9 * mean + 0.1 * batch.mean(0), 0.9 * var + 0.1 * batch.var(0)
    average = np.mean([batch.var(0) for batch in batches], 0)
    assert np.all(mean < 0.5 * everything.mean(0))
    assert np.all(var < 0.1 * everything.var(0))
    assert np.all(average < 0.1 * everything.var(0))
    # Right: a fixed model, every example of the same weight, the total variance.
    model = nn.BatchNorm(use_running_average=False)
    variables = model.init(jax.random.key(0), batches[0])
    stats, report = precise_batch_stats(model, variables, batches)
    oracle.assert_close(stats["mean"], everything.mean(0), 1e-6)
    oracle.assert_close(stats["var"], everything.var(0), 1e-6)
    assert report.counted == {"": 64}


def test_divides_by_the_deviation():
    # Fault: scale (x - mean) / variance + offset. Without the root the output shrinks
    # as the input grows, and the units of the input do not cancel.
    x = draw((64, 3), std=5.0)
    wrong = lambda x: (x - x.mean(0)) / (x.var(0) + 1e-5)
    oracle.assert_close(wrong(10 * x), wrong(x) / 10, 1e-4)
    assert np.all(wrong(x).std(0) < 0.3)
    # Right: the root of the variance, epsilon inside; the output has deviation 1.
    params, state = bn_init(3)
    y, _ = bn_apply(params, state, x, True)
    oracle.assert_close(y, oracle.bn_apply(params, state, x, True)[0], 1e-6)
    oracle.assert_close(bn_apply(params, state, 10 * x, True)[0], y, 1e-5)


def test_devices_drift_apart():
    # Fault: each device keeps running statistics of what it saw, and those of the first
    # are stored; or the variances are averaged, and what lies between devices is lost.
    shards = np.stack([draw((16, 3), seed=d, mean=d, std=1.0) for d in range(4)])
    params, state = bn_init(3)

    def step(x, **options):
        return bn_apply(params, state, x, True, momentum=0.0, **options)[1]

    apart = jax.vmap(step)(shards)
    with pytest.raises(AssertionError, match="mean differs between replicas"):
        assert_replicas_agree(apart, stacked=True)
    everything = shards.reshape(-1, 3).astype(np.float64)
    assert np.all(np.mean(apart["var"], 0) < 0.6 * everything.var(0))
    # Right: pool by the law of total variance, or never let them part.
    pooled = merge_batch_stats(apart)
    together = jax.vmap(lambda x: step(x, axis_name="d"), axis_name="d")(shards)
    assert_replicas_agree(together, stacked=True)
    for found in (pooled, jax.tree.map(lambda a: a[0], together)):
        oracle.assert_close(found["mean"], everything.mean(0), 1e-6)
        oracle.assert_close(found["var"], everything.var(0), 1e-6)


def test_evaluating_leaves_the_state_alone():
    # Fault: the update hangs on the moments, so that looking at the cost of other data
    # moves the average too, and nothing ever normalizes by it.
    params, state = bn_init(3)
    train, other = draw((64, 3)), draw((64, 3), seed=1, mean=-20.0)
    _, state = bn_apply(params, state, train, True, momentum=0.5)
    wrong = state["mean"]
    for _ in range(3):
        wrong = 0.5 * wrong + 0.5 * other.mean(0)
    assert np.all(np.abs(wrong - state["mean"]) > 15)
    # Right: evaluation reads the state and returns it; an example's output is the same
    # in any company.
    y, same = bn_apply(params, state, other, False)
    assert same is state
    oracle.assert_close(y, oracle.bn_apply(params, state, other, False)[0], 1e-6)
    np.testing.assert_array_equal(y[:1], bn_apply(params, state, other[:1], False)[0])
    layer = jaxbn.linen.BatchNorm(use_running_average=True)
    variables = {"params": params, "batch_stats": state}
    _, moved = layer.apply(variables, other, mutable=["batch_stats"])
    np.testing.assert_array_equal(moved["batch_stats"]["mean"], state["mean"])


def test_one_example_gives_the_bias():
    # Fault: one example is said to be unstable in training, as its deviation is 0.
    # Right: x - mean is 0 as well, so that 0 / sqrt(epsilon) gives the bias whatever
    # the example was, and no gradient: nothing is learned, but nothing blows up.
    params = {"scale": jnp.full(3, 2.0), "bias": jnp.array([1.0, -2.0, 0.5])}
    _, state = bn_init(3)
    output = lambda x: bn_apply(params, state, x, True, momentum=0.0, unbiased=True)
    for size in (1.0, 1e4):
        x = size * draw((1, 3))
        y, new = output(x)
        np.testing.assert_array_equal(y, params["bias"][None])
        np.testing.assert_array_equal(new["var"], 0)  # Not 0 * 1 / 0.
        slope = jax.grad(lambda x: jnp.sum(output(x)[0] ** 2))(x)
        np.testing.assert_array_equal(slope, 0)
    # One image is no such case: its pixels are many.
    y, _ = output(draw((1, 8, 8, 3)))
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), 2, rtol=1e-3)


def test_two_variances_with_a_purpose_each():
    # Fault: one variance for both. With 1/(n-1) in the normalization, or with 1/n where
    # an estimate for unseen data is wanted, small batches are off by n/(n-1).
    x = draw((4, 3))
    wrong = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(wrong.std(0), np.sqrt(3 / 4), rtol=1e-4)
    # Right: 1/n normalizes always; what is absorbed is a choice, PyTorch's or Flax's.
    for unbiased, ddof in ((False, 0), (True, 1)):
        options = {"momentum": 0.0, "unbiased": unbiased}
        y, state = bn_apply(*bn_init(3), x, True, **options)
        expected = oracle.bn_apply(*bn_init(3), x, True, **options)
        oracle.assert_close(y, expected[0], 1e-5)
        oracle.assert_close(state["var"], x.var(0, ddof=ddof), 1e-6)
    np.testing.assert_allclose(np.std(y, 0), 1, rtol=1e-4)
    # What came from PyTorch is made biased by the number of elements of its batches.
    torch = {"running_mean": x.mean(0), "running_var": x.var(0, ddof=1)}
    found = from_torch(torch, num_elements=4)["batch_stats"]
    oracle.assert_close(found["var"], x.var(0), 1e-6)


def test_momentum_weighs_the_old_value():
    # Fault: 0.1 is copied from PyTorch, where it weighs the new value, into a library
    # where it weighs the old one: an average of hardly more than the last batch.
    x, old = draw((64, 3)), running(3)
    expected = {"mean": 0.9 * old["mean"] + 0.1 * x.mean(0)}
    expected["var"] = 0.9 * old["var"] + 0.1 * x.var(0, ddof=1)
    _, wrong = bn_apply(bn_init(3)[0], old, x, True, momentum=0.1, unbiased=True)
    assert np.all(np.abs(wrong["mean"] - expected["mean"]) > 1)
    assert effective_window(0.1) < 1.3 and effective_window(0.5) == 3
    # Right: one minus PyTorch's.
    momentum = momentum_from_torch(0.1)
    _, new = bn_apply(bn_init(3)[0], old, x, True, momentum=momentum, unbiased=True)
    for key in ("mean", "var"):
        oracle.assert_close(new[key], expected[key], 1e-6)
    assert round(effective_window(momentum)) == 19


def test_training_does_not_read_the_running_statistics():
    # Fault: it is said that in training the mean and variance consider earlier batches
    # as well. Normalizing by that average is another layer, whose output is off until
    # the average has caught up.
    x, params = draw((64, 3)), bn_init(3)[0]
    mixed = {key: 0.9 * value for key, value in running(3).items()}
    mixed = {
        "mean": mixed["mean"] + 0.1 * x.mean(0),
        "var": mixed["var"] + 0.1 * x.var(0),
    }
    wrong, _ = oracle.bn_apply(params, mixed, x, False)
    assert np.all(np.abs(np.mean(wrong, 0)) > 0.5)
    # Right: the batch alone normalizes; the running ones follow and serve afterwards.
    y, _ = bn_apply(params, running(3), x, True)
    np.testing.assert_array_equal(y, bn_apply(params, bn_init(3)[1], x, True)[0])
    oracle.assert_close(y, oracle.bn_apply(params, running(3), x, True)[0], 1e-5)


def test_steps_are_not_linked_by_the_state():
    # Fault: running statistics are stored with the graph that made them, so that the
    # next step's loss reaches back into this step's batch, and memory grows.
    params, state = bn_init(3)
    first, second = draw((8, 3)), draw((8, 3), seed=1)

    def linked(first):
        _, new = bn_apply(params, state, first, True)
        return jnp.sum(bn_apply(params, new, second, False)[0] ** 2)

    assert np.all(jax.grad(linked)(first) != 0)

    # Right: a step takes the state as an input and returns the new one beside the
    # gradients. It is numbers, and the loss of training has no slope in it.
    def loss(params, state, x):
        y, new = bn_apply(params, state, x, True)
        return jnp.sum(y**3), new

    step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (_, slope), new = step(params, state, first)
    assert all(np.all(value == 0) for value in slope.values())
    assert not any(isinstance(value, jax.core.Tracer) for value in new.values())
    copied = {key: np.array(value) for key, value in new.items()}
    for a, b in zip(
        jax.tree.leaves(step(params, new, second)),
        jax.tree.leaves(step(params, copied, second)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_scale_and_bias_are_the_deviation_and_mean_of_a_batch_only():
    # Fault: scale and bias are called the deviation and the mean of the output, without
    # saying of what.
    params = {"scale": jnp.full(3, 2.0), "bias": jnp.full(3, -1.0)}
    _, state = bn_init(3)
    x, other = draw((256, 3)), draw((256, 3), seed=1, mean=6.0, std=1.0)
    # Right: they are so of the batch that normalized itself...
    y, state = bn_apply(params, state, x, True, momentum=0.0)
    np.testing.assert_allclose(np.mean(y, 0), -1, atol=1e-4)
    np.testing.assert_allclose(np.std(y, 0), 2, rtol=1e-4)
    # ... and not of other data in evaluation, unless the statistics are measured anew.
    y, _ = bn_apply(params, state, other, False)
    assert np.all(np.mean(y, 0) > 1) and np.all(np.std(y, 0) < 1.5)
    norm = adaptive_norm(prior_count=0)
    y, _ = norm.apply(params, state, other, False)
    np.testing.assert_allclose(np.mean(y, 0), -1, atol=1e-4)


def test_page_names_every_test():
    here = Path(__file__).read_text()
    tests = set(re.findall(r"^def (test_\w+)", here, re.M)) - {
        "test_page_names_every_test"
    }
    assert set(re.findall(r"`(test_\w+)`", PAGE.read_text())) == tests
