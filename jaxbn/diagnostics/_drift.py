"""Drift: a layer's running statistics beside others, as numbers. NumPy only."""

from typing import NamedTuple

import numpy as np

EPSILON = 1e-5
"""Added to variances of layers that do not evaluate as batch norm does."""


class Distance(NamedTuple):
    """How far some statistics are from the running ones.

    Attributes:
        shift: [C] `|mean - running mean| / sqrt(running var + epsilon)`, in deviations.
        log_ratio: [C] `log((var + epsilon) / (running var + epsilon))`.
    """

    shift: np.ndarray
    log_ratio: np.ndarray


class Drift(NamedTuple):
    """One layer's running statistics beside those of a batch; [C] arrays are NumPy's.

    What was not measured is NaN: all of a layer that was not reached, and channels that
    counted nothing. A distance of what is not finite is inf.

    Attributes:
        path: of the layer; with '[i]' for one of several stacked by `nn.scan`, or one
            domain of a `domain_norm`.
        num_elements: counted a channel, the largest; 0 if the layer was not reached.
        num_independent: [C] how many independent elements would give a mean as certain
            as this one: fewer than there are where an example's elements are alike, as
            the pixels of an image.
        mean: [C] of the running statistics.
        var: [C] likewise.
        batch_mean: [C] of what the layer was given.
        batch_var: [C] likewise, biased.
        scale: [C] of the layer's parameters; ones if it has none.
        batch: how far the batch is from the running statistics.
        surprise: [C] the shift of the batch in standard errors of its mean, the larger
            of those of independent elements and of independent examples.
        precise: how far the precise statistics are; None if there were none.
    """

    path: str
    num_elements: float
    num_independent: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    batch_mean: np.ndarray
    batch_var: np.ndarray
    scale: np.ndarray
    batch: Distance
    surprise: np.ndarray
    precise: Distance | None

    @property
    def is_initial(self) -> bool:
        """Whether the statistics are exactly those at initialization: 0 and 1."""
        return bool(np.all(self.mean == 0) and np.all(self.var == 1))


def compare(path: str, held: dict[str, np.ndarray]) -> Drift:
    """Returns the drift of one layer, from what it holds and what was noted."""
    mean, var, epsilon = held["mean"], held["var"], held.get("epsilon", EPSILON)
    precise = None
    if "precise_mean" in held:
        apart = held["precise_mean"] - mean
        precise = _distance(apart, held["precise_var"], var, epsilon)
    nothing = np.full_like(var, np.nan)
    blank = Drift(
        path,
        0.0,
        nothing,
        mean,
        var,
        nothing,
        nothing,
        held.get("scale", np.ones_like(var)),
        Distance(nothing, nothing),
        nothing,
        precise,
    )
    if "total" not in held:
        return blank
    counted = held["total"] > 0
    total = np.where(counted, held["total"], 1)
    apart = (held["shift"] - mean) + held["delta"]
    batch_var = held["m2"] / total
    wide = batch_var + epsilon
    independent = total / np.maximum(held["spread"] / (total * wide), 1)
    found = (
        independent,
        held["shift"] + held["delta"],
        batch_var,
        *_distance(apart, batch_var, var, epsilon),
        np.abs(apart) * np.sqrt(independent / wide),
    )
    independent, batch_mean, batch_var, shift, log_ratio, surprise = (
        np.where(counted, value, np.nan) for value in found
    )
    return blank._replace(
        num_elements=float(held["total"].max(initial=0)),
        num_independent=independent,
        batch_mean=batch_mean,
        batch_var=batch_var,
        batch=Distance(shift, log_ratio),
        surprise=surprise,
    )


def _distance(
    apart: np.ndarray, new: np.ndarray, old: np.ndarray, epsilon: float | np.ndarray
) -> Distance:
    """Returns a distance: inf where it is not finite."""
    with np.errstate(all="ignore"):
        shift = np.abs(apart) / np.sqrt(old + epsilon)
        log_ratio = np.log((new + epsilon) / (old + epsilon))
    return Distance(*(np.where(np.isfinite(d), d, np.inf) for d in (shift, log_ratio)))
