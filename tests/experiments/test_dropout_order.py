"""Dropout nowhere, before the head, before every batch norm: at smoke size."""

import jax
import jax.numpy as jnp
import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn import batch_norm
from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._dropout import DropoutMLP
from jaxbn.experiments.claims._dropout_order import ARMS, LAYERS, verdicts
from jaxbn.models import create_model


def test_dropout_before_a_norm_and_nowhere_else_shifts_its_variance(result):
    assert set(result.numbers) == set(ARMS)
    ratios = {arm: numbers["ratios"] for arm, numbers in result.numbers.items()}
    assert ratios["nowhere"].shape == (2, len(LAYERS))
    assert (ratios["every relu"][:, 1:] < ratios["nowhere"][:, 1:]).all()
    every = result.numbers["every relu"]
    np.testing.assert_allclose(every["ratios"][:, 1], every["predicted"], atol=0.1)
    for numbers in result.numbers.values():
        assert np.isfinite(numbers["loss"]).all()
        assert (numbers["error"] < 85).all()


def test_the_figure_is_a_light_picture(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def arm(ratio, error, recomputed):
    few = np.arange(5) / 1000
    ratios = np.array([1.0, ratio, ratio]) + few[:, None]
    numbers = {"ratios": ratios, "predicted": np.full(5, 0.72)}
    return {**numbers, "error": error + few, "recomputed": recomputed - few}


def test_verdicts_follow_their_criteria():
    found = {
        "nowhere": arm(1.0, 13.0, 13.0),
        "before the head": arm(1.0, 13.2, 13.2),
        "every relu": arm(0.71, 16.0, 15.0),
    }
    assert [v.held for v in verdicts(found)] == [True] * 6
    found["before the head"] = arm(0.9, 15.0, 15.0)
    found["every relu"] = arm(0.9, 16.0, 16.0)
    assert [v.held for v in verdicts(found)] == [False] * 6


def test_predictions_that_miss_on_both_sides_do_not_cancel():
    every = arm(0.72, 16.0, 15.0)
    every["ratios"][:, 1] += np.array([-0.05, 0.05, -0.05, 0.05, 0.0])
    none, head = arm(1.0, 13.0, 13.0), arm(1.0, 13.2, 13.2)
    found = {"nowhere": none, "before the head": head, "every relu": every}
    assert [v.held for v in verdicts(found)] == [True, True, False, True, True, True]


def test_the_net_has_the_layers_of_the_mlp():
    norm, x, key = batch_norm(), jnp.ones((4, 3)), jax.random.key(0)
    ours = DropoutMLP(2, norm, (5, 6))
    started = ours.init(key, x, False)
    plain = create_model("mlp", 2, norm, hidden=(5, 6))
    jax.tree.map(np.testing.assert_array_equal, started, plain.init(key, x, False))
    dropped, _ = ours.apply(
        started,
        x,
        True,
        jnp.array([0.0, 0.5]),
        rngs={"dropout": key},
        mutable=["batch_stats", "intermediates"],
    )
    assert dropped.shape == (4, 2)
