"""Weights over six decades, at smoke size; its criteria on made-up numbers."""

import jax.numpy as jnp
import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._deep_net import scaled
from jaxbn.experiments.claims._initialization import FACTORS, NORMS, verdicts


def test_batch_norm_trains_where_the_plain_net_diverges(result):
    assert set(result.numbers) == set(NORMS)
    for numbers in result.numbers.values():
        assert numbers["error"].shape == numbers["loss"].shape == (2, len(FACTORS))
    with_norm, without = (result.numbers[name] for name in NORMS)
    assert np.isfinite(with_norm["loss"]).all()
    assert not np.isfinite(without["loss"][:, -1]).any()
    assert (with_norm["error"][:, 3:5] < 60).all()
    assert [len(row) for row in result.rows] == [len(result.columns)] * 2


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_only_hidden_kernels_are_scaled():
    layer = {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))}
    found = scaled({"dense1": layer, "head": layer}, np.array([2.0, 3.0]))
    np.testing.assert_array_equal(found["dense1"]["kernel"][:, 0, 0], [2, 3])
    np.testing.assert_array_equal(found["dense1"]["bias"], 1)
    np.testing.assert_array_equal(found["head"]["kernel"], 1)


def test_verdicts_follow_their_criteria():
    few = np.arange(5)[:, None] / 100
    flat = np.full(len(FACTORS), 20.0) + few
    sharp = np.where(FACTORS == 1, 25.0, 90.0) + few
    found = {"batch norm": {"error": flat}, "none": {"error": sharp}}
    assert all(v.held for v in verdicts(found))
    found = {"batch norm": {"error": sharp}, "none": {"error": flat}}
    assert not any(v.held for v in verdicts(found))
    wide = np.where(abs(np.log10(FACTORS)) > 2.5, 70.0, 20.0) + few
    found = {"batch norm": {"error": wide}, "none": {"error": sharp}}
    assert [v.held for v in verdicts(found)] == [True, True, False, True]


def test_the_worst_factor_of_a_seed_is_judged():
    """Each seed has another factor at which it fails, so that no mean shows it."""
    flat = np.full((5, len(FACTORS)), 20.0)
    broken = np.where(np.eye(5, len(FACTORS), 1, bool), 90.0, flat)
    sharp = np.where(FACTORS == 1, 25.0, 90.0) + np.zeros((5, 1))
    found = {"batch norm": {"error": broken}, "none": {"error": sharp}}
    assert [v.held for v in verdicts(found)] == [True, False, False, True]
