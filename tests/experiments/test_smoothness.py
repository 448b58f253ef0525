"""Loss and gradient along the gradient step: at smoke size."""

import jax
import jax.numpy as jnp
import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn import batch_norm
from jaxbn.data import Split
from jaxbn.diagnostics import probe_landscape
from jaxbn.experiments import figure_png
from jaxbn.experiments._runs import classification, sgd, start
from jaxbn.experiments.claims._smoothness import NOISY, NORM, PLAIN, verdicts
from jaxbn.experiments.claims._smoothness_probe import (
    LENGTHS,
    RATE,
    depths,
    disturbed,
    make_look,
    mean_cosine,
)
from jaxbn.models import create_model


def test_training_falls_and_noise_makes_moments_jump(result):
    assert set(result.numbers) == {NORM, PLAIN, NOISY}
    for numbers in result.numbers.values():
        assert numbers["loss"].shape == (2, 4)
        assert np.isfinite(numbers["loss"]).all()
        assert (numbers["low"] <= numbers["high"]).all()
        assert (np.abs(numbers["cosine"]) <= 1 + 1e-5).all()
    loss = result.numbers[NORM]["loss"]
    assert (loss[:, -1] < loss[:, 0]).all()
    jumps = {name: numbers["jump"].mean() for name, numbers in result.numbers.items()}
    assert jumps[NOISY] > 3 * jumps[NORM]


def test_the_figure_is_a_light_picture(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def test_what_a_look_finds_is_what_probe_landscape_does():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(16, 2, 2, 1)).astype(np.float32)
    data = Split(inputs, rng.integers(3, size=16))
    model = create_model("mlp", 3, batch_norm(), hidden=(4, 4))
    runs = start(model, inputs[:2], [5], sgd(RATE))
    stats = {**runs.batch_stats, "noise": jnp.zeros(1)}
    runs = runs._replace(batch_stats=stats)
    look = make_look(model, disturbed(model), data)
    found = look(runs, np.arange(8)[None])
    params, stats = jax.tree.map(lambda a: a[0], (runs.params, runs.batch_stats))
    batch = Split(inputs[:8], data.labels[:8])
    plain = classification(model)
    lengths = [RATE * length for length in LENGTHS]
    expected = probe_landscape(
        lambda p: plain(p, stats, batch, jax.random.key(0))[0], params, lengths
    )
    np.testing.assert_allclose(found["high"][0], expected.losses.max(), rtol=1e-4)
    np.testing.assert_allclose(found["change"][0], expected.distances.max(), rtol=1e-3)
    np.testing.assert_allclose(found["beta"][0], expected.beta, rtol=1e-3)


def test_gradients_are_compared_layer_by_layer_in_deep_nets():
    model = create_model("mlp", 3, batch_norm(), hidden=(2,) * 10)
    variables = model.init(jax.random.key(0), jnp.zeros((2, 2, 2, 1)), False)
    depth = depths(variables["params"])
    assert sorted(depth.values()) == [*np.repeat(np.arange(1, 11), 2), 11]
    assert depth["dense10"] == depth["bn10"] == 10

    # A gradient is (1, 1), or (1, 1 + 6 k) once the k layers below are a step further.
    names = [*(f"dense{i}" for i in range(1, 11)), "head"]

    def value(params):
        below, total = 0.0, 0.0
        for w in (params[name]["w"] for name in names):
            total += w[0] + (1 + below) * w[1]
            below -= 6 / RATE * jax.lax.stop_gradient(w[0])
        return total

    params = {name: {"w": jnp.zeros(2)} for name in names}
    found = mean_cosine(value, params, jax.grad(value)(params))
    slopes = 1 + 6 * np.arange(1, 11)
    expected = (1 + slopes) / np.sqrt(2 * (1 + slopes**2))
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)


def test_verdicts_follow_their_criteria():
    def arm(high, change, jump, loss, cosine):
        numbers = {"low": 0.0, "high": high, "change": change, "beta": change}
        numbers |= {"jump": jump, "loss": loss, "cosine": cosine}
        few = 1 + np.arange(5)[:, None] / 1000
        return {key: np.full((5, 10), v) * few for key, v in numbers.items()}

    found = {
        NORM: arm(0.1, 1.0, 0.01, 0.4, 0.2),
        PLAIN: arm(1.0, 8.0, 0.1, 0.6, 0.5),
        NOISY: arm(0.1, 1.0, 0.3, 0.5, 0.2),
    }
    assert [v.held for v in verdicts(found)] == [True] * 6
    found[PLAIN] = arm(0.1, 0.9, 0.4, 0.3, 0.1)
    assert [v.held for v in verdicts(found)] == [False] * 6
    found[PLAIN] = arm(0.45, 3.5, 0.2, 0.6, 0.3)
    held = [v.held for v in verdicts(found)]
    assert held == [False, False, True, True, True, True]
