"""Reports: what the probes found, as tables for people."""

from collections.abc import Sequence

import numpy as np

from jaxbn.diagnostics._drift import Drift
from jaxbn.diagnostics._leakage import Leakage, check_leakage
from jaxbn.diagnostics._verdicts import find_dead, find_stale, typical


def drift_table(drifts: tuple[Drift, ...], *, momentum: float | None = None) -> str:
    """Returns a table of drifts, a line a layer, the farthest first.

    Args:
        drifts: what `measure_drift` found.
        momentum: of the running averages, for `find_stale` to allow for chance.

    Returns:
        Text: for each layer how many channels, the median and largest shift of the mean
        in deviations and the median log ratio of the variances, of the batch to the
        running statistics; the same medians of the precise statistics, where there are
        any; dead channels, and what `find_stale` and `find_dead` say.

    Example:
        >>> print(drift_table(()))
        layer  channels  shift  largest  log ratio  dead  verdict
    """
    stale, dead = find_stale(drifts, momentum=momentum), find_dead(drifts)
    precise = any(drift.precise for drift in drifts)
    head = ["layer", "channels", "shift", "largest", "log ratio"]
    head += ["precise shift", "precise log ratio"] if precise else []
    rows: list[list[object]] = []
    for drift in sorted(drifts, key=_how_far, reverse=True):
        row: list[object] = [drift.path, drift.var.size, "", "", ""]
        if drift.num_elements:
            shift, ratio = drift.batch
            row[2:] = [
                f"{typical(shift):.2f}",
                f"{_largest(shift):.2f}",
                _signed(ratio),
            ]
        if drift.precise:
            shift, ratio = drift.precise
            row += [f"{typical(shift):.2f}", _signed(ratio)]
        gone = len(dead.get(drift.path, ()))
        said = ["not reached"] * (not drift.num_elements)
        said += ["stale"] * (drift.path in stale)
        said += ["as initialized"] * bool(drift.is_initial and drift.num_elements)
        said += ["dead channels"] * (gone > 0)
        rows.append([*row, gone, ", ".join(said)])
    return aligned([[*head, "dead", "verdict"], *rows])


def _how_far(drift: Drift) -> float:
    found = [d for d in (drift.batch, drift.precise) if d]
    return max(max(typical(d.shift), typical(d.log_ratio)) for d in found)


def _largest(values: np.ndarray) -> float:
    return float(np.max(values, initial=0, where=~np.isnan(values)))


def _signed(values: np.ndarray) -> str:
    return f"{np.median(values[~np.isnan(values)]):+.2f}"


def leakage_table(leakage: Leakage) -> str:
    """Returns a table of a leakage probe, a line a layer in the order of the calls.

    Args:
        leakage: what `probe_leakage` found.

    Returns:
        Text: what has leaked into the example behind each layer, and what the layer
        alone leaks; exactly 0 is written as "none".

    Example:
        >>> print(leakage_table(Leakage({'bn': 0.25}, {'bn': 0.1}, 0.5, 0.0)))
        behind    change  alone
        bn        25%     10%
        output    50%
        gradient  none
    """
    check_leakage(leakage)
    rows = [
        (path, _percent(value), _percent(leakage.local[path]))
        for path, value in leakage.layers.items()
    ]
    rows.append(("output", _percent(leakage.output), ""))
    if leakage.gradient is not None:
        rows.append(("gradient", _percent(leakage.gradient), ""))
    return aligned([("behind", "change", "alone"), *rows])


def _percent(value: float) -> str:
    if value == 0:
        return "none"
    return f"{value:.0%}" if value >= 0.01 else f"{value:.1e}"


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """Returns rows as lines, each column as wide as its widest entry."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = (
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True))
        for row in texts
    )
    return "\n".join(line.rstrip() for line in lines)
