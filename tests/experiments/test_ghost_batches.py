"""Ghost batches within a large batch of SGD."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._ghost_batches import OTHERS, verdicts


def test_smoke(result):
    found = result.numbers
    assert found["large"]["running"].shape == (2, 2)
    assert all(found[name]["precise"].shape == (2, 1) for name, *_ in OTHERS)
    # Four times the steps.
    longer, few = found["longer"]["precise"][:, 0], found["large"]["precise"][:, -1]
    assert (longer < few).all()
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.05, 0.05, 5)

    def held(ghost, whole, small, longer):
        def arm(*values):
            return {"running": np.add.outer(spread, np.asarray(values))}

        found = {"sizes": (32, 1024), "large": arm(ghost, whole), "small": arm(small)}
        found |= {"longer, ghost": arm(longer), "longer": arm(14.5)}
        return [verdict.held for verdict in verdicts(found)]

    assert held(14.0, 14.5, 13.5, 13.6) == [True] * 5
    assert held(14.1, 14.0, 14.2, 14.6) == [False, True, False, False, False]
    assert held(14.5, 14.0, 14.2, 14.6) == [False] * 5
