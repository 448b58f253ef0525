"""The narrow regression net, at smoke size; its criteria on made-up numbers."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._regression_layers import NETS, in_decades, verdicts
from jaxbn.experiments.claims._regression_training import Histogram


def test_the_nets_do_what_is_known_of_them(result):
    found = result.numbers
    # 50 steps: a cost at the start and every 5, deviations at the start and at 50.
    for name in NETS:
        assert found[name]["cost"].shape == (2, 11)
        assert found[name]["std"].shape == (2, 2, 8)
    normed, plain, fair, slow = (found[name] for name in NETS)
    assert (normed["cost"][:, -1] < normed["cost"][:, 0]).all()
    assert not (plain["cost"][:, 1:] <= 1e6).any()
    assert (slow["cost"][:, -1] < slow["cost"][:, 0]).all()
    np.testing.assert_array_equal(slow["cost"][:, 0], fair["cost"][:, 0])
    # What a relu leaves of a normal variable deviates by sqrt(1/2 - 1/(2 pi)).
    np.testing.assert_allclose(normed["std"][:, 0, 1:], 0.584, atol=0.06)
    np.testing.assert_allclose(normed["std"][:, 0, 0], 1, atol=0.001)
    # Each layer multiplies by about sqrt(30 / 2).
    grown = (plain["std"][:, 0, -1] / plain["std"][:, 0, 1]) ** (1 / 6)
    np.testing.assert_allclose(grown, np.sqrt(15), rtol=0.2)
    for each in found["histograms"].values():
        assert len(each) == 8
        whole = [h.shares.sum() + h.zero for h in (Histogram(*one) for one in each)]
        np.testing.assert_allclose(whole, 1, rtol=1e-5)
    assert all(values.shape == (2,) for values in found["evaluation"].values())
    assert [len(row) for row in result.rows] == [len(result.columns)] * 4


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def made_up(*, cost, std, average, precise):
    few = 1 + np.arange(5)[:, None] / 100
    nets = zip(NETS, cost, strict=True)
    found = {name: {"cost": np.array([1000, last]) * few} for name, last in nets}
    found["batch norm"]["std"] = np.full((5, 1, 8), std) * few[:, :, None]
    found["evaluation"] = {
        "average 0.5": average * few[:, 0],
        "average 0.9": 100 * few[:, 0],
        "all points": 100 * few[:, 0],
        "precise, by 10": precise * few[:, 0],
        "batches of 10": 250 * few[:, 0],
    }
    return found


def test_verdicts_follow_their_criteria():
    cost = (80.0, np.nan, 90.0, 95.0)
    found = made_up(cost=cost, std=0.7, average=200.0, precise=99.0)
    assert all(v.held for v in verdicts(found))
    cost = (300.0, 900.0, np.inf, 250.0)
    found = made_up(cost=cost, std=2.0, average=90.0, precise=150.0)
    assert not any(v.held for v in verdicts(found))
    found = made_up(cost=cost, std=0.3, average=90.0, precise=80.0)
    held = [v.held for v in verdicts(found)]
    assert held == [False] * 5 + [True, False, False]


def test_one_seed_that_diverges_leaves_it_open():
    cost = (80.0, np.nan, 90.0, 95.0)
    found = made_up(cost=cost, std=0.7, average=200.0, precise=99.0)
    found[NETS[2]]["cost"][0, -1] = np.inf
    assert not verdicts(found)[3].held
    np.testing.assert_array_equal(in_decades(np.array([10, np.nan])), [1, 12])
