"""Curves compared, and the table of what was found."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tests.programs._change import OTHER_FORMULA, OURS, Missing, Program, train_with
from tests.programs._fit import STEPS, Curve, Tree

TIMES, LEAST = 10, 1e-6  # The same: ten times the rounding at most, or one millionth.
MOST = 1e-3  # Where rounding makes more of a difference nothing can be told.


class Difference(NamedTuple):
    """The largest relative differences of two curves."""

    losses: float
    statistics: float


class Row(NamedTuple):
    """A line of the table; `outcome` is a verdict, or why there is none."""

    program: Program
    changed: list[str]
    outcome: str
    found: Difference | None = None
    rounding: Difference | None = None


def compare(curve: Curve, other: Curve) -> Difference:
    """Returns the largest differences, relative to `curve`.

    Of losses to the loss, of running variances to the variance, and of running means to
    the deviation, since a mean may be anywhere near zero.
    """
    ours, theirs = by_path(curve.statistics), by_path(other.statistics)
    if ours.keys() != theirs.keys():
        raise ValueError(f"other running statistics: {ours.keys() ^ theirs.keys()}")
    largest = [0.0]
    for path, value in ours.items():
        scale = value
        if path.endswith("['mean']"):
            scale = np.sqrt(ours[path.removesuffix("['mean']") + "['var']"])
        largest.append(np.max(np.abs(theirs[path] - value) / scale))
    losses = np.abs(other.losses - curve.losses) / np.abs(curve.losses)
    return Difference(float(np.max(losses)), float(np.max(largest)))


def by_path(statistics: Tree) -> dict[str, np.ndarray]:
    """Returns arrays in float64 by their path."""
    pairs = jax.tree_util.tree_flatten_with_path(statistics)[0]
    return {jax.tree_util.keystr(p): np.asarray(a, np.float64) for p, a in pairs}


def run(program: Program, sources: Path) -> Row:
    """Trains three times and compares, or says why not."""
    changed: list[str] = []
    layer = "Flax's layer"
    try:
        theirs, _ = train_with(program, sources, None)
        layer = "our layer"
        ours, changed = train_with(program, sources, OURS)
        layer = "Flax's other formula"
        again, _ = train_with(program, sources, OTHER_FORMULA)
        found, rounding = compare(theirs, ours), compare(theirs, again)
    except Missing as missing:
        return Row(program, changed, f"not run: {missing}")
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        reason = f"not run: with {layer}, {type(error).__name__}: {said}"
        return Row(program, changed, reason)
    limits = [max(TIMES * number, LEAST) for number in rounding]
    same = all(a <= b for a, b in zip(found, limits, strict=True))
    outcome = "same" if same else "differs"
    if rounding.losses > MOST:
        outcome = "rounding decides"
    elif program.known and not same:
        outcome = f"differs: {program.known}"
    return Row(program, changed, outcome, found, rounding)


def table(rows: list[Row]) -> str:
    """Returns the rows in Markdown."""
    lines = [
        "| program | repository and commit | where the layer is named | steps "
        "| losses | statistics | rounding: losses | statistics | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        places: dict[str, list[str]] = {}
        for place in row.changed:
            path, _, number = place.partition(":")
            places.setdefault(path, []).append(number)
        found = [*(row.found or ()), *(row.rounding or ())]
        cells = [
            row.program.name,
            f"{row.program.source.repository} {row.program.source.commit[:8]}",
            "; ".join(f"{path}: {', '.join(n)}" for path, n in places.items()),
            str(STEPS) if found else "",
            *([f"{number:.1e}" for number in found] or [""] * 4),
            row.outcome,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
