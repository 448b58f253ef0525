"""What proves itself by comparing asks for products in full precision.

GPUs round the factors of float32 products to TF32, which has eleven bits, unless they
are asked for more. Here a product does so on any machine.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxbn.linen
from jaxbn.diagnostics import probe_landscape, probe_leakage
from jaxbn.surgery import fold

X = np.random.default_rng(0).normal(1, 1, (32, 64)).astype(np.float32)


class Products:
    """`lax.dot_general` as on a GPU; notes the precision that was asked for."""

    def __init__(self):
        self.asked = set()

    def __call__(self, a, b, dimensions, precision=None, **options):
        asked = precision or jax.config.jax_default_matmul_precision
        self.asked.add(asked)
        if asked != "highest":
            a, b = (lax.reduce_precision(factor, 8, 10) for factor in (a, b))
        return lax.dot_general(a, b, dimensions, precision=precision, **options)

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


@pytest.fixture
def products():
    with jax.default_matmul_precision("default"):
        yield Products()


class Net(nn.Module):
    products: Products
    still: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64, dot_general=self.products)(x)
        x = jaxbn.linen.BatchNorm(use_running_average=self.still)(x)
        return nn.Dense(8, dot_general=self.products)(nn.relu(x))


def start(model):
    variables = model.init(jax.random.key(0), X)
    stats = {"mean": jnp.full(64, 2.0), "var": jnp.full(64, 0.3)}
    model.products.asked.clear()
    return {**variables, "batch_stats": {"BatchNorm_0": stats}}


def test_the_products_here_are_imprecise(products):
    dimensions = (((1,), (0,)), ((), ()))
    rough = products(X, X.T, dimensions)
    with jax.default_matmul_precision("highest"):
        exact = products(X, X.T, dimensions)
    error = np.abs(rough - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 1e-2
    assert products.asked == {"default", "highest"}


def test_a_right_fold_is_not_refused(products, monkeypatch):
    model = Net(products)
    variables = start(model)
    folded = fold(model, variables, X)
    assert folded.error < 1e-5 and len(folded.pairs) == 1
    assert "highest" in products.asked
    ignored = lambda precision: contextlib.nullcontext()
    monkeypatch.setattr(jax, "default_matmul_precision", ignored)
    with pytest.raises(ValueError, match="the outputs of the folded model differ by"):
        fold(model, variables, X)


def test_leakage_is_probed_in_full_precision(products):
    model = Net(products, still=False)
    variables = start(model)
    assert probe_leakage(model, variables, X).output > 0
    assert products.asked == {"highest"}


def test_the_landscape_is_probed_in_full_precision(products):
    model = Net(products)
    variables = start(model)

    def loss(params):
        return jnp.mean(model.apply({**variables, "params": params}, X) ** 2)

    products.asked.clear()
    with jax.default_matmul_precision("highest"):
        exact = probe_landscape(loss, variables["params"], [1e-3])
    found = probe_landscape(loss, variables["params"], [1e-3])
    # But for the trace that only asks for the shape of the loss.
    np.testing.assert_array_equal(found.distances, exact.distances)
