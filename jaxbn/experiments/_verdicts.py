"""Verdicts: criteria over seeds that a claim meets, or does not.

A difference is paired by seed, and its 95 % confidence interval (Student's t) has to
lie wholly on the claimed side.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEAST_SEEDS = 5
"""With fewer nothing is decided."""


class Verdict(NamedTuple):
    """Whether a claim held.

    Attributes:
        claim: in words, with its criterion.
        held: whether the criterion was met.
        numbers: that decided it, in words.
        source: what the source of the claim reports, in words; '' for no number.
    """

    claim: str
    held: bool
    numbers: str
    source: str = ""

    def outcome(self, seeds: int) -> str:
        """Returns 'held', 'not reproduced', or 'undecided' for too few seeds."""
        if seeds < LEAST_SEEDS:
            return "undecided"
        return "held" if self.held else "not reproduced"


def paired(a: ArrayLike, b: ArrayLike = 0.0) -> tuple[float, float]:
    """Returns the mean of `a - b` over seeds, and half its 95 % confidence interval.

    Student's t with n - 1 degrees of freedom; infinite for a single seed.
    """
    from scipy import stats

    difference = np.atleast_1d(np.subtract(a, b))
    n = len(difference)
    if n < 2:
        return float(difference.mean()), math.inf
    error = difference.std(ddof=1) / math.sqrt(n)
    return float(difference.mean()), float(error * stats.t.ppf(0.975, n - 1))


def greater(
    claim: str, a: ArrayLike, b: ArrayLike = 0.0, *, by: float = 0.0, source: str = ""
) -> Verdict:
    """Returns the verdict on `a > b + by`: the interval of `a - b` lies above `by`."""
    mean, half = paired(a, b)
    return Verdict(claim, mean - half > by, _interval(mean, half), source)


def less(
    claim: str, a: ArrayLike, b: ArrayLike = 0.0, *, by: float = 0.0, source: str = ""
) -> Verdict:
    """Returns the verdict on `a < b - by`: the interval of `a - b` lies below `-by`."""
    mean, half = paired(a, b)
    return Verdict(claim, mean + half < -by, _interval(mean, half), source)


def within(
    claim: str, a: ArrayLike, b: ArrayLike, margin: float, *, source: str = ""
) -> Verdict:
    """Returns the verdict on `|a - b| < margin`: the interval lies in between."""
    mean, half = paired(a, b)
    held = abs(mean) + half < margin
    return Verdict(claim, held, _interval(mean, half), source)


def always(
    claim: str, each: ArrayLike, numbers: str = "", *, source: str = ""
) -> Verdict:
    """Returns the verdict on what has to be true of every seed; `each` is [S] bool."""
    each = np.atleast_1d(np.asarray(each, bool))
    counted = f"{each.sum()} of {each.size} seeds"
    numbers = f"{counted}; {numbers}" if numbers else counted
    return Verdict(claim, bool(each.all()), numbers, source)


def jointly(claim: str, parts: Sequence[Verdict], *, source: str = "") -> Verdict:
    """Returns the verdict on a claim that holds where all of `parts` do."""
    numbers = "; ".join(f"{part.claim}: {part.numbers}" for part in parts)
    return Verdict(claim, all(part.held for part in parts), numbers, source)


def _interval(mean: float, half: float) -> str:
    return f"difference {mean:.3g} +- {half:.2g}"
