"""Verdicts: whether a claim is held, refuted or undecided, from an interval over seeds.

A claim is a quantity of each seed, mostly a difference of two arms, and bounds that it
has to keep. Of the quantity's 95 % confidence interval (Student's t over seeds)

    all satisfies the bounds    the claim is held
    none does                   it is refuted
    some does                   it is undecided

Several claims of one experiment are judged together, with Holm's correction, and at a
smaller level where undecided ones are looked at twice: an interval that is only just on
one side may still leave a claim undecided. A claim of several parts is held if all
parts are, and refuted if one is, at a level divided by how many there are.

The mean of a seed's worst part (its largest step up, say) lies beyond what any part
has on average: such a claim is held on the safe side, but refuted too easily. A
quantity that is the same for all seeds, such as one that is capped, has an interval of
no width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # scipy.stats takes ten times as long to import.

LEAST_SEEDS = 5
"""With fewer nothing is decided."""
LEVEL = 0.05
"""The chance that any verdict of an experiment is wrong, at most."""
LEVEL_OF_TWO = 0.0294
"""The level of each of two looks, the second with twice the seeds, for `LEVEL` in all:
Pocock 1977, Group sequential methods in the design and analysis of clinical trials."""
HELD, REFUTED, UNDECIDED = OUTCOMES = ("held", "refuted", "undecided")

BEFORE = "ours, set before the first run"
PILOT = "ours, from pilot runs of other code"
TUNED = "ours, chosen on seeds 0 to 4"
"""Where a bound other than 0 comes from, for `chosen=`."""
TRIED = "the design had been tried on the seeds 0 to 4"
"""What a claim owes to results on other seeds, for `changed=`."""


class Criterion(NamedTuple):
    """A quantity that has to lie above `low` and below `high`.

    Attributes:
        name: of the quantity, '' where it is the only one of its claim.
        each: its value for each seed, [S], finite.
        low: -inf for none.
        high: inf for none.
    """

    name: str
    each: np.ndarray
    low: float = -math.inf
    high: float = math.inf

    def interval(self) -> tuple[float, float, float]:
        """Returns the mean, and the ends of its 95 % confidence interval.

        Student's t with S - 1 degrees of freedom; infinite for a single seed.
        """
        mean, error = _mean_and_error(self.each)
        if math.isinf(error):
            return mean, -math.inf, math.inf
        half = error * float(special.stdtrit(len(self.each) - 1, 1 - LEVEL / 2))
        return mean, mean - half, mean + half

    def met(self) -> bool:
        """Returns whether the whole interval keeps the bounds."""
        _, low, high = self.interval()
        return low > self.low and high < self.high

    def chances(self) -> tuple[float, float]:
        """Returns one-sided p-values: that the bounds are kept, and that they are not.

        The first is the larger one of two bounds, the second the smaller one.
        """
        sides = [
            (_chance(sign * (self.each - bound)), _chance(sign * (bound - self.each)))
            for sign, bound in ((1, self.low), (-1, self.high))
            if math.isfinite(bound)
        ]
        kept, broken = zip(*sides, strict=True)
        return max(kept), min(broken)

    def words(self) -> str:
        """Returns the quantity, its interval and its bounds."""
        mean, low, high = self.interval()
        if math.isinf(self.high):
            bounds = f"> {self.low:g}"
        elif math.isinf(self.low):
            bounds = f"< {self.high:g}"
        else:
            bounds = f"between {self.low:g} and {self.high:g}"
        name = f"{self.name}: " if self.name else ""
        low, high = (_short(end, mean - low) for end in (low, high))
        return f"{name}{_short(mean)} [{low}, {high}] {bounds}"


class Verdict(NamedTuple):
    """A claim with its criteria, all of which have to be met.

    Attributes:
        claim: in words.
        criteria: one or more.
        chosen: where bounds come from, in words; '' if all are 0.
        changed: what was changed after results had been seen; '' for nothing. The
            seeds of a verdict are ones that were never used while choosing.
        source: what the source of the claim reports, in words; '' for no number.
    """

    claim: str
    criteria: tuple[Criterion, ...]
    chosen: str = ""
    changed: str = ""
    source: str = ""

    @property
    def held(self) -> bool:
        """Whether all criteria are met, this claim by itself."""
        return all(criterion.met() for criterion in self.criteria)

    @property
    def numbers(self) -> str:
        """The quantities, their intervals and bounds, in words."""
        return "; ".join(criterion.words() for criterion in self.criteria)

    def chances(self) -> tuple[float, float]:
        """Returns one-sided p-values: that the claim holds, and that it does not.

        All criteria have to be met, and a single one that is not refutes the claim:
        the largest p-value, and the smallest times the number of criteria.
        """
        kept, broken = zip(*(each.chances() for each in self.criteria), strict=True)
        return max(kept), min(1.0, len(broken) * min(broken))


class Outcome(NamedTuple):
    """What became of a claim among the others of its experiment.

    Attributes:
        outcome: 'held', 'refuted' or 'undecided'.
        p: two-sided, with Holm's correction.
    """

    outcome: str
    p: float


def judge(verdicts: Sequence[Verdict], level: float = LEVEL) -> list[Outcome]:
    """Returns the outcome of each claim of an experiment.

    Holm 1979: of m claims the k-th smallest p-value is multiplied by m - k + 1, and is
    at least the one before it.

    Args:
        verdicts: on all its claims.
        level: of this look; `LEVEL_OF_TWO` where undecided claims get, or got, another.
    """
    both = [verdict.chances() for verdict in verdicts]
    each = np.array([min(1.0, 2 * min(pair)) for pair in both])
    adjusted, largest = np.ones(len(each)), 0.0
    for k, i in enumerate(np.argsort(each)):
        largest = max(largest, min(1.0, (len(each) - k) * each[i]))
        adjusted[i] = largest
    found = []
    for verdict, pair, p in zip(verdicts, both, adjusted, strict=True):
        seeds = min(len(criterion.each) for criterion in verdict.criteria)
        decided = p <= level and seeds >= LEAST_SEEDS
        outcome = HELD if pair[0] < pair[1] else REFUTED
        found.append(Outcome(outcome if decided else UNDECIDED, float(p)))
    return found


def greater(
    claim: str, a: ArrayLike, b: ArrayLike = 0.0, *, by: float = 0.0, **said: str
) -> Verdict:
    """Returns the claim that `a - b > by`; `said` as the attributes of `Verdict`."""
    return _verdict(claim, Criterion("", _each(claim, a, b), low=by), said)


def less(
    claim: str, a: ArrayLike, b: ArrayLike = 0.0, *, by: float = 0.0, **said: str
) -> Verdict:
    """Returns the claim that `a - b < -by`."""
    return _verdict(claim, Criterion("", _each(claim, a, b), high=0.0 - by), said)


def within(
    claim: str, a: ArrayLike, b: ArrayLike, margin: float, **said: str
) -> Verdict:
    """Returns the claim that `|a - b| < margin`."""
    each = _each(claim, a, b)
    return _verdict(claim, Criterion("", each, -margin, margin), said)


def jointly(claim: str, parts: Sequence[Verdict], **said: str) -> Verdict:
    """Returns the claim that all of `parts` hold; bounds come from where theirs do."""
    named = [
        criterion._replace(name=part.claim)
        for part in parts
        for criterion in part.criteria
    ]
    for key in ("chosen", "changed"):
        every = [said.get(key, ""), *(getattr(part, key) for part in parts)]
        said[key] = "; ".join(dict.fromkeys(filter(None, every)))
    return Verdict(claim, tuple(named), **said)


def _each(claim: str, a: ArrayLike, b: ArrayLike) -> np.ndarray:
    each = np.atleast_1d(np.subtract(a, b, dtype=float))
    if each.ndim != 1:
        raise ValueError(
            f"{claim}: the values have shape {each.shape}, expected one for each seed; "
            "take a mean or the worst of a seed's"
        )
    if not np.isfinite(each).all():
        raise ValueError(
            f"{claim}: the values {each} of the seeds are not all finite, expected "
            "finite ones; say what a run that diverged counts as"
        )
    return each


def _verdict(claim: str, criterion: Criterion, said: dict[str, str]) -> Verdict:
    bounds = [b for b in (criterion.low, criterion.high) if math.isfinite(b)]
    if any(bounds) and not said.get("chosen"):
        raise ValueError(
            f"{claim}: has the bound {bounds[-1]:g} and no word on where it comes "
            "from, expected chosen=..., as PILOT or TUNED"
        )
    return Verdict(claim, (criterion,), **said)


def _chance(each: np.ndarray) -> float:
    """Returns the one-sided p-value of a mean above 0."""
    mean, error = _mean_and_error(each)
    if math.isinf(error):
        return 1.0
    if error == 0:
        return 0.0 if mean > 0 else 1.0
    return float(special.stdtr(len(each) - 1, -mean / error))


def _mean_and_error(each: np.ndarray) -> tuple[float, float]:
    """Returns the mean and its standard error, infinite for a single seed."""
    mean = float(np.mean(each))
    if len(each) < 2:
        return mean, math.inf
    return mean, float(np.std(each, ddof=1)) / math.sqrt(len(each))


def _short(value: float, scale: float | None = None) -> str:
    """Returns a number with three digits; with a `scale` as many decimals as it has."""
    if scale is None or not math.isfinite(value) or scale <= 0:
        return f"{value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(scale)))
    return f"{value:.{decimals}f}" if decimals < 6 else f"{value:.3g}"
