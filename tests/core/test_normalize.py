"""The element-wise pass by itself: dtypes, and a variance of 0."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import normalize

X = jnp.asarray(np.random.default_rng(0).normal(3, 2, (5, 3)), jnp.float32)
MEAN, VAR = jnp.full(3, 2.5), jnp.full(3, 4.0)


@pytest.mark.parametrize("given", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("asked", [None, "bfloat16", "float32"])
def test_the_result_has_the_dtype_asked_for_or_that_of_x(given, asked):
    x = X.astype(given)
    dtype = None if asked is None else jnp.dtype(asked)
    y = normalize(x, MEAN, VAR, dtype=dtype)
    assert y.dtype == (given if asked is None else asked)
    expected = (np.asarray(x, np.float64) - 2.5) / np.sqrt(4 + 1e-5)
    found = np.asarray(y, np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_what_does_not_vary_gives_the_bias_where_epsilon_is_0():
    var, bias = jnp.array([0.0, 4.0, 0.0]), jnp.array([1.0, 2.0, -3.0])
    y = normalize(X, MEAN, var, None, bias, epsilon=0.0)
    np.testing.assert_array_equal(y[:, 0], 1.0)
    np.testing.assert_array_equal(y[:, 2], -3.0)
    np.testing.assert_allclose(y[:, 1], (X[:, 1] - 2.5) / 2 + 2, rtol=1e-6)
