"""Batch norm as a regularizer: at smoke size."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._regularization import KINDS, NORMS, verdicts


def test_all_arms_are_there_and_have_learned(result):
    ghosts, arms = result.numbers["ghosts"], result.numbers["arms"]
    assert list(ghosts) == ["4", "32"]
    assert list(arms) == [f"{norm}, {kind}" for norm in NORMS for kind in KINDS]
    for arm in arms.values():
        assert arm["test"].shape == (2,)
        assert (arm["rate"], arm["dropout"]) in {(0.05, d) for d in (0, 0.2, 0.5)}
    assert (arms["batch norm, neither"]["train"] < 80).all()
    noisy, whole = ghosts["4"]["train_mini"], ghosts["32"]["train_mini"]
    assert noisy.mean() > whole.mean()


def test_the_figure_is_a_light_picture(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def test_verdicts_follow_their_criteria():
    small = np.arange(3) / 1000

    def ghost(gap, test):
        gap = gap + small
        curves = {"train_mini": small, "test_mini": small + gap}
        test = test + small * 2
        return curves | {"train_population": test - gap, "test_population": test}

    def arms(**errors):
        return {
            f"{norm}, {kind}": {"test": errors[name] + small * len(kind)}
            for norm, name in (("batch norm", "norm"), ("none", "plain"))
            for kind in KINDS
        }

    ghosts = {"4": ghost(1.0, 14.0), "32": ghost(2.0, 13.0), "256": ghost(3.0, 13.5)}
    found = {"ghosts": ghosts, "arms": arms(norm=15.0, plain=16.0)}
    assert [v.held for v in verdicts(found)] == [True] * 6
    reverse = dict(zip(ghosts, list(ghosts.values())[::-1], strict=True))
    reverse["32"] = ghost(2.0, 15.0)
    found = {"ghosts": reverse, "arms": arms(norm=16.0, plain=15.0)}
    assert [v.held for v in verdicts(found)] == [False] * 5 + [True]
    found["arms"]["batch norm, L2"]["test"] = 15.0 + small
    assert not verdicts(found)[5].held
