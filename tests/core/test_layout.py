"""Meshes that type arrays by where they lie: the same numbers, and layouts kept."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

import jaxbn.linen
from jaxbn import bn_apply, bn_init
from jaxbn.variants import shuffle, unshuffle

pytestmark = pytest.mark.usefixtures("eight_devices")
EXPLICIT, AUTO = AxisType.Explicit, AxisType.Auto
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (16, 6, 4)).astype(np.float32)
COTANGENT = RNG.normal(size=X.shape).astype(np.float32)
PARAMS = {"scale": jnp.array([1.0, 2.0, 3.0, 0.5]), "bias": jnp.arange(4.0)}
_, STATE = bn_init(4)
SPECS = {
    "examples": P("d"),
    "and positions": P("d", "m"),
    "and channels": P("d", None, "m"),
    "over two axes": P(("d", "m")),
}


def laid_out(*kinds):
    devices = np.array(jax.devices()[:8]).reshape(4, 2)
    return Mesh(devices, ("d", "m"), axis_types=kinds)


def layout(x):
    return x.shape, jax.typeof(x).sharding.spec


def step(x, cotangent, mask=None, **options):
    def loss(params, x):
        y, new = bn_apply(params, STATE, x, True, mask=mask, **options)
        return jnp.sum(y * cotangent), (y, new)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(PARAMS, x)


@pytest.mark.parametrize("where", SPECS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [{}, {"axis_name": "d"}], ids=str)
def test_all_together_however_the_array_lies(where, masked, options):
    spec = SPECS[where]
    if jax.__version_info__ < (0, 8) and options and where == "over two axes":
        pytest.skip("jax 0.7 cannot split an axis of a typed array")
    mask = RNG.uniform(size=(16, 6)) < 0.7 if masked else np.ones((16, 6), bool)
    with jax.set_mesh(laid_out(EXPLICIT, EXPLICIT)):
        arrays = jax.device_put((X, COTANGENT), spec)
        weights = jax.device_put(mask, P(*spec[:2])) if masked else None
        (dparams, dx), (y, new) = jax.jit(lambda *a: step(*a, **options))(
            *arrays, weights
        )
        assert layout(dx) == layout(y) == layout(arrays[0])
        assert layout(new["mean"]) == ((4,), P(None))
    mask = mask[..., None]
    expected, absorbed = oracle.bn_apply(PARAMS, STATE, X, True, mask=mask)
    slopes = oracle.bn_gradient(PARAMS, STATE, X, COTANGENT, True, mask=mask)
    oracle.assert_close(y, expected, 2e-6)
    found = dx, dparams["scale"], dparams["bias"]
    for slope, wanted in zip(found, slopes, strict=True):
        oracle.assert_close(slope, wanted, 2e-5)
    for key in absorbed:
        oracle.assert_close(new[key], absorbed[key], 1e-6)


@pytest.mark.parametrize("where", ["examples", "and channels"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_sizes_however_the_array_lies(where, size):
    with jax.set_mesh(laid_out(EXPLICIT, EXPLICIT)):
        arrays = jax.device_put((X, COTANGENT), SPECS[where])
        options = {"axis_name": "d", "normalization_batch_size": size}
        (_, dx), (y, _) = jax.jit(lambda *a: step(*a, **options))(*arrays)
    y, dx = np.asarray(y), np.asarray(dx)
    for start in range(0, 16, size):
        part = slice(start, start + size)
        data = PARAMS, STATE, X[part]
        oracle.assert_close(y[part], oracle.bn_apply(*data, True)[0], 2e-6)
        slope = oracle.bn_gradient(*data, COTANGENT[part], True)[0]
        oracle.assert_close(dx[part], slope, 2e-5)


def test_the_state_keeps_its_layout():
    def new_state(state, x):
        return bn_apply(PARAMS, state, x, True, axis_name="d")[1]

    with jax.set_mesh(laid_out(EXPLICIT, EXPLICIT)):
        x = jax.device_put(X, P("d", None, "m"))
        stacked = jax.tree.map(lambda a: jnp.stack([a] * 4), STATE)
        for state, spec in ((STATE, P()), (STATE, P("m")), (stacked, P("d", "m"))):
            state = jax.device_put(state, spec)
            new = jax.jit(new_state)(state, x)
            for key, old in state.items():
                assert layout(new[key]) == layout(old)
                mean = X.mean((0, 1)) if key == "mean" else 0.99 + 0.01 * X.var((0, 1))
                mean = mean * (0.01 if key == "mean" else 1)
                oracle.assert_close(new[key], np.broadcast_to(mean, old.shape), 1e-6)


def test_modules_start_and_examples_are_shuffled_there():
    layer = jaxbn.linen.BatchNorm(use_running_average=False, axis_name="d")
    key = jax.random.key(0)
    with jax.set_mesh(laid_out(EXPLICIT, EXPLICIT)):
        x = jax.device_put(X, P("d"))
        started = layer.init(key, x)["batch_stats"]
        mixed = jax.jit(shuffle)(x, key)
        assert layout(mixed) == layout(x)
        back = jax.jit(unshuffle)(mixed, key)
    np.testing.assert_array_equal(started["mean"], STATE["mean"])
    np.testing.assert_array_equal(back, X)
    np.testing.assert_array_equal(mixed, X[jax.random.permutation(key, 16)])


def test_what_such_a_mesh_cannot_serve_is_refused():
    def layer(x, **options):
        return bn_apply(PARAMS, STATE, x, True, **options)

    with jax.set_mesh(laid_out(EXPLICIT, EXPLICIT)):
        words = r"axis_name is None, but .* split along \('d',\) .*; pass axis_name="
        with pytest.raises(ValueError, match=words):
            layer(jax.device_put(X, P("d")), normalization_batch_size=4)
    with jax.set_mesh(laid_out(EXPLICIT, AUTO)):
        words = r"only \('d',\) are Explicit axes .*; make the mesh with the same"
        with pytest.raises(ValueError, match=words):
            jax.jit(lambda x: layer(x, axis_name=("d", "m")))(X)
