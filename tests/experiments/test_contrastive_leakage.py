"""Contrasts and pairs: arms at smoke size, alone and over devices, and verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from committed import test_committed_form as test_committed_form

from jaxbn import batch_norm
from jaxbn.experiments import figure_png, run_experiment
from jaxbn.experiments.claims._contrastive_leakage import verdicts
from jaxbn.experiments.claims._contrasts import GROUP, contrasts, view
from jaxbn.experiments.claims._pairs import as_text, pictures_of, swapped
from jaxbn.models import create_model


def check(numbers):
    assert list(numbers["contrastive"]) == ["groups", "shuffled keys"]
    for arm in numbers["contrastive"].values():
        assert all(value.min() > 0 and value.max() <= 100 for value in arm.values())
        assert arm["probe"].min() > 30
    assert set(numbers["pairs"]["2"]) == {"mini-batch", "population"}


def test_arms_and_their_numbers(result):
    check(result.numbers)
    assert len(result.rows) == 3
    pictures = pictures_of(result.numbers["pictures"])
    assert pictures.shape == (4, 8, 8, 8)
    np.testing.assert_array_equal(pictures[1], pictures[0][[1, 0, 3, 2, 5, 4, 7, 6]])
    assert pictures[:2].max() == 255 and len(np.unique(pictures[2])) > 50


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


@pytest.mark.usefixtures("eight_devices")
def test_devices_find_the_same(result):
    how = {"num_devices": 4, "parallel": "shard_map"}
    shared = run_experiment("contrastive_leakage", size="smoke", seeds=2, **how).numbers
    check(shared)
    for name, arm in result.numbers["pairs"].items():
        for key, error in arm.items():
            np.testing.assert_allclose(error, shared["pairs"][name][key], rtol=0.02)
    for key, accuracy in result.numbers["contrastive"]["groups"].items():
        found = shared["contrastive"]["groups"][key]
        np.testing.assert_allclose(accuracy, found, atol=3)


def test_keys_of_the_own_group_are_no_negatives():
    model = create_model("mlp", 4, batch_norm(), hidden=(5,))
    images = jax.random.normal(jax.random.key(0), (24, 4, 4, 1))
    variables = model.init(jax.random.key(1), images, False)
    key = jax.random.key(2)
    scores, own, stats = contrasts(model, variables, images, key, shuffles=False)
    np.testing.assert_array_equal(own, np.arange(24))
    kept = np.isfinite(scores).sum(1)
    np.testing.assert_array_equal(kept, 24 - GROUP + 1)
    assert np.isfinite(scores[own, own]).all()
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
    # All are normalized together: it makes no difference that keys are shuffled.
    moved, _, _ = contrasts(model, variables, images, key, shuffles=True)
    np.testing.assert_allclose(scores, moved, atol=1e-4)


def test_views_are_of_the_image_at_its_place():
    images = jnp.zeros((4, 6, 6, 1)).at[:, 2:4, 2:4].set(9.0)
    first, again, other = (
        view(jax.random.key(seed), images, axis_name=None) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()


def test_pairs_are_swapped():
    x = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(swapped(x), x[[1, 0, 3, 2]])


def test_pictures_become_text_and_back():
    pictures = np.linspace(-0.1, 1.1, 12).reshape(2, 3, 2)
    pictures[1, 1, 1] = np.nan
    found = pictures_of(as_text(pictures))
    expected = np.nan_to_num(255 * pictures.clip(0, 1))
    np.testing.assert_allclose(found, expected, atol=0.51)


def made_up(left, leak):
    small = np.arange(5) / 1000
    groups = {"keys in place": small + 20, "keys shuffled": small * 2 + 20 * left}
    groups["probe"] = small + 80
    moved = {"keys in place": small + 16, "keys shuffled": small + 12}
    moved["probe"] = small + 81
    pairs = {"2": {"mini-batch": small + leak, "population": small + 2}}
    even = {"mini-batch": small + 1, "population": small + 1}
    pairs |= {"16": even, "group norm": even}
    return {"contrastive": {"groups": groups, "shuffled keys": moved}, "pairs": pairs}


def test_verdicts_follow_their_criteria():
    assert [v.held for v in verdicts(made_up(0.5, 0.7))] == [True] * 5
    held = [v.held for v in verdicts(made_up(0.8, 0.9))]
    assert held == [False, False, True, False, True]
    found = made_up(0.5, 0.7)
    found["contrastive"]["shuffled keys"]["keys shuffled"] = np.arange(5) / 1000 + 16
    found["pairs"]["16"] = {key: 1.05 + np.arange(5) / 1000 for key in BOTH}
    assert [v.held for v in verdicts(found)] == [True, True, False, True, False]
    found = made_up(0.5, 0.7)
    found["contrastive"]["groups"]["probe"] = np.arange(5) / 1000 + 83
    found["pairs"]["2"]["population"] = np.arange(5) / 1000 + 0.9
    assert [v.held for v in verdicts(found)] == [True, True, False, False, True]


def test_what_diverged_is_counted_as_large():
    found = made_up(0.5, 0.7)
    found["pairs"]["2"]["mini-batch"][2] = np.nan
    found["contrastive"]["groups"]["keys in place"][1] = 0.0
    held = [v.held for v in verdicts(found)]
    assert held == [False, True, False, False, True]


BOTH = ("mini-batch", "population")
