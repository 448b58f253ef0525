"""Micro-batches committed once move the statistics as one batch; windows."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn.population import (
    collect_moments,
    commit_moments,
    effective_window,
    merge_collected,
    momentum_for_batch_size,
    momentum_for_window,
)

DATA = np.random.default_rng(0).normal(3, 2, (4, 6, 5)).astype(np.float32)
KEY = jax.random.key(0)


class Net(nn.Module):
    layer: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        x = self.layer(use_running_average=not train, name="first")(x)
        return self.layer(use_running_average=not train, name="last")(nn.Dense(3)(x))


@pytest.mark.parametrize("layer", [nn.BatchNorm, jaxbn.linen.BatchNorm])
@pytest.mark.parametrize("unbiased", [False, True])
def test_micro_batches_in_a_scan_are_one_batch_in_the_first_layer(layer, unbiased):
    model = Net(layer)
    variables = model.init(KEY, DATA[0], True)
    run = collect_moments(model)

    def loss(params, x):
        y, moments = run({**variables, "params": params}, x, True)
        return jnp.sum(y**3), moments

    def micro(carry, x):
        grads, moments = jax.grad(loss, has_aux=True)(variables["params"], x)
        gained, total = carry
        return (
            jax.tree.map(jnp.add, gained, grads),
            merge_collected(total, moments),
        ), None

    def step(xs):
        first = jax.grad(loss, has_aux=True)(variables["params"], xs[0])
        (grads, moments), _ = jax.lax.scan(micro, first, xs[1:])
        stats = commit_moments(
            variables["batch_stats"], moments, momentum=0.5, unbiased=unbiased
        )
        return grads, stats

    grads, stats = jax.jit(step)(DATA)
    rows = DATA.reshape(-1, 5)
    mean, var = rows.mean(0), rows.var(0, ddof=int(unbiased))
    oracle.assert_close(stats["first"]["mean"], 0.5 * mean, 1e-6)
    oracle.assert_close(stats["first"]["var"], 0.5 + 0.5 * var, 1e-6)
    plain = jax.grad(
        lambda p: sum(
            jnp.sum(
                model.apply(
                    {**variables, "params": p}, x, True, mutable=["batch_stats"]
                )[0]
                ** 3
            )
            for x in DATA
        )
    )(variables["params"])
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-4), grads, plain)


def test_an_nnx_model_and_a_count():
    model = jaxbn.nnx.BatchNorm(5, momentum=None, rngs=nnx.Rngs(0))
    run = collect_moments(model)
    _, a = run(None, DATA[0])
    _, b = run(None, DATA[1])
    state = nnx.state(model, nnx.BatchStat)
    new = commit_moments(state, merge_collected(a, b), momentum=None)
    nnx.update(model, new)
    oracle.assert_close(model.mean[...], DATA[:2].mean((0, 1)), 1e-6)
    oracle.assert_close(model.var[...], DATA[:2].var((0, 1)), 1e-6)
    np.testing.assert_array_equal(model.count[...], 1)


def test_moments_of_another_model_are_refused():
    _, moments = collect_moments(jaxbn.nnx.BatchNorm(5, rngs=nnx.Rngs(0)))(
        None, DATA[0]
    )
    stats = {"bn": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}
    with pytest.raises(ValueError, match=r"layers \[''\], .* of \['bn'\]; pass the st"):
        commit_moments(stats, moments)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.999])
def test_windows(momentum):
    assert momentum_for_window(effective_window(momentum)) == pytest.approx(momentum)
    weights = (1 - momentum) * momentum ** np.arange(20_000)
    assert effective_window(momentum) == pytest.approx(1 / np.sum(weights**2))
    halved = momentum_for_batch_size(momentum, 64, 32)
    assert halved**2 == pytest.approx(momentum)


def test_windows_that_are_refused():
    with pytest.raises(ValueError, match="momentum is 1, expected 0 <= momentum < 1"):
        effective_window(1)
    with pytest.raises(
        ValueError, match=r"window is 0.5, expected at least 1 batch; 1"
    ):
        momentum_for_window(0.5)
    with pytest.raises(ValueError, match=r"sizes are 0 and 8, .*; pass those"):
        momentum_for_batch_size(0.9, 0, 8)
