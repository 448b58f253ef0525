"""Drawing: what the pictures of experiments have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MARKERS = "osD^vPX*"
HATCHES = ("", "//", "..", "xx", "\\\\", "--")
"""Of bars side by side, which are told apart without colour."""


def spread(values: ArrayLike) -> np.ndarray:
    """Returns the standard deviation over seeds, along the first axis.

    Of a single seed it is 0; what is not finite is left out.

    Example:
        >>> spread([[1.0, 2.0], [3.0, float("nan")]]).round(3)
        array([1.414, 0.   ])
    """
    values = np.asarray(values, float)
    there = np.isfinite(values)
    many, known = there.sum(0), np.where(there, values, 0)
    away = np.where(there, known - known.sum(0) / np.maximum(many, 1), 0)
    return np.sqrt((away**2).sum(0) / np.maximum(many - 1, 1))


def band(axes: Any, x: ArrayLike, values: ArrayLike, label: str, **style: Any) -> None:
    """Draws the mean of values [S, X] over seeds, and one standard deviation about it.

    What is not finite is left out of both.
    """
    values = np.asarray(values, float)
    values = np.where(np.isfinite(values), values, np.nan)
    some = np.isfinite(values).any(0)
    x, values = np.asarray(x)[some], values[:, some]
    mean, width = np.nanmean(values, 0), spread(values)
    (line,) = axes.plot(x, mean, label=label, **style)
    low, high = mean - width, mean + width
    if axes.get_yscale() == "log":
        low = np.maximum(low, mean / 10)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def bars(axes: Any, names: Sequence[str], groups: Mapping[str, ArrayLike]) -> None:
    """Draws groups of bars side by side.

    Args:
        axes: to draw on.
        names: of the places along x.
        groups: values [S, places] by the label of their bars.
    """
    width = 0.8 / len(groups)
    places = np.arange(len(names))
    for i, (label, values) in enumerate(groups.items()):
        values = np.asarray(values, float)
        shift = (i - (len(groups) - 1) / 2) * width
        error = {"yerr": spread(values), "capsize": 2}
        hatch = HATCHES[i % len(HATCHES)]
        height = values.mean(0)
        axes.bar(places + shift, height, width, label=label, hatch=hatch, **error)
    axes.set_xticks(places, names, fontsize=9)


def legend_below(figure: Any, axes: Any = None, columns: int = 4) -> None:
    """Draws one legend below all axes, of the lines of `axes` (the first ones).

    There it covers no data.
    """
    axes = figure.axes[0] if axes is None else axes
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": min(columns, len(labels))}
    figure.legend(handles, labels, fontsize=9, **place)
