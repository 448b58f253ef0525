"""Verdicts: which layers are stale and which channels are dead, read off the drifts.

A layer's statistics move together, so a layer is stale by what most of its channels
say; a channel dies alone.
"""

from typing import Any

import numpy as np

from jaxbn._values import check_number, is_number, shown
from jaxbn.diagnostics._drift import Drift


def find_stale(
    drifts: tuple[Drift, ...],
    *,
    shift: float = 0.5,
    log_ratio: float = 0.7,
    momentum: float | None = None,
) -> tuple[str, ...]:
    """Returns the paths of layers whose statistics are not those of the data.

    Judged by the precise statistics where there are any, by the batch elsewhere.

    Args:
        drifts: what `measure_drift` found, over enough examples.
        shift: the median shift of the mean over channels, in deviations, above which a
            layer is stale.
        log_ratio: likewise of `|log_ratio|`; 0.7 is a factor of two.
        momentum: of the running average, if what chance explains of a batch is to be
            allowed for: limits are then at least three times `sampling_shift`. None
            allows for nothing.

    Returns:
        Paths, the farthest first: layers beyond a limit, those whose distance is not
        finite, and those that were reached but are exactly as initialized (mean 0,
        variance 1).

    Example:
        >>> find_stale(())
        ()
    """
    check_drifts(drifts)
    check_number("shift", shift, 0, fix="0.5 is the default")
    check_number("log_ratio", log_ratio, 0, fix="0.7 is the default")
    if momentum is not None:
        _check_momentum(momentum)
    far = []
    for drift in drifts:
        distance, chance = drift.precise or drift.batch, 0.0
        if not drift.num_elements and drift.precise is None:
            continue
        if momentum is not None and drift.precise is None:
            few = float(np.nanmedian(drift.num_independent))
            chance = 3 * sampling_shift(few, momentum)
        # A limit of 0 leaves nothing to allow for.
        moved = typical(distance.shift) / max(shift, chance, 1e-30)
        ratio = typical(distance.log_ratio)
        ratio /= max(log_ratio, np.sqrt(2) * chance, 1e-30)
        excess = max(moved, ratio)
        if excess > 1 or (drift.is_initial and drift.num_elements):
            far.append((excess, drift.path))
    return tuple(path for _, path in sorted(far, reverse=True))


def check_drifts(drifts: object) -> None:
    """Refuses what `measure_drift` does not return.

    Raises:
        ValueError: unless they are drifts, in a tuple or list.
    """
    listed = isinstance(drifts, tuple | list) and not isinstance(drifts, Drift)
    if not listed or not all(isinstance(drift, Drift) for drift in drifts):
        raise ValueError(
            f"drifts is {shown(drifts)}, expected a tuple of them; pass what "
            "measure_drift returns"
        )


def _check_momentum(momentum: Any) -> None:
    """Refuses what is no weight of an old value."""
    if not is_number(momentum) or not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum is {shown(momentum)}, expected 0 <= momentum <= 1, the weight "
            "of the old value; PyTorch's is one minus that"
        )


def typical(values: np.ndarray) -> float:
    """Returns the median size of what was measured, 0 if that is nothing."""
    measured = np.abs(values[~np.isnan(values)])
    return float(np.median(measured)) if measured.size else 0.0


def sampling_shift(num_elements: float, momentum: float) -> float:
    """Returns the shift that chance gives, where batches are all of one population.

    The mean of n independent elements is off by `1 / sqrt(n)` deviations, and a running
    average of such means by that over the root of its window `(1 + m) / (1 - m)`:

        sqrt(1/n + (1 - m) / ((1 + m) n))

    Args:
        num_elements: n, of each batch, if they are independent; else
            `Drift.num_independent`.
        momentum: m, the weight of the old value.

    Returns:
        One standard deviation of the shift. That of the log ratio is, for normal data,
        about the root of two times it.

    Raises:
        ValueError: unless momentum lies between 0 and 1.

    Example:
        >>> round(sampling_shift(100, 0.9), 3)
        0.103
    """
    _check_momentum(momentum)
    check_number("num_elements", num_elements, fix="pass how many were counted")
    window = (1 + momentum) / max(1 - momentum, 1e-12)
    return float(np.sqrt((1 + 1 / window) / max(num_elements, 1)))


def find_dead(
    drifts: tuple[Drift, ...], *, relative: float = 1e-6
) -> dict[str, tuple[int, ...]]:
    """Returns the channels that carry nothing, by path of the layer.

    Args:
        drifts: what `measure_drift` found.
        relative: a channel is dead if its batch variance is at most so much of the
            median of its layer's, if its running variance is 0, or if its scale is 0.
            One element has no variance: of such a batch nothing is concluded.

    Returns:
        Indices into the channels (of the flattened array, where there are several
        feature axes); layers without any are left out.

    Example:
        >>> find_dead(())
        {}
    """
    check_drifts(drifts)
    check_number("relative", relative, 0, fix="1e-6 is the default")
    found = {}
    for drift in drifts:
        dead = np.ravel((drift.var == 0) | (drift.scale == 0))
        var, judged = np.ravel(drift.batch_var), np.ravel(drift.num_independent) > 1
        dead |= judged & (var <= relative * typical(var[judged]))
        if dead.any():
            found[drift.path] = tuple(np.flatnonzero(dead).tolist())
    return found
