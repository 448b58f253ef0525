"""Sigmoid and tanh nets, at smoke size; their criteria on made-up numbers."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._deep_net import in_parts, path
from jaxbn.experiments.claims._saturation import ACTIVATIONS, NORMS, verdicts

ARMS = [f"{kind}, {name}" for kind in ACTIVATIONS for name in NORMS]


def test_what_is_known_of_the_start(result):
    assert list(result.numbers) == ARMS[:2]
    for numbers in result.numbers.values():
        assert numbers["saturated"].shape == numbers["gradient"].shape == (2, 2, 2, 3)
        assert np.isfinite(numbers["gradient"]).all()
        assert numbers["error"].shape == numbers["path"].shape == (2, 2)
        assert numbers["unit"].shape == (3, 3)
    with_norm, without = result.numbers.values()
    # A sigmoid's slope is below a tenth beyond 3.6, where a normal variable hardly is.
    assert (with_norm["saturated"][:, :, 0] < 0.01).all()
    assert (without["saturated"][:, 1, 0].mean(-1) > 0.1).all()
    assert [len(row) for row in result.rows] == [len(result.columns)] * 4


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_a_path_is_counted_in_spreads():
    percentiles = np.array([[[-1.0], [0], [1]], [[0], [1], [2]], [[-1], [0], [1]]])
    np.testing.assert_allclose(path(percentiles[None]), [1.0])
    np.testing.assert_allclose(path(5 * percentiles[None]), [1.0])


def test_parts_of_an_epoch_are_the_epoch():
    rows = lambda epoch: np.arange(14).reshape(1, 7, 2) + 100 * epoch
    parts = in_parts(rows, 3)
    found = np.concatenate([parts(i) for i in range(3, 6)], 1)
    np.testing.assert_array_equal(found, rows(1)[:, :6])


def made_up(*, saturated, ratio, travelled, error):
    few = 1 + np.arange(5) / 1000
    gradient = np.ones((5, 2, 2, 3))
    gradient[..., 0] = ratio * few[:, None, None]
    return {
        "saturated": np.full((5, 2, 2, 3), saturated) * few[:, None, None, None],
        "gradient": gradient,
        "path": np.full((5, 2), travelled) * few[::-1, None],
        "error": np.full((5, 2), error) * few[:, None],
    }


def test_verdicts_follow_their_criteria():
    good = made_up(saturated=0.1, ratio=1.0, travelled=1.0, error=3.0)
    bad = made_up(saturated=0.3, ratio=0.01, travelled=4.0, error=5.0)
    found = {arm: good if "batch" in arm else bad for arm in ARMS}
    assert all(v.held for v in verdicts(found))
    found = {arm: bad if "batch" in arm else good for arm in ARMS}
    assert not any(v.held for v in verdicts(found))


def test_claims_on_both_activations_need_both():
    good = made_up(saturated=0.1, ratio=1.0, travelled=1.0, error=3.0)
    bad = made_up(saturated=0.3, ratio=0.0, travelled=2.0, error=5.0)
    found = {arm: good if "batch" in arm else bad for arm in ARMS}
    assert [v.held for v in verdicts(found)] == [True, True, False, True]
    found["tanh, none"] = made_up(saturated=0.1, ratio=1.0, travelled=1.0, error=3.0)
    assert [v.held for v in verdicts(found)] == [False, True, False, False]
