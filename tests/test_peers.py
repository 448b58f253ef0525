"""What other layers get wrong is right here. The comments give the number of each peer.

Measured with flax 0.12.8, dm-haiku 0.0.17 and equinox 0.13.8 on the CPU. Nothing is
asserted about them, so that they are free to be mended; our layers are held to the
oracle.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

import jaxbn
import jaxbn.linen
import jaxbn.nnx


def normal(seed, shape, mean=0.0, std=1.0):
    draws = np.random.default_rng(seed).normal(mean, std, shape)
    return jnp.asarray(draws, jnp.float32)


def linen_step(x, *, train=True, variables=None, mask=None, **options):
    """Returns `(y, batch_stats)` after one call of our linen layer."""
    layer = jaxbn.linen.BatchNorm(use_running_average=not train, **options)
    if variables is None:
        variables = layer.init(jax.random.key(0), x)
    step = jax.jit(
        lambda variables, x, mask: layer.apply(
            variables, x, mask=mask, mutable=["batch_stats"]
        )
    )
    y, new = step(variables, x, mask)
    return y, new["batch_stats"]


def nnx_step(x, *, train=True, mask=None, **options):
    """Returns `(y, state)` after one call of our nnx layer."""
    layer = jaxbn.nnx.BatchNorm(x.shape[-1], rngs=nnx.Rngs(0), **options)
    y = nnx.jit(lambda layer, x: layer(x, not train, mask=mask))(layer, x)
    return y, {key: getattr(layer, key)[...] for key in ("mean", "var")}


both = pytest.mark.parametrize("step", [linen_step, nnx_step], ids=["linen", "nnx"])


@both
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (1e3, 0.1),  # flax, linen and nnx: variance 0, outputs of std 31.5; haiku: NaN
        (1e4, 1.0),  # flax: outputs of std 315; haiku: NaN
    ],
)
def test_a_large_mean_does_not_cancel(step, mean, std):
    x = normal(0, (512, 3), mean, std)
    y, new = step(x, momentum=0.0)
    expected, theirs = oracle.bn_apply(*oracle.bn_init(3), x, True, momentum=0.0)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(new["var"], theirs["var"], rtol=1e-4)
    np.testing.assert_allclose(np.std(y, axis=0), 1, rtol=1e-3)


@both
def test_a_large_mean_in_bfloat16(step):
    x = normal(0, (512, 3), 1e3, 8.0).astype(jnp.bfloat16)  # haiku: std about 316
    y, _ = step(x)
    expected, _ = oracle.bn_apply(*oracle.bn_init(3), x, True)
    oracle.assert_close(y, expected, 4e-3)
    constant = jnp.full((512, 3), 1e3, jnp.bfloat16)
    y, _ = step(constant)
    assert np.all(y == 0)


SYNC = {
    # flax pools means and variances of devices with equal weight: mean 2.07 and
    # variance 3.98 where the pooled ones are 1.005 and 2.93
    "unequal": np.array([16, 1, 16, 1, 16, 1, 16, 1]),
    # flax: NaN on every device
    "one empty": np.array([16, 0, 8, 8, 8, 8, 8, 8]),
}


@pytest.mark.parametrize("kind", SYNC)
def test_devices_weigh_by_what_they_counted(kind, mesh):
    counts = SYNC[kind]
    x = normal(0, (8, 16, 3)) + 3.0 * (counts == 1).reshape(8, 1, 1)
    mask = np.arange(16) < counts[:, None]
    layer = jaxbn.linen.BatchNorm(
        use_running_average=False, momentum=0.0, axis_name="devices"
    )
    variables = layer.init(jax.random.key(0), x[0])

    def step(x, mask):
        return layer.apply(variables, x, mask=mask, mutable=["batch_stats"])

    y, new = jax.pmap(step, "devices", devices=list(mesh.devices))(x, mask)
    params, state = oracle.bn_init(3)
    expected, theirs = oracle.bn_apply_devices(
        params, [state] * 8, x, True, masks=mask, momentum=0.0
    )
    oracle.assert_close(y, np.stack(expected), 2e-5)
    for key in ("mean", "var"):
        values = np.stack([state[key] for state in theirs])
        oracle.assert_close(new["batch_stats"][key], values, 2e-6)


@both
@pytest.mark.parametrize("kind", ["empty", "all masked"])
def test_a_batch_of_nothing_keeps_the_statistics(step, kind):
    x = normal(0, (0 if kind == "empty" else 4, 3))
    mask = None if kind == "empty" else np.zeros(4, bool)
    y, new = step(x, mask=mask)  # flax: batch_stats NaN for ever
    assert y.shape == x.shape and np.all(y == 0)
    assert np.all(new["mean"] == 0) and np.all(new["var"] == 1)


@both
@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_infinity_in_the_data_does_not_stay_in_the_statistics(step, poison):
    x = normal(0, (8, 3)).at[2, 1].set(poison)
    _, new = step(x, momentum=0.5)  # flax: inf or NaN for ever
    expected = oracle.bn_apply(*oracle.bn_init(3), x, True, momentum=0.5)[1]
    assert new["mean"][1] == 0 and new["var"][1] == 1
    for key in new:
        oracle.assert_close(new[key], expected[key], 1e-6)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_nan_behind_the_mask_has_no_gradient(train):
    keep = np.array([1, 1, 0, 1, 0], bool)
    x = normal(0, (5, 3)).at[~keep].set(jnp.nan)
    layer = jaxbn.linen.BatchNorm(use_running_average=not train)
    variables = layer.init(jax.random.key(0), x)

    def loss(params, x):
        variables_ = {**variables, "params": params}
        y, _ = layer.apply(variables_, x, mask=keep, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y) * jnp.arange(15.0).reshape(5, 3))

    dparams, dx = jax.grad(loss, argnums=(0, 1))(variables["params"], x)
    assert np.all(dx[~keep] == 0)  # flax: every gradient NaN
    for gradient in (*dparams.values(), dx):
        assert np.all(np.isfinite(gradient))


@both
def test_real_masks_are_weights(step):
    x, weights = normal(0, (4, 3)), np.array([0.5, 0.0, 2.0, 1.0], np.float32)
    _, new = step(x, mask=weights, momentum=0.0)  # linen: cast; nnx: refused
    expected = oracle.bn_apply(*oracle.bn_init(3), x, True, mask=weights, momentum=0.0)[
        1
    ]
    for key in new:
        oracle.assert_close(new[key], expected[key], 1e-6)


@both
def test_running_statistics_are_not_rounded_to_bfloat16(step):
    x = jnp.asarray([[1000.0], [1000.0], [1000.0], [1008.0]], jnp.bfloat16)
    _, new = step(x, momentum=0.0, dtype=jnp.bfloat16)
    assert new["mean"].dtype == jnp.float32
    assert new["mean"][0] == 1002.0 and new["var"][0] == 12.0
    _, new = step(x, momentum=0.875)  # flax nnx, for 1000.25: 1000.0
    assert new["mean"][0] == 125.25 and new["var"][0] == 2.375


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["dtype from x", "dtype"])
def test_linen_equals_nnx_in_bfloat16_under_jit(train, dtype):
    x = normal(0, (64, 3), 3.0, 2.0).astype(jnp.bfloat16)
    mean, var = normal(1, 3, 3.0), normal(2, 3) ** 2 + 1
    layer = jaxbn.nnx.BatchNorm(3, dtype=dtype, rngs=nnx.Rngs(0))
    layer.mean[...], layer.var[...] = mean, var
    there = nnx.jit(lambda layer, x: layer(x, not train))(layer, x)
    variables = {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": mean, "var": var},
    }
    here, new = linen_step(x, train=train, variables=variables, dtype=dtype)
    # flax: they differ by 0.20 in evaluation, and return float32 unless told otherwise
    assert here.dtype == there.dtype == jnp.bfloat16
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(new["mean"], layer.mean[...])
    np.testing.assert_array_equal(new["var"], layer.var[...])


@pytest.mark.parametrize("axis", [(1, 3), (3, 1), (-1, 1), (1, -1), (-3, -1)])
def test_several_feature_axes_in_any_order(axis):
    x = normal(0, (4, 2, 5, 3), 2.0)  # flax keeps the order of a tuple as written
    y, new = linen_step(x, axis=axis, momentum=0.0)
    expected, theirs = oracle.bn_apply(
        *oracle.bn_init((2, 3)), x, True, axis=(1, 3), momentum=0.0
    )
    assert new["mean"].shape == (2, 3)
    oracle.assert_close(y, expected, 2e-5)
    for key in new:
        oracle.assert_close(new[key], theirs[key], 1e-6)


@both
def test_debiased_statistics_are_exact_after_one_step(step):
    x = normal(0, (16, 3), 5.0, 2.0)
    _, new = step(x, debias=True)  # equinox: variance off by 99 after 1 step
    np.testing.assert_allclose(new["mean"], np.mean(x, 0), rtol=1e-6)
    np.testing.assert_allclose(new["var"], np.var(x, 0), rtol=1e-5)


def test_debiased_statistics_after_a_hundred_steps():
    norm = jaxbn.batch_norm(debias=True)  # equinox: variance off by 0.58
    params, state = norm.init(3)
    xs = normal(0, (100, 16, 3), 5.0, 2.0)
    state, _ = jax.lax.scan(
        lambda s, x: norm.apply(params, s, x, True)[::-1], state, xs
    )
    _, theirs = oracle.bn_init(3, counts=True)
    for x in xs:
        _, theirs = oracle.bn_apply({}, theirs, x, True, debias=True)
    for key in state:
        oracle.assert_close(state[key], theirs[key], 1e-5)
