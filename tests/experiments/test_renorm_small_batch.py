"""Batch renormalization of small batches."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._renorm_small_batch import ARMS, verdicts


def test_smoke(result):
    arms = result.numbers["arms"]
    assert set(arms) == set(ARMS)
    for arm in arms.values():
        assert arm["running"].shape == arm["precise"].shape == (2, 2)
        assert (arm["precise"][:, -1] < 60).all()
    plain, renorm = (arms[name]["precise"] for name in ARMS)
    assert (plain != renorm).any()
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.1, 0.1, 5)

    def held(plain, renorm):
        arms = {
            name: {"running": np.add.outer(spread, np.asarray(values))}
            for name, values in zip(ARMS, (plain, renorm), strict=True)
        }
        return [v.held for v in verdicts({"sizes": (4, 256), "arms": arms})]

    assert held([17.0, 13.0], [14.0, 13.1]) == [True] * 3
    assert held([17.0, 13.0], [16.0, 13.8]) == [False] * 3
