"""Running statistics: the rates by hand, and what is kept out of an average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import Moments, batch_moments, bn_apply, bn_init, update_running
from jaxbn.core._running import averaging_weights

PARAMS, START = bn_init(1)
COUNTING = {**START, "count": jnp.zeros(1)}


def moments_of(total, mean, var):
    """Returns moments of as many channels as there are numbers given."""
    total, mean, var = (jnp.atleast_1d(jnp.float32(a)) for a in (total, mean, var))
    return Moments(total, mean, jnp.zeros_like(mean), var * total)


@pytest.mark.parametrize("total", [1.25, 1.5, 2.0, 3.0, 100.0])
def test_the_unbiased_variance_is_n_over_n_minus_1_times_the_biased_one(total):
    moments = moments_of(total, 0.0, 3.0)
    new = update_running(START, moments, momentum=0.0, unbiased=True)
    np.testing.assert_allclose(new["var"], 3 * total / (total - 1), rtol=1e-6)


@pytest.mark.parametrize("total", [0.25, 0.5, 1.0])
def test_where_no_more_than_one_was_counted_the_variance_is_the_biased_one(total):
    moments = moments_of(total, 0.0, 3.0)
    new = update_running(START, moments, momentum=0.0, unbiased=True)
    np.testing.assert_allclose(new["var"], 3.0, rtol=1e-6)


def test_two_examples_have_the_unbiased_variance_of_numpy():
    x = jnp.array([[1.0], [4.0]])
    _, new = bn_apply(PARAMS, START, x, True, momentum=0.0, unbiased=True)
    np.testing.assert_allclose(new["var"], np.var([1.0, 4.0], ddof=1), rtol=1e-6)


def test_a_variance_that_overflows_is_refused_though_the_mean_is_finite():
    x = jnp.array([[-1e30, 1.0], [1e30, 3.0]])
    assert np.isfinite(batch_moments(x).mean).all()
    params, state = bn_init(2)
    _, new = bn_apply(params, state, x, True, momentum=0.5)
    np.testing.assert_array_equal(new["mean"], [0.0, 1.0])
    np.testing.assert_array_equal(new["var"], [1.0, 1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["mean", "var"])
def test_either_statistic_alone_is_enough_to_refuse_both(which, bad):
    given = {"mean": [2.0, 2.0], "var": [4.0, 4.0]}
    given[which][0] = bad
    moments = moments_of([2.0, 2.0], **given)
    state = {"mean": jnp.zeros(2), "var": jnp.ones(2), "count": jnp.zeros(2)}
    new = update_running(state, moments, momentum=None)
    np.testing.assert_array_equal(new["mean"], [0.0, 2.0])
    np.testing.assert_array_equal(new["var"], [1.0, 4.0])
    np.testing.assert_array_equal(new["count"], [0.0, 1.0])


def test_non_finite_statistics_come_in_where_they_are_asked_for():
    moments = moments_of(2.0, np.inf, np.nan)
    new = update_running(START, moments, skip_nonfinite=False)
    assert np.isposinf(new["mean"]).all() and np.isnan(new["var"]).all()


@pytest.mark.parametrize("momentum", [0.5, 0.99, 1 - 1e-4, 1 - 1e-6])
def test_the_debiased_average_keeps_its_digits_for_any_momentum(momentum):
    """Against the exponential average of all batches, weights normalized, in float64.

    With a momentum so near 1 that all weigh nearly the same: a relative error of the
    rate is one of the mean.
    """
    batches, state = [1.0, 2.0, 4.0, -5.0, 3.0], COUNTING
    for k, mean in enumerate(batches, 1):
        moments = moments_of(2.0, mean, mean**2)
        state = update_running(state, moments, momentum=momentum, debias=True)
        weights = np.float64(momentum) ** np.arange(k)[::-1]
        expected = np.average(batches[:k], weights=weights)
        np.testing.assert_allclose(state["mean"], expected, rtol=3e-6, atol=1e-6)
        expected = np.average(np.square(batches[:k]), weights=weights)
        np.testing.assert_allclose(state["var"], expected, rtol=3e-6)
        np.testing.assert_array_equal(state["count"], k)


@pytest.mark.parametrize("momentum", [1e-4, 1e-7, 0.0])
def test_the_debiased_average_keeps_what_a_momentum_near_0_leaves(momentum):
    state = update_running(COUNTING, moments_of(2.0, 1e4, 1e8), momentum=0.0)
    state = {**state, "count": jnp.ones(1)}
    new = update_running(
        state, moments_of(2.0, 0.0, 0.0), momentum=momentum, debias=True
    )
    keep = momentum / (1 + momentum)  # m (1 - m) / (1 - m^2)
    np.testing.assert_allclose(new["mean"], keep * 1e4, rtol=1e-6)
    np.testing.assert_allclose(new["var"], keep * 1e8, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.3, 0.9, 0.999])
def test_the_weights_of_a_debiased_average_make_one(momentum):
    keep, rate = averaging_weights(momentum, jnp.arange(3000.0))
    np.testing.assert_array_equal(keep + rate, 1)


@pytest.mark.parametrize("options", [{}, {"debias": True}], ids=["plain", "debiased"])
def test_a_channel_left_out_has_no_say_in_the_slope_of_the_momentum(options):
    """A momentum that is learned or tuned: one NaN channel does not make it NaN."""
    state = {"mean": jnp.ones(3), "var": jnp.ones(3), "count": jnp.ones(3)}

    def total_mean(momentum, means):
        moments = moments_of([2.0, 2.0, 0.0], means, [4.0, 4.0, np.nan])
        new = update_running(state, moments, momentum=momentum, **options)
        return new["mean"][0] + jnp.sum(new["mean"][1:])

    slope = jax.grad(total_mean)
    clean = jnp.array([3.0, 1.0, 1.0])  # What is kept is 1: nothing to move.
    dirty = jnp.array([3.0, jnp.nan, jnp.inf])
    expected = slope(jnp.float32(0.9), clean)
    assert expected != 0
    np.testing.assert_allclose(slope(jnp.float32(0.9), dirty), expected, rtol=1e-6)
