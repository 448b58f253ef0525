"""Designs for what had not been reproduced: smoke runs, and criteria."""

import numpy as np
import pytest
from committed import compare

from jaxbn.experiments import as_table, figure_png, run_experiment
from jaxbn.experiments._numbers import as_plain
from jaxbn.experiments._registry import module_of

SHAPES = {
    "few_examples": {"regular": (2, 3), "frozen": (2, 3), "whole": (2,)},
    "shared_style": {"population": (2, 2), "own": (2, 2)},
    "domain_batches": {"specific": (2, 3), "group": (2, 3)},
    "dropout_strength": {"running": (2, 4), "recomputed": (2, 4)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_smoke(name):
    result = run_experiment(name, size="smoke", seeds=2)
    for key, shape in SHAPES[name].items():
        assert result.numbers[key].shape == shape
        assert (result.numbers[key] >= 0).all() and (result.numbers[key] <= 100).all()
    claims = [verdict.claim for verdict in result.verdicts]
    compare(name, as_table(result), claims, as_plain(result.numbers))
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def held(name, **found):
    """Returns which claims hold for arrays that all seeds have nearly alike."""
    spread = np.linspace(-0.1, 0.1, 5)
    numbers = {
        key: np.add.outer(spread * (i + 1), np.asarray(value))
        for i, (key, value) in enumerate(found.items())
    }
    axes = {"few_examples": "sizes", "domain_batches": "batches"}
    axes |= {"shared_style": "sizes", "dropout_strength": "rates"}
    places = {
        "few_examples": [4, 32, 256],
        "domain_batches": [2, 4, 8],
        "shared_style": [2, 4],
        "dropout_strength": [0.5, 0.7, 0.8, 0.9],
    }
    numbers[axes[name]] = np.array(places[name])
    return [verdict.held for verdict in module_of(name).verdicts(numbers)]


def test_verdicts_follow_their_criteria():
    few = {"regular": (18.0, 16.8, 17.5), "frozen": (18.0, 17.5, 18.0)}
    assert held("few_examples", **few, ghosts=17.0, whole=18.0) == [True] * 5
    few = {"regular": (16.0, 16.8, 16.0), "frozen": (18.0, 16.0, 15.0)}
    assert held("few_examples", **few, ghosts=18.0, whole=17.0) == [False] * 5
    assert held("shared_style", own=(60, 20), population=(70, 40)) == [True] * 2
    assert held("shared_style", own=(70, 40), population=(70, 30)) == [False] * 2
    domains = {"group": (21, 21, 21), "specific": (50, 23, 19)}
    assert held("domain_batches", **domains) == [True] * 3
    domains = {"group": (21, 21, 21), "specific": (20, 20, 22)}
    assert held("domain_batches", **domains) == [False] * 3
    dropout = {"running": (19, 30, 42, 90), "recomputed": (19, 29, 37, 60)}
    assert held("dropout_strength", **dropout) == [True] * 3
    dropout = {"running": (19, 30, 42, 90), "recomputed": (17, 29, 41.5, 60)}
    assert held("dropout_strength", **dropout) == [False] * 3
