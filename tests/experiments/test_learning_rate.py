"""Learning rates over five decades, at smoke size; its criteria on made-up numbers."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._learning_rate import MOMENTA, NORMS, RATES, verdicts

ARMS = [f"{name}, {optimizer}" for optimizer in MOMENTA for name in NORMS]


def test_every_arm_has_every_rate(result):
    assert list(result.numbers) == ARMS
    for numbers in result.numbers.values():
        assert numbers["error"].shape == numbers["loss"].shape == (2, len(RATES))
    # A few steps at the smallest rate leave a net as it was, those at 0.1 do not.
    loss = result.numbers["batch norm, SGD"]["loss"]
    assert (loss[:, RATES.index(0.1)] < loss[:, 0]).all()
    assert [len(row) for row in result.rows] == [len(result.columns)] * 4


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_verdicts_follow_their_criteria():
    few = np.arange(5)[:, None] / 100
    wide = np.array([60, 40, 30, 20, 18, 17, 18, 21.0]) + few
    narrow = np.array([60, 40, 28, 22, 21, 60, 90, 90.0]) + few
    found = {arm: {"error": wide if "batch" in arm else narrow} for arm in ARMS}
    assert all(v.held for v in verdicts(found))
    found = {arm: {"error": narrow if "batch" in arm else wide} for arm in ARMS}
    assert not any(v.held for v in verdicts(found))


def test_both_nets_have_to_do_what_is_claimed_of_the_largest_rate():
    narrow = np.array([60, 40, 28, 22, 21, 60, 90, 90.0]) + np.zeros((5, 1))
    found = {arm: {"error": narrow} for arm in ARMS}
    assert not verdicts(found)[0].held
