"""The last epochs with frozen statistics."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._frozen_finetune import CURVES, moved, verdicts


def test_smoke(result):
    found = result.numbers
    assert all(found[name].shape == (2, 3) for name in CURVES)
    np.testing.assert_array_equal(found["moved"], [0, 0])
    assert (found["frozen"] != found["unfinished"]).any()
    assert (found["frozen"][:, -1] < 60).all()
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def test_what_moved_is_counted_for_each_seed():
    before = {"bn1": {"mean": np.zeros((4, 3))}, "bn2": {"mean": np.zeros((4, 2))}}
    after = {"bn1": {"mean": np.zeros((4, 3))}, "bn2": {"mean": np.zeros((4, 2))}}
    after["bn2"]["mean"][3] = 0.1, -0.5  # The second size and the second seed.
    np.testing.assert_array_equal(moved(before, after, 2), [0, 0.5])


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.1, 0.1, 5)
    regular = np.add.outer(spread, (50.0, 17.0, 14.0, 14.0))

    def held(change, moved):
        found = {"sizes": (2, 4, 64, 256), "regular": regular, "moved": moved}
        found["frozen"] = regular + np.asarray([change])
        return [verdict.held for verdict in verdicts(found)]

    assert held([-6.0, -1.0, 0.1, 0.3], np.zeros(5)) == [True] * 5
    assert held([-4.0, -0.2, -0.5, -0.1], 1e-7 * np.eye(5)[0]) == [False] * 5
