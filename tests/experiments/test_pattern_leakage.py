"""Batches of few classes: arms at smoke size, alone and over devices, and verdicts."""

import numpy as np
import pytest
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png, run_experiment
from jaxbn.experiments.claims._pattern_leakage import CURES, PATTERNS, arms_of, verdicts
from jaxbn.experiments.claims._patterns import CLASSES, rows_of


def test_errors_are_measured_every_way_after_each_epoch(result):
    assert set(result.numbers) == {*PATTERNS, "shuffled"}
    for name in PATTERNS:
        found = result.numbers[name]
        assert set(found) == {"train", "same", "random", "population"}
        assert all(errors.shape == (2, 2) for errors in found.values())
    last = result.numbers["4 x 8"]["population"]
    assert np.isfinite(last).all() and last[:, -1].max() < 80


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


@pytest.mark.usefixtures("eight_devices")
def test_devices_find_the_same(result):
    how = {"num_devices": 4, "parallel": "shard_map"}
    shared = run_experiment("pattern_leakage", size="smoke", seeds=2, **how)
    for name in PATTERNS:  # Shuffling draws other permutations across devices.
        for key, errors in result.numbers[name].items():
            np.testing.assert_allclose(errors, shared.numbers[name][key], atol=3)
    assert np.isfinite(shared.numbers["shuffled"]["population"]).all()


def test_ghost_batches_of_distinct_classes_have_them():
    labels = np.repeat(np.arange(6), 40)
    arms = arms_of(None, 64, 10)
    distinct, patterned = (
        labels[rows_of(arms[name], np.arange(2), labels, 64)(0)].reshape(-1, CLASSES, 8)
        for name in ("distinct classes", "4 x 8")
    )
    assert (patterned == patterned[..., :1]).all()
    groups = distinct.reshape(-1, CLASSES)
    assert all(len(set(group)) == CLASSES for group in groups)
    kinds = [set(run.ravel()) for run in distinct]
    assert kinds == [set(run.ravel()) for run in patterned]


def made_up(gap, rise, cured):
    small = np.arange(5)[:, None] / 100
    each = np.array([[10.0 + gap, 10.0 + gap + rise]])
    few = {"train": small + each - 2 * gap, "same": small + each - 2 * gap}
    few |= {"random": small + each - gap, "population": small + each}
    found = dict.fromkeys(PATTERNS, few)
    good = {"population": few["population"] - cured}
    return found | dict.fromkeys((*CURES, "random"), good)


def test_verdicts_follow_their_criteria():
    assert [v.held for v in verdicts(made_up(4, 2, 3))] == [True] * 4
    assert [v.held for v in verdicts(made_up(1, 0.5, 1))] == [False] * 3 + [True]
    apart = made_up(4, 2, 3)
    apart["random"] = {"population": apart["random"]["population"] - 2}
    assert not verdicts(apart)[3].held
