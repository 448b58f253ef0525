"""Derivatives of the plain layer: all modes and orders, what is kept, what composes.

That the gradient is right for every row of the catalog is a law of test_laws.py; under
devices, of test_laws_devices.py.
"""

import catalog
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.experimental.jet import jet
from jax.test_util import check_grads

import jaxbn
from jaxbn.core import feature_axes, feature_shape

MASK = np.array([[1, 0], [1, 1], [0, 0], [1, 1], [0, 1]], bool)
WEIGHTS = MASK * np.array([0.5, 1.0, 3.0, 2.0, 0.25])[:, None]
MASKS = {"no mask": None, "bool": MASK, "weights": WEIGHTS}
HIDING = {
    "elements": MASK,
    "examples": MASK[:, :1],
    "positions": MASK[:1],
    "examples weighed": WEIGHTS[:, 1:],
}
MEASURES = ("adaptive", "group norm", "instance norm", "layer norm")
"""What measures its input in evaluation too."""
SHAPE = (5, 2, 3)


def draw(seed, shape=SHAPE, dtype="float64"):
    x = np.random.default_rng(seed).normal(1.0, 2.0, shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * np.random.default_rng(seed + 100).normal(0.5, 1.0, shape)
    return jnp.asarray(x, dtype)


def layer(mask=None, dtype="float64", train=True, **options):
    """Returns `f(x, scale, bias) -> (y, mean, var)`, the last two of the new state."""
    _, state = jaxbn.bn_init(SHAPE[-1], param_dtype=dtype)

    def f(x, scale, bias):
        params = {"scale": scale, "bias": bias}
        y, new = jaxbn.bn_apply(
            params, state, x, train, mask=mask, momentum=0.5, **options
        )
        return y, new["mean"], new["var"]

    return f


def arguments(dtype="float64"):
    return draw(0, dtype=dtype), draw(1, (3,), dtype), draw(2, (3,), dtype)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradient_is_the_oracle_s(kind, train, dtype, x64):
    with x64():
        x, scale, bias = arguments(dtype)
        cotangent, mask = draw(3, dtype=dtype), MASKS[kind]

        def loss(x, scale, bias):
            y, *_ = layer(mask, dtype, train)(x, scale, bias)
            return jnp.sum(cotangent * y).real

        ours = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, scale, bias)
        _, state = jaxbn.bn_init(3, param_dtype=dtype)
        params = {"scale": scale, "bias": bias}
        theirs = oracle.bn_gradient(params, state, x, cotangent, train, mask=mask)
        for a, b in zip(ours, theirs, strict=True):
            oracle.assert_close(a, b, 1e-12)


@pytest.mark.parametrize("kind", MASKS)
def test_forward_and_reverse_to_second_order_by_finite_differences(kind, x64):
    """Of y and of the state returned, which carries gradients too."""
    with x64():
        f = jax.jit(layer(MASKS[kind]))
        check_grads(f, arguments(), order=2, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_every_derivative_is_that_of_plain_autodiff(kind, dtype, x64):
    with x64():
        inputs = arguments(dtype)
        directions = (draw(4, dtype=dtype), draw(5, (3,), dtype), draw(6, (3,), dtype))
        ours = layer(MASKS[kind], dtype)
        plain = layer(MASKS[kind], dtype, custom_derivative=False)

        @jax.jit
        def derivatives(*inputs):
            return tuple(_all_derivatives(f, inputs, directions) for f in (ours, plain))

        a, b = derivatives(*inputs)
        jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-12), a, b)


def _all_derivatives(f, inputs, directions):
    """Returns the tangent, the gradient, and the gradient along the directions."""

    def loss(*inputs):
        y, mean, var = f(*inputs)
        return jnp.sum(jnp.abs(y) ** 3) + jnp.sum(jnp.abs(mean) ** 2) + jnp.sum(var**2)

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    _, tangent = jax.jvp(f, inputs, directions)
    return tangent, jax.jvp(gradient, inputs, directions)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("custom", [True, False], ids=["custom", "plain"])
