"""Moments: merging is exact, sums keep their digits, the uncounted is not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import (
    Moments,
    batch_moments,
    batch_norm,
    bn_apply,
    bn_init,
    domain_norm,
    merge_moments,
)

rng = np.random.default_rng(0)


def exact(x):
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return x.mean(0), x.var(0)


def float64_mean(moments):
    return np.asarray(moments.shift, np.float64) + np.asarray(moments.delta, np.float64)


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 4, 8, 16), (1, 31), (5, 0, 3)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_parts_merge_into_the_whole(sizes, offset):
    parts = [rng.normal(size=(n, 3, 2)).astype(np.float32) + offset for n in sizes]
    stacked = jax.tree.map(lambda *f: jnp.stack(f), *map(batch_moments, parts))
    merged = merge_moments(Moments(*stacked))
    mean, var = exact(np.concatenate(parts))
    np.testing.assert_array_equal(merged.total, 3 * sum(sizes))
    np.testing.assert_allclose(float64_mean(merged), mean, rtol=1e-10, atol=1e-7)
    np.testing.assert_allclose(merged.var, var, rtol=2e-6)


def test_merging_variances_of_unequal_devices_is_not_averaging_them():
    # The example of the appendix: shards [0, 2] and [4, 6, ..., 14].
    shards = [jnp.array([[0.0], [2.0]]), jnp.arange(4.0, 15, 2)[:, None]]
    stacked = jax.tree.map(lambda *f: jnp.stack(f), *map(batch_moments, shards))
    merged = merge_moments(stacked)
    assert (merged.mean.item(), merged.var.item()) == (7.0, 21.0)


def test_a_part_that_counted_nothing_has_no_say_whatever_it_holds():
    part = batch_moments(jnp.array([[1.0], [3.0]]))
    nothing = Moments(jnp.zeros(1), *[jnp.full(1, jnp.nan)] * 3)
    merged = merge_moments(jax.tree.map(lambda a, b: jnp.stack([a, b]), nothing, part))
    assert [float(f[0]) for f in (merged.total, merged.mean, merged.m2)] == [2, 2, 2]


@pytest.mark.parametrize("offset", [1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("masked", [False, True])
def test_mean_keeps_the_digits_that_float32_cannot_hold(offset, masked):
    x = (rng.normal(size=(64, 9, 3)) + offset).astype(np.float32)
    mask = np.ones((64, 9), bool) if masked else None
    moments = jax.jit(batch_moments)(x, mask=mask)
    mean, var = exact(x)
    pair = float64_mean(moments)
    np.testing.assert_allclose(pair, mean, rtol=0, atol=2e-6)
    np.testing.assert_allclose(moments.var, var, rtol=1e-4 if offset > 1e4 else 1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_an_outlier_costs_few_digits(masked):
    # Wherever it lies: among the three elements of which one becomes the shift, too.
    x = rng.normal(size=(4096, 2)).astype(np.float32)
    mask = np.ones(4096, bool) if masked else None
    for place in (0, 4096 // 6, 4096 // 2, 5 * 4096 // 6, 7):
        outlying = x.copy()
        outlying[place] = 1e4
        moments = batch_moments(outlying, mask=mask)
        np.testing.assert_allclose(moments.var, exact(outlying)[1], rtol=1e-5)


def test_constant_channel_has_no_variance():
    moments = batch_moments(np.full((100, 3), 1234.567, np.float32))
    np.testing.assert_array_equal(moments.m2, 0)


def test_one_read_of_x_without_a_mask():
    """The only reductions over all of `x` are the two sums, on every platform."""
    x = jnp.zeros((256, 16, 16, 8))
    traced = jax.jit(batch_moments).trace(x)
    for platform in ("cpu", "cuda"):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        sums = [line for line in program.splitlines() if "stablehlo.reduce(" in line]
        assert len([line for line in sums if "256x16x16x8" in line]) == 2


@pytest.mark.parametrize(
    "mask_shape", [(6, 1), (6, 4), (6, 4, 1), (6, 4, 3), (1, 4, 3), ()]
)
def test_total_is_counted_without_spreading_the_mask(mask_shape):
    x = jnp.asarray(rng.normal(size=(6, 4, 3)), jnp.float32)
    mask = rng.random(mask_shape).astype(np.float32)
    spread = mask.reshape((*mask.shape, 1)) if mask.ndim == 2 else mask
    expected = np.broadcast_to(spread, x.shape).sum((0, 1))
    np.testing.assert_allclose(batch_moments(x, mask=mask).total, expected, rtol=1e-6)


def test_a_mask_of_examples_is_read_along_examples_where_both_readings_fit():
    x = jnp.array([[1.0, 2.0], [5.0, 7.0]])
    assert batch_moments(x, mask=jnp.array([True, False])).mean.tolist() == [1.0, 2.0]


def test_gradient_of_the_moments():
    x = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    mean_of = jax.grad(lambda x: batch_moments(x).mean.sum())(x)
    np.testing.assert_allclose(mean_of, 1 / 5, rtol=1e-6)
    var_of = jax.grad(lambda x: batch_moments(x).var.sum())(x)
    np.testing.assert_allclose(
        var_of, 2 * (x - x.mean(0, keepdims=True)) / 5, atol=1e-6
    )


@pytest.mark.parametrize("share", [1e-6, 0.03, 1.0, 40.0])
def test_weights_say_how_much_each_counts_and_not_how_much_there_is(share):
    """All of them together may be less than one element."""
    x = jnp.asarray(rng.normal(2.0, 3.0, size=(8, 3)), jnp.float32)
    weights = np.array([4, 1, 0, 2, 2, 1, 1, 3], np.float32)[:, None] / 14
    mean = np.average(x, 0, np.ravel(weights))
    var = np.average((np.asarray(x) - mean) ** 2, 0, np.ravel(weights))

    moments = batch_moments(x, mask=weights * share)
    np.testing.assert_allclose(moments.total, share, rtol=1e-6)
    halves = [batch_moments(x[i::2], mask=weights[i::2] * share) for i in (0, 1)]
    merged = merge_moments(jax.tree.map(lambda *f: jnp.stack(f), *halves))
    for found in (moments, merged):
        np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(found.var, var, rtol=1e-5)

    def normalized(x, share):
        params, state = bn_init(3)
        mask = weights * share
        return bn_apply(params, state, x, True, mask=mask, update_stats=False)[0]

    direction = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    y, pull = jax.vjp(lambda x: normalized(x, share), x)
    expected, pull_expected = jax.vjp(lambda x: normalized(x, 14.0), x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(pull(direction)[0], pull_expected(direction)[0], 0, 1e-5)


def test_a_variance_is_never_negative():
    """Of a domain whose first example, from which deviations are measured, lies far
    from all others and hardly counts: what is left of the difference is rounding."""
    near = rng.normal(3.0, 1.0, size=256).astype(np.float32)
    x = jnp.asarray(np.stack([np.zeros_like(near), *[near] * 7]))
    norm = domain_norm(1, batch_norm(momentum=0.0, epsilon=1e-30))
    params, state = norm.init(256)
    weights, domain = jnp.array([1e-9, *[1.0] * 7]), jnp.zeros(8, int)
    y, new = norm.apply(params, state, x, True, mask=weights, domain=domain)
    assert np.all(new["var"] >= 0) and np.all(new["var"] < 1e-4)
    assert np.all(np.isfinite(y))
    y, _ = norm.apply(params, new, x, False, domain=domain)
    assert np.all(np.isfinite(y))


@pytest.mark.parametrize("custom", [True, False], ids=["custom", "plain"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_no_gradient_flows_to_a_mask(train, custom):
    x = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    weights = jnp.array([1.0, 0.5, 0.0, 2.0, 0.25, 1.0])
    params, state = bn_init(2)

    def of_layer(weights):
        how = {"mask": weights, "custom_derivative": custom}
        y, new = bn_apply(params, state, x, train, **how)
        return jnp.sum(y**3) + jnp.sum(new["mean"]) + jnp.sum(new["var"] ** 2)

    def of_moments(weights):
        moments = batch_moments(x, mask=weights)
        return jnp.sum(moments.mean**3) + jnp.sum(moments.var**2) + moments.total[0]

    for loss in (of_layer, of_moments):
        np.testing.assert_array_equal(jax.grad(loss)(weights), 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_parts_near_the_largest_number_merge(sign):
    """The sum of two such means overflows, that of their halves does not."""
    means = jnp.array([[3.0e38], [3.2e38]]) * sign
    parts = Moments(jnp.full((2, 1), 4.0), means, jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    merged = merge_moments(parts)
    np.testing.assert_allclose(merged.mean, 3.1e38 * sign, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_a_channel_that_is_mostly_zero_has_its_moments(masked):
    """As behind a ReLU: what deviations are measured from is 0 then."""
    x = np.maximum(rng.normal(-1.5, 1.0, size=(64, 5, 3)), 0).astype(np.float32)
    x[:, :, 1] += 2.0
    mask = rng.random((64, 5)) < 0.7 if masked else None
    mean, var = exact(x if mask is None else x[mask])
    moments = jax.jit(batch_moments)(x, mask=mask)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(moments.var, var, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (4, 2, 0), (0, 0)])
def test_no_example_or_no_channel_at_all(shape):
    moments = jax.jit(batch_moments)(jnp.zeros(shape))
    assert all(field.shape == shape[-1:] for field in moments)
    np.testing.assert_array_equal(moments.total, np.prod(shape[:-1]))
    np.testing.assert_array_equal(moments.var, 0)
