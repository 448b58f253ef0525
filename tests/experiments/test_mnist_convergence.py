"""MNIST with and without batch norm, at smoke size; its criteria on made-up numbers."""

import jax.numpy as jnp
import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._convergence import (
    EDGES,
    WEIGHTS,
    first_place,
    shape_of,
    weighted,
)
from jaxbn.experiments.claims._mnist_convergence import NORMS, verdicts


def test_both_nets_learn(result):
    arms = [f"{name}{weights}" for name in NORMS for weights in WEIGHTS]
    assert list(result.numbers) == arms
    for numbers in result.numbers.values():
        assert numbers["loss"].shape == numbers["error"].shape == (2, 2)
        assert (numbers["loss"][:, 1] < numbers["loss"][:, 0]).all()
    for name in NORMS:
        histogram = result.numbers[name]["histogram"]
        assert histogram.shape == (3, len(EDGES) - 1)
        area = (histogram * np.diff(EDGES)[None]).sum(1)
        assert ((area > 0.9) & (area < 1.0001)).all()
    assert len(result.verdicts) == 5
    assert [len(row) for row in result.rows] == [len(result.columns)] * 4


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def made_up(*, loss, epochs, error, mean=0.0):
    each = np.array([[0.0], [0.01], [0.0], [-0.01], [0.0]])
    return {
        "loss": loss + each,
        "to_loss": epochs + each[:, 0],
        "to_accuracy": epochs + each[:, 0],
        "error": error + each,
        "mean": mean + each[:, 0],
        "std": 1 + each[:, 0],
        "skewness": each[:, 0],
    }


def test_verdicts_follow_their_criteria():
    slow = made_up(loss=1.0, epochs=5.0, error=6.0, mean=0.3)
    fast = made_up(loss=0.5, epochs=2.0, error=3.0)
    found = {"batch norm": fast, "none": slow}
    assert all(v.held for v in verdicts(found))
    found = {"batch norm": slow, "none": fast}
    assert not any(v.held for v in verdicts(found))


def test_deviations_from_a_gaussian_do_not_cancel_over_seeds():
    slow = made_up(loss=1.0, epochs=5.0, error=6.0)
    fast = made_up(loss=0.5, epochs=2.0, error=3.0)
    fast["mean"] = np.array([0.2, -0.2, 0.21, -0.21, 0.0])
    found = {"batch norm": fast, "none": slow}
    assert [v.held for v in verdicts(found)] == [True] * 4 + [False]


def test_measures():
    reached = np.array([[False, True, False], [False, False, False]])
    np.testing.assert_array_equal(first_place(reached), [2, 4])
    values = np.random.default_rng(0).exponential(size=(2, 1, 100_000))
    shape = shape_of(values)
    np.testing.assert_allclose(shape["mean"], 1, atol=0.02)
    np.testing.assert_allclose(shape["std"], 1, atol=0.02)
    np.testing.assert_allclose(shape["skewness"], 2, atol=0.2)


def test_weights_have_the_variances_they_are_to_have():
    params = {
        "dense1": {"kernel": jnp.ones((4, 2, 3))},
        "bn1": {"scale": jnp.ones((4, 3))},
        "head": {"kernel": jnp.ones((4, 3, 2)), "bias": jnp.ones((4, 2))},
    }
    found = weighted(params)
    hidden, head = found["dense1"]["kernel"], found["head"]["kernel"]
    np.testing.assert_allclose(hidden[:, 0, 0] ** 2, [1 / 6, 1 / 6, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(head[:, 0, 0] ** 2, [1 / 3, 1 / 3, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(found["head"]["bias"], 1)
    np.testing.assert_array_equal(found["bn1"]["scale"], 1)
