"""Nothing leaks in evaluation, exactly; batch norm leaks in training, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn
import jaxbn.linen
from jaxbn.diagnostics import (
    leakage_table,
    plot_landscape,
    plot_leakage,
    probe_landscape,
    probe_leakage,
)

X = jax.random.normal(jax.random.key(1), (8, 4, 6))
KEY = jax.random.key(0)


class Net(nn.Module):
    """Group norms, then whatever norms."""

    norm: jaxbn.Norm

    @nn.compact
    def __call__(self, x, train):
        group = jaxbn.linen.Norm(jaxbn.group_norm(2), name="group")
        x = nn.relu(nn.Dense(6)(group(x, use_running_average=not train)))
        for name in ("first", "second"):
            norm = jaxbn.linen.Norm(self.norm, name=name)
            x = nn.relu(nn.Dense(6)(norm(x, use_running_average=not train)))
        return x.mean(1)


def probe(norm, train, **options):
    model = Net(norm)
    return probe_leakage(model, model.init(KEY, X, False), X, train, **options)


@pytest.mark.parametrize(
    ("norm", "train"),
    [
        (jaxbn.batch_norm(), False),
        (jaxbn.group_norm(2), True),
        (jaxbn.layer_norm(), True),
        (jaxbn.frozen_norm(), True),
    ],
)
def test_nothing_leaks_exactly(norm, train):
    found = probe(norm, train, example=3)
    assert found.layers == {"group": 0.0, "first": 0.0, "second": 0.0}
    assert found.output == 0 and found.gradient == 0
    assert leakage_table(found).count("none") == 5


def test_batch_norm_leaks_in_training_from_its_first_layer_on():
    found = probe(jaxbn.batch_norm(), True, example=-1)
    assert list(found.layers) == ["group", "first", "second"]
    assert found.layers["group"] == 0
    assert found.layers["first"] > 0.01 and found.layers["second"] > 0.01
    assert found.output > 0.01 and found.gradient > 0.01
    assert plot_leakage(found).axes[0].get_xticklabels()[1].get_text() == "first"


def test_ghosts_leak_among_themselves_only():
    mates = X.at[4:].set(X[:4])
    norm = jaxbn.ghost_norm(size=4)
    assert probe(norm, True, mates=mates).output == 0
    assert probe(norm, True, mates=mates, example=5).output > 0.01


def test_an_nnx_model():
    model = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
    assert probe_leakage(model, None, X, use_running_average=False).output > 0.01
    model.eval()
    assert probe_leakage(model, None, X).output == 0


def test_probes_that_are_refused():
    model = nn.BatchNorm()
    variables = model.init(KEY, X, use_running_average=True)
    for x, example in ((X[:1], 0), (X, 8), (jnp.zeros(()), 0)):
        with pytest.raises(ValueError, match=r"expected at least two .*; pass a batch"):
            probe_leakage(model, variables, x, example=example)
    with pytest.raises(ValueError, match=r"mates has shape \(3, 4, 6\), .*; give an"):
        probe_leakage(model, variables, X, mates=X[:3])


def test_the_landscape_of_a_quadratic():
    curvature = jnp.array([1.0, 4.0])

    def loss(params):
        return 0.5 * jnp.sum(curvature * params["w"] ** 2)

    params = {"w": jnp.array([2.0, 1.0])}
    found = probe_landscape(loss, params, [0.0, 0.1, 0.5])
    slope = np.array([2.0, 4.0])
    for s, value, distance, beta in zip(
        found.steps, found.losses, found.distances, found.smoothness, strict=True
    ):
        there = np.array([2.0, 1.0]) - s * slope
        assert value == pytest.approx(0.5 * np.sum(np.array([1, 4]) * there**2), 1e-5)
        expected = s * np.linalg.norm(np.array([1, 4]) * slope)
        assert distance == pytest.approx(expected, 1e-5, 1e-6)
        wanted = expected / (s * np.linalg.norm(slope)) if s else 0
        assert beta == pytest.approx(wanted, 1e-5, 1e-6)
    assert found.loss == 4 and found.gradient_norm == pytest.approx(np.sqrt(20))
    assert len(plot_landscape({"bn": [found, found]}).axes) == 2


def test_landscapes_that_are_refused():
    with pytest.raises(ValueError, match=r"steps has shape \(0,\), expected a list"):
        probe_landscape(jnp.sum, jnp.ones(2), [])
    with pytest.raises(ValueError, match=r"shape \(2,\), expected a scalar; take"):
        probe_landscape(lambda w: w, jnp.ones(2), [0.1])