def test_nan_behind_the_mask_has_no_tangent(train, custom, x64):
    with x64():
        (x, scale, bias), dx = arguments(), draw(4)
        hidden = [jnp.where(MASK[..., None], a, jnp.nan) for a in (x, dx)]
        f = layer(MASK, train=train, custom_derivative=custom)

        def push(x, dx):
            return jax.jvp(lambda x: f(x, scale, bias), (x,), (dx,))

        actual, expected = jax.jit(push)(*hidden), jax.jit(push)(x, dx)
        jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-14), actual, expected)


def test_hessian_is_that_of_plain_autodiff_in_reverse_over_reverse(x64):
    with x64():
        x, scale, bias = arguments()

        def second(f):
            def slope(x):
                g = jax.grad(lambda x: jnp.sum(jnp.sin(f(x, scale, bias)[0])))(x)
                return jnp.sum(g**2)

            return jax.jit(jax.grad(slope))(x)

        plain = layer(MASK, custom_derivative=False)
        oracle.assert_close(second(layer(MASK)), second(plain), 1e-12)


@pytest.mark.parametrize("kind", HIDING)
@pytest.mark.parametrize("custom", [True, False], ids=["custom", "plain"])
def test_what_is_hidden_has_no_say_in_second_derivatives(kind, custom, x64):
    """NaN behind the mask, in `x` and in what is multiplied by y, and 0 there."""
    with x64():
        (x, scale, bias), factor = arguments(), draw(4)
        f = layer(HIDING[kind], custom_derivative=custom)
        shown = np.broadcast_to(HIDING[kind][..., None] != 0, SHAPE)

        def slope(x, factor):
            def loss(x):
                y, mean, var = f(x, scale, bias)
                return jnp.sum(jnp.where(shown, factor * y**3, 0)) + jnp.sum(mean * var)

            return jnp.sum(jax.grad(loss)(x) ** 2)

        derive = jax.jit(jax.grad(slope, argnums=(0, 1)))
        zero, nan = (
            derive(*(jnp.where(shown, a, value) for a in (x, factor)))
            for value in (0.0, jnp.nan)
        )
        jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-12), nan, zero)
        assert np.all(np.asarray(nan)[:, ~shown] == 0)


def test_gradient_through_the_state_by_hand(x64):
    with x64():
        x, scale, bias = arguments()
        f, n = layer(), SHAPE[0] * SHAPE[1]
        centered = x - x.mean((0, 1), keepdims=True)
        dmean = jax.grad(lambda x: f(x, scale, bias)[1].sum())(x)
        dvar = jax.grad(lambda x: f(x, scale, bias)[2].sum())(x)
        oracle.assert_close(dmean, np.full(SHAPE, 0.5 / n), 1e-14)
        oracle.assert_close(dvar, 0.5 * 2 * centered / n, 1e-14)


