"""Options left out are those that the documentation names, in words or in numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn
from jaxbn.population import commit_moments

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(1.0, 3e-3, (6, 2, 4, 64)), jnp.float32)
"""With a variance about as large as epsilon, so that both have a say."""

EPSILON, LAST = {"epsilon": 1e-5}, {"axis": -1}
USUAL = {"momentum": 0.99, "debias": False, "unbiased": False, "skip_nonfinite": True}
NORMS = {
    "batch norm": (jaxbn.batch_norm, {**EPSILON, **LAST, **USUAL}),
    "renorm": (
        jaxbn.batch_renorm,
        {
            **EPSILON,
            **LAST,
            "r_max": 3.0,
            "d_max": 5.0,
            "warmup_steps": 5000,
            "r_steps": 40_000,
            "d_steps": 25_000,
        },
    ),
    "adaptive": (
        jaxbn.adaptive_norm,
        {
            **EPSILON,
            **LAST,
            "prior_count": 16.0,
            "adapt_mean": True,
            "adapt_var": True,
            "stream_momentum": None,
        },
    ),
    "frozen": (
        jaxbn.frozen_norm,
        {**EPSILON, **LAST, "constant_affine": False, "fold": True},
    ),
    "group norm": (jaxbn.group_norm, {**EPSILON, **LAST, "num_groups": 32}),
    "instance norm": (jaxbn.instance_norm, {**EPSILON, **LAST}),
    "layer norm": (jaxbn.layer_norm, {**EPSILON, **LAST, "over_positions": False}),
    "no norm": (jaxbn.no_norm, {**LAST, "use_scale": False, "use_bias": False}),
    "ghosts": (
        lambda **options: jaxbn.ghost_norm(size=2, **options),
        {**EPSILON, **LAST},
    ),
    "domains": (
        lambda **options: jaxbn.domain_norm(2, jaxbn.batch_norm(), **options),
        {"affine": "shared"},
    ),
    "split": (
        lambda **options: jaxbn.split_norm(jaxbn.batch_norm(), **options),
        {"num_splits": 2, "affine": "per_domain"},
    ),
    "shuffled": (
        lambda **options: jaxbn.shuffled(jaxbn.ghost_norm(size=2), **options),
        {"axis_name": None, "seed": 0},
    ),
}
STATE = {"mean": jnp.full(64, 1.001), "var": jnp.full(64, 2e-5)}
PARAMS = {"scale": jnp.full(64, 2.0), "bias": jnp.full(64, 0.5)}
MOMENTS = jaxbn.batch_moments(X, axis=-1)
FUNCTIONS = {
    "normalize": (
        lambda **options: jaxbn.normalize(X, *STATE.values(), **options),
        {**EPSILON, **LAST, "scale": None, "bias": None},
    ),
    "bn_apply": (
        lambda **options: jaxbn.bn_apply(PARAMS, STATE, X, True, **options),
        {**EPSILON, **LAST, **USUAL, "custom_derivative": True},
    ),
    "bn_init": (
        lambda **options: jaxbn.bn_init(3, **options),
        {
            "use_scale": True,
            "use_bias": True,
            "param_dtype": jnp.float32,
            "momentum": 0.99,
            "debias": False,
            "key": jax.random.key(0),
        },
    ),
    "batch_moments": (lambda **options: jaxbn.batch_moments(X, **options), LAST),
    "merge_moments": (
        lambda **options: jaxbn.merge_moments(
            jax.vmap(jaxbn.batch_moments)(X), **options
        ),
        {"axis": 0},
    ),
    "update_running": (
        lambda **options: jaxbn.update_running(STATE, MOMENTS, **options),
        USUAL,
    ),
    "commit_moments": (
        lambda **options: commit_moments({"bn": STATE}, {"bn": MOMENTS}, **options),
        USUAL,
    ),
    "apply_jointly": (
        lambda **options: jaxbn.apply_jointly(
            PARAMS, STATE, (X[:2], X[2:]), True, **options
        ),
        {**EPSILON, **LAST, **USUAL},
    ),
    "standardize_kernel": (
        lambda **options: jaxbn.standardize_kernel(X, **options),
        {**EPSILON, **LAST},
    ),
    "standardize_kernels": (
        lambda **options: jaxbn.standardize_kernels(
            {"conv": {"kernel": X}, "attention": {"kernel": X[0]}}, **options
        ),
        {**EPSILON, "where": lambda path: path.startswith("conv")},
    ),
}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_without_options_does_what_it_says(name):
    function, named = FUNCTIONS[name]
    assert_same(function(), function(**named))


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_without_options_does_what_it_says(name):
    make, named = NORMS[name]
    left_out, said = make(), make(**named)
    assert left_out.axis == said.axis and left_out.epsilon == said.epsilon
    assert_same(left_out.init(64), said.init(64))
    params, state = said.init(64)
    told = {"domain": jnp.arange(6) % 2} if name == "domains" else {}
    for train in (True, False):
        # Further than the steps of a warm-up, and with a mean that is not the batch's.
        state = {k: v + 30_000 if k == "count" else v + 1e-5 for k, v in state.items()}
        found, expected = (
            norm.apply(params, state, X, train, **told) for norm in (left_out, said)
        )
        assert_same(found, expected)


def test_epsilon_is_added_to_the_variance_of_a_kernel():
    kernel = np.asarray(X[0], np.float64)
    mean, var = kernel.mean((0, 1)), kernel.var((0, 1))
    expected = (kernel - mean) / np.sqrt(var + 1e-5)
    found = jaxbn.standardize_kernel(X[0])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
