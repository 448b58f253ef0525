"""Verdicts: intervals, outcomes, and several claims at once."""

import numpy as np
import pytest
from scipy import stats

from jaxbn.experiments._verdicts import (
    HELD,
    LEVEL,
    LEVEL_OF_TWO,
    PILOT,
    REFUTED,
    TUNED,
    UNDECIDED,
    greater,
    jointly,
    judge,
    less,
    within,
)

FIVE = np.array([1.0, 1.1, 0.9, 1.0, 1.0])


def outcomes(*verdicts):
    return [each.outcome for each in judge(verdicts)]


def test_criteria_are_met_by_whole_intervals():
    def by(value):
        return {"by": value, "chosen": PILOT}

    assert greater("", FIVE).held and not greater("", FIVE, **by(1.0)).held
    assert less("", -FIVE).held and not less("", -FIVE, **by(1.0)).held
    assert within("", FIVE, 1.0, 0.2, chosen=PILOT).held
    assert not within("", FIVE, 0.5, 0.2, chosen=PILOT).held
    both = jointly("both", [greater("a", FIVE), less("b", FIVE)])
    assert not both.held
    assert both.numbers == "a: 1 [0.912, 1.088] > 0; b: 1 [0.912, 1.088] < 0"


def test_three_outcomes():
    assert outcomes(greater("", FIVE)) == [HELD]
    assert outcomes(less("", FIVE)) == [REFUTED]
    assert outcomes(greater("", FIVE - 1)) == [UNDECIDED]
    assert outcomes(greater("", FIVE[:4])) == [UNDECIDED]  # Too few seeds.
    assert outcomes(within("", FIVE, 0, 0.5, chosen=PILOT)) == [REFUTED]
    assert outcomes(within("", FIVE, 0, 2, chosen=PILOT)) == [HELD]
    assert outcomes(within("", FIVE, 0, 1, chosen=PILOT)) == [UNDECIDED]
    none = np.zeros(5)  # Every seed the same: no interval is needed.
    assert outcomes(within("", none, 0, 1e-9, chosen=PILOT)) == [HELD]
    assert outcomes(greater("", none)) == [UNDECIDED]
    assert outcomes(greater("", none + 1)) == [HELD]
    assert outcomes(less("", none + 1)) == [REFUTED]


def test_all_parts_of_a_joint_claim_have_to_hold():
    good, bad, open_ = greater("g", FIVE), less("b", FIVE), greater("o", FIVE - 1)
    assert outcomes(jointly("", [good, good])) == [HELD]
    assert outcomes(jointly("", [good, bad])) == [REFUTED]
    assert outcomes(jointly("", [good, open_])) == [UNDECIDED]
    assert outcomes(jointly("", [bad, open_])) == [REFUTED]
    said = jointly("", [greater("", FIVE, by=1, chosen=TUNED, changed="it"), good])
    assert said.chosen == TUNED and said.changed == "it"


def test_an_interval_and_its_p_value_are_students():
    claim = greater("", FIVE, by=0.9, chosen=PILOT)
    expected = stats.ttest_1samp(FIVE, 0.9)
    (found,) = judge([claim])
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-12)
    low, high = expected.confidence_interval(0.95)
    np.testing.assert_allclose(claim.criteria[0].interval()[1:], (low + 0, high + 0))
    assert claim.held == (found.p < 0.05)


def test_holms_correction():
    scales = (0.5, 1.0, 0.6, 8.0)
    rng = np.random.default_rng(0)
    claims = [greater("", 1 + scale * rng.standard_normal(6)) for scale in scales]
    alone = np.array([judge([claim])[0].p for claim in claims])
    together = np.array([each.p for each in judge(claims)])
    order = np.argsort(alone)
    expected = np.maximum.accumulate(alone[order] * (4, 3, 2, 1)).clip(max=1)
    np.testing.assert_allclose(together[order], expected, rtol=1e-12)


def test_two_looks_are_wrong_as_often_as_one():
    """At `LEVEL_OF_TWO` each, where nothing is true, after 5 and after 10 seeds.

    Students of 5 and 10 seeds are not the normal steps that the level is exact for.
    """
    rng = np.random.default_rng(0)
    each = rng.standard_normal((100_000, 10))
    looks = [stats.ttest_1samp(each[:, :n], 0, axis=1).pvalue for n in (5, 10)]
    wrong = [np.mean(np.minimum(*looks) < level) for level in (LEVEL, LEVEL_OF_TWO)]
    assert 0.08 < wrong[0] < 0.09
    assert abs(wrong[1] - LEVEL) < 0.004
    claim = greater("", FIVE, by=0.9, chosen=PILOT)
    (found,) = judge([claim])
    assert LEVEL_OF_TWO < found.p < LEVEL
    assert found.outcome == HELD
    assert judge([claim], LEVEL_OF_TWO)[0].outcome == UNDECIDED


def test_what_is_not_said_is_refused():
    with pytest.raises(ValueError, match="no word on where it comes from"):
        greater("a claim", FIVE, by=0.5)
    with pytest.raises(ValueError, match="say what a run that diverged counts as"):
        greater("a claim", [1.0, np.nan])
    with pytest.raises(ValueError, match=r"shape \(2, 5\), expected one for each seed"):
        greater("a claim", [FIVE, FIVE])
