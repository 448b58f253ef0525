"""Tools that look into programs or replace functions under them, with our layers."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.experimental import checkify

import jaxbn
import jaxbn.linen
import jaxbn.nnx

X = np.random.default_rng(0).normal(2, 3, (8, 4)).astype(np.float32)
PARAMS, STATE = jaxbn.bn_init(4)


def apply(x, **options):
    return jaxbn.bn_apply(PARAMS, STATE, x, True, **options)[0]


def slope(x):
    return jax.grad(lambda x: (apply(x) ** 3).sum())(x)


SWITCHES = {
    "no jit": jax.disable_jit,
    "leaks": jax.checking_leaks,
    "checks": lambda: jax.enable_checks(True),
    "nans": lambda: jax.debug_nans(True),
    "infs": lambda: jax.debug_infs(True),
    "chex, no jit": chex.fake_jit,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_of_jax_change_nothing(name):
    expected, masked = slope(X), jnp.zeros((8, 1), bool)
    with SWITCHES[name]():
        found, nothing = jax.jit(slope)(X), jax.jit(apply)(X, mask=masked)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(nothing, 0)


def test_chex_in_place_of_pmap():
    with chex.fake_pmap():
        y = jax.pmap(lambda x: apply(x, axis_name="i"), axis_name="i")(
            X.reshape(2, 4, 4)
        )
    np.testing.assert_allclose(y.reshape(8, 4), apply(X), rtol=1e-5, atol=1e-6)


def test_one_trace_for_all_steps():
    step = jax.jit(chex.assert_max_traces(apply, n=1))
    for _ in range(3):
        step(X)


@pytest.mark.parametrize("errors", [checkify.float_checks, checkify.all_checks])
@pytest.mark.parametrize("function", [apply, slope])
def test_checkify_finds_nothing(function, errors):
    error, y = checkify.checkify(function, errors=errors)(X)
    assert error.get() is None
    np.testing.assert_allclose(y, function(X), rtol=1e-5, atol=1e-5)


def test_treescope_draws_layers_and_pairs():
    treescope = pytest.importorskip("treescope")
    for thing in (
        jaxbn.batch_norm(),
        jaxbn.linen.BatchNorm(),
        jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
    ):
        name = type(thing).__name__
        assert name in treescope.render_to_text(thing)
        assert len(treescope.render_to_html(thing)) > 1000


def test_jaxtyping_checks_what_comes_and_goes():
    typing = pytest.importorskip("jaxtyping", reason="jaxtyping is not installed")
    beartype = pytest.importorskip("beartype", reason="beartype is not installed")
    rows = typing.Float[typing.Array, "n c"]

    @typing.jaxtyped(typechecker=beartype.beartype)
    def step(x: rows) -> rows:
        return apply(x)

    assert jax.jit(step)(X).shape == X.shape


class Net(nn.Module):
    layer: type
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        return nn.Dense(3)(self.layer(use_running_average=not self.train)(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("provider", ["QtProvider", "PtqProvider"])
def test_qwix_quantizes_what_is_around(provider, train):
    """As around Flax's layer; it intercepts the calls of Dense."""
    qwix = pytest.importorskip("qwix", reason="qwix is not installed")
    rule = qwix.QtRule(module_path=".*", weight_qtype="int8")
    found = []
    for layer in (nn.BatchNorm, jaxbn.linen.BatchNorm):
        model = Net(layer, train)
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.numpy_rank_promotion("allow"))
            quantized = qwix.quantize_model(model, getattr(qwix, provider)([rule]))
            variables = quantized.init(jax.random.key(0), X)
            y, _ = quantized.apply(variables, X, mutable=["batch_stats"])
        found.append(y)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
