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
    assert set(found.local.values()) == {0.0}
    assert found.output == 0 and found.gradient == 0
    assert leakage_table(found).count("none") == 8


def test_batch_norm_leaks_in_training_from_its_first_layer_on():
    found = probe(jaxbn.batch_norm(), True, example=-1)
    assert list(found.layers) == ["group", "first", "second"]
    assert found.layers["group"] == 0
    assert found.layers["first"] > 0.01 and found.layers["second"] > 0.01
    assert found.output > 0.01 and found.gradient > 0.01
    assert found.local["group"] == 0
    assert min(found.local["first"], found.local["second"]) > 0.01
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
    with pytest.raises(ValueError, match=r"loss returns \(2,\) by .*; take its mean"):
        probe_landscape(lambda w: w, jnp.ones(2), [0.1])
    with pytest.raises(ValueError, match=r"loss returns \(\(\), \(2,\)\) by shape, "):
        probe_landscape(lambda w: (w.sum(), w), jnp.ones(2), [0.1])
    with pytest.raises(ValueError, match=r"dtypes \['int32'\], expected floating"):
        probe_landscape(lambda w: jnp.float32(0), jnp.ones(2, int), [0.1])


def test_a_layer_that_leaks_is_told_from_those_behind_it():
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jaxbn.linen.Norm(jaxbn.group_norm(2), False, name="before")(x)
            x = jaxbn.linen.Norm(jaxbn.batch_norm(), False, name="leaky")(x)
            return jaxbn.linen.Norm(jaxbn.group_norm(2), False, name="behind")(x)

    model = Mixed()
    found = probe_leakage(model, model.init(KEY, X), X, example=2)
    assert found.layers["before"] == found.local["before"] == 0
    assert found.layers["leaky"] > 0.01 and found.layers["behind"] > 0.01
    assert found.local["leaky"] > 0.01 and found.local["behind"] == 0


class Folded(nn.Module):
    """Examples of several rows each, as tokens are normalized."""

    train: bool = True
    twice: bool = False

    @nn.compact
    def __call__(self, x):
        norm = jaxbn.linen.BatchNorm(use_running_average=not self.train, name="bn")
        rows = norm(x.reshape(-1, x.shape[-1]))
        rows = norm(2 * rows) if self.twice else rows
        return {
            "loss": jnp.float32(3),
            "classes": jnp.argmax(rows, -1),
            "y": rows.reshape(x.shape),
        }


@pytest.mark.parametrize("twice", [False, True])
def test_examples_of_several_rows_and_outputs_of_several_kinds(twice):
    model = Folded(twice=twice)
    variables = model.init(KEY, X)
    for example in range(3):
        found = probe_leakage(Folded(False, twice), variables, X, example=example)
        assert found.layers == {"bn": 0.0} and found.output == 0
    found = probe_leakage(model, variables, X)
    assert found.layers["bn"] > 0.01 and found.output > 0.01 and found.local["bn"] > 0


def test_integers_have_mates_but_no_gradient():
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(10, 6)(tokens)
            return nn.BatchNorm(use_running_average=False)(x)

    model = Tokens()
    tokens = jax.random.randint(KEY, (8, 4), 0, 10)
    variables = model.init(KEY, tokens)
    with pytest.raises(
        ValueError, match=r"x has dtype int32, .*; pass an array like x"
    ):
        probe_leakage(model, variables, tokens)
    found = probe_leakage(model, variables, tokens, mates=(tokens + 3) % 10)
    assert found.gradient is None and found.output > 0.01
    assert "gradient" not in leakage_table(found)


def test_mates_that_are_not_finite():
    model = nn.BatchNorm(use_running_average=False)
    variables = model.init(KEY, X)
    mates = X.at[3].set(jnp.inf)
    assert probe_leakage(model, variables, X, mates=mates).output == np.inf
    still = nn.BatchNorm(use_running_average=True)
    assert probe_leakage(still, variables, X, mates=mates).output == 0
    x = X.at[0, 0, 0].set(jnp.nan)
    assert probe_leakage(still, variables, x).output == 0


def test_examples_elsewhere_are_refused():
    class Elsewhere(nn.Module):
        @nn.compact
        def __call__(self, x, of):
            x = nn.BatchNorm(use_running_average=True, name="bn")(
                x[:3] if of == "layer" else x
            )
            return {"layer": x, "output": jnp.argmax(x, -1), "sum": x.sum()}[of]

    for of, said in (
        ("layer", r"layer 'bn' is given .* \(3, 4, 6\), .* 8 examples .*; probe a"),
        ("output", r"shapes \[\(8, 4\)\], expected a floating one .*; pass a model"),
        ("sum", r"shapes \[\(\)\], expected a floating one with 8 .*; pass a model"),
    ):
        model = Elsewhere()
        variables = model.init(KEY, X, of)
        with pytest.raises(ValueError, match=said):
            probe_leakage(model, variables, X, of)