def test_gradient_passes_into_the_old_state_but_not_into_the_mask():
    x, scale, bias = arguments("float32")
    params, (_, state) = {"scale": scale, "bias": bias}, jaxbn.bn_init(3)

    def f(state, weights):
        y, new = jaxbn.bn_apply(params, state, x, True, mask=weights, momentum=0.75)
        return jnp.sum(y**3) + jnp.sum(new["mean"]) + jnp.sum(new["var"])

    dstate, dweights = jax.grad(f, argnums=(0, 1))(state, WEIGHTS.astype("float32"))
    oracle.assert_close(dstate["mean"], np.full(3, 0.75), 1e-6)
    oracle.assert_close(dstate["var"], np.full(3, 0.75), 1e-6)
    assert np.all(dweights == 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_what_is_kept_for_the_backward_is_x_and_a_few_numbers(dtype, masked, jitted):
    shape, channels = (32, 4, 3), 3
    x = draw(0, shape, dtype)
    mask = jnp.asarray(np.arange(128).reshape(32, 4) % 3 > 0) if masked else None
    params, state = jaxbn.bn_init(channels)

    def f(params, x):
        return jaxbn.bn_apply(params, state, x, True, mask=mask)[0]

    _, pullback = jax.vjp(jax.jit(f) if jitted else f, params, x)
    kept = [a for a in jax.tree.leaves(pullback) if hasattr(a, "shape")]
    large = [a for a in kept if a.size == x.size]
    assert [(a.shape, a.dtype) for a in large] == [(shape, x.dtype)]
    between = [a for a in kept if channels < a.size < x.size]
    assert all(masked and a.dtype == bool and a.size == mask.size for a in between)
    assert len(between) <= masked


def test_vmap_of_grad(x64):
    with x64():
        xs, cotangent = draw(0, (4, *SHAPE)), draw(3)
        _, scale, bias = arguments()

        def loss(x, scale, bias):
            return jnp.sum(layer(MASK)(x, scale, bias)[0] * cotangent)

        gradient = jax.grad(loss, argnums=(0, 1, 2))
        mapped = jax.jit(jax.vmap(gradient, (0, None, None)))(xs, scale, bias)
        one_by_one = [jax.jit(gradient)(x, scale, bias) for x in xs]
        for a, *b in zip(mapped, *one_by_one, strict=True):
            oracle.assert_close(a, np.stack(b), 1e-13)


def test_grad_under_checkpoint_and_scan(x64):
    """Four layers in a row: a loop, a scan, a scan of checkpoints, a checkpoint."""
    with x64():
        x, scale, bias = arguments()
        scales, biases = jnp.stack([scale] * 4), jnp.stack([bias] * 4)

        def block(x, params):
            return jnp.tanh(layer(MASK)(x, *params)[0]) + x, None

        def loop(f, x, *params):
            for k in range(4):
                x, _ = f(x, tuple(p[k] for p in params))
            return x

        def scan(f, x, *params):
            return jax.lax.scan(f, x, params)[0]

        def gradient(run):
            loss = lambda *inputs: jnp.sum(run(*inputs) ** 2)
            return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, scales, biases)

        kept = jax.checkpoint(block)
        expected = gradient(lambda *inputs: loop(block, *inputs))
        for run in (
            lambda *inputs: scan(block, *inputs),
            lambda *inputs: scan(kept, *inputs),
            lambda *inputs: loop(kept, *inputs),
            jax.checkpoint(lambda *inputs: loop(block, *inputs)),
        ):
            jax.tree.map(
                lambda a, b: oracle.assert_close(a, b, 1e-12), gradient(run), expected
            )


def test_gradient_of_a_constant_channel_and_of_one_element_is_finite_and_zero():
    """Variance 0: the output is the bias whatever x is, to first order."""
    for x in (jnp.full((6, 3), 7.0), jnp.arange(3.0)[None]):
        params, state = jaxbn.bn_init(3)

        def loss(params, x, state=state):
            y, new = jaxbn.bn_apply(params, state, x, True)
            return jnp.sum(y) + jnp.sum(new["var"])

        dparams, dx = jax.grad(loss, argnums=(0, 1))(params, x)
        assert np.all(dx == 0) and np.all(dparams["scale"] == 0)
        assert np.all(dparams["bias"] == len(x))


@pytest.mark.parametrize("row", catalog.ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("train", [True, False])
def test_jet_is_right_or_refused(row, train):
    norm, x = row.make(), jnp.linspace(-1.0, 1, 64).reshape(8, 4, 2)
    features = feature_shape(x, feature_axes(norm.axis, x.ndim))
    params, state = norm.init(features)
    apply = lambda x: norm.apply(params, state, x, train)[0]
    series = ((jnp.sin(x), jnp.zeros_like(x)),)
    measures = row.name in MEASURES or (train and not row.name.startswith("frozen"))
    if measures:
        with pytest.raises(ValueError, match=r"x is traced by jax\.experimental\.jet"):
            jet(apply, (x,), series)
        return
    _, (slope, _) = jet(apply, (x,), series)
    _, expected = jax.jvp(apply, (x,), (jnp.sin(x),))
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
