"""Reports: what the probes found, as tables for people."""

from collections.abc import Sequence

import numpy as np

from jaxbn.diagnostics._drift import Drift, find_dead, find_stale
from jaxbn.diagnostics._leakage import Leakage


def drift_table(drifts: tuple[Drift, ...]) -> str:
    """Returns a table of drifts, a line a layer, the farthest first.

    Args:
        drifts: what `measure_drift` found.

    Returns:
        Text: for each layer how many channels, the median and largest shift of the mean
        in deviations, the median log ratio of the variances, dead channels, and what
        `find_stale` and `find_dead` say.

    Example:
        >>> print(drift_table(()))
        layer  channels  shift  largest  log ratio  dead  verdict
    """
    stale, dead = find_stale(drifts), find_dead(drifts)
    rows: list[tuple[object, ...]] = []
    for drift in drifts:
        if not drift.num_elements:
            rows.append((drift.path, drift.var.size, "", "", "", "", "not reached"))
            continue
        gone = len(dead.get(drift.path, ()))
        said = ["stale"] * (drift.path in stale) + ["dead channels"] * (gone > 0)
        rows.append(
            (
                drift.path,
                drift.var.size,
                f"{np.median(drift.shift):.2f}",
                f"{np.max(drift.shift):.2f}",
                f"{np.median(drift.log_ratio):+.2f}",
                gone,
                ", ".join(said),
            )
        )
    rows.sort(key=lambda row: -float(str(row[2]) or -1))
    head = ("layer", "channels", "shift", "largest", "log ratio", "dead", "verdict")
    return aligned([head, *rows])


def leakage_table(leakage: Leakage) -> str:
    """Returns a table of a leakage probe, a line a layer in the order of the calls.

    Args:
        leakage: what `probe_leakage` found.

    Returns:
        Text; a change of exactly 0 is written as "none".

    Example:
        >>> print(leakage_table(Leakage({'bn': 0.25}, 0.5, 0.0)))
        behind    change
        bn        25%
        output    50%
        gradient  none
    """
    found = {**leakage.layers, "output": leakage.output, "gradient": leakage.gradient}
    rows = [(path, _percent(value)) for path, value in found.items()]
    return aligned([("behind", "change"), *rows])


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
