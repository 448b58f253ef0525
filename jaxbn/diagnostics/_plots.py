"""Pictures of what the probes found. Matplotlib is imported when one is drawn."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxbn._values import shown
from jaxbn.diagnostics._drift import Drift
from jaxbn.diagnostics._landscape import Landscape
from jaxbn.diagnostics._leakage import Leakage, check_leakage
from jaxbn.diagnostics._verdicts import check_drifts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_drift(drifts: tuple[Drift, ...]) -> "Figure":
    """Returns bars of the shift and the log ratio of each layer, with their spread.

    Args:
        drifts: what `measure_drift` found; layers not reached are left out.

    Returns:
        A figure, to be saved by its `savefig`. Bars are medians over channels, lines
        reach from the 10th to the 90th percentile.

    Example:
        >>> plot_drift(()).axes[0].get_ylabel()
        'shift (deviations)'
    """
    from matplotlib.figure import Figure

    check_drifts(drifts)
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    axes[0].set_title("Mean and variance of a batch, from the running ones")
    seen = [drift for drift in drifts if drift.num_elements]
    places = np.arange(len(seen))
    labels = "shift (deviations)", "log ratio"
    for ax, name, label in zip(axes, ("shift", "log_ratio"), labels, strict=True):
        values = [_finite(getattr(drift.batch, name)) for drift in seen]
        middle = np.array([np.median(v) for v in values])
        low, high = (np.array([np.quantile(v, q) for v in values]) for q in (0.1, 0.9))
        ax.bar(
            places,
            middle,
            yerr=[(middle - low).tolist(), (high - middle).tolist()],
            capsize=2,
        )
        ax.set_ylabel(label)
        ax.axhline(0, color="black", linewidth=0.5)
    axes[1].set_xticks(places, [d.path for d in seen], rotation=60, ha="right")
    return figure


def _finite(values: np.ndarray) -> np.ndarray:
    """Returns the values that can be drawn, [K]; a zero where there are none."""
    found = values[np.isfinite(values)]
    return found if found.size else np.zeros(1)


def plot_leakage(leakage: Leakage) -> "Figure":
    """Returns bars of what leaks into an example, behind each layer and by it alone.

    Args:
        leakage: what `probe_leakage` found.

    Returns:
        A figure.

    Example:
        >>> found = Leakage({'bn': 0.5}, {'bn': 0.5}, 0.2, 0.1)
        >>> plot_leakage(found).axes[0].get_ylabel()
        'relative change'
    """
    from matplotlib.figure import Figure

    check_leakage(leakage)
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    names = [*leakage.layers, "output"]
    places = np.arange(len(names))
    behind = [*leakage.layers.values(), leakage.output]
    ax.bar(places - 0.2, behind, 0.4, label="behind the layer")
    ax.bar(places[:-1] + 0.2, list(leakage.local.values()), 0.4, label="it alone")
    ax.set_xticks(places, names, rotation=60, ha="right")
    ax.set(ylabel="relative change", title="What other mates do to an example")
    ax.legend()
    return figure


def plot_landscape(landscapes: dict[str, list[Landscape]]) -> "Figure":
    """Returns bands of the loss and of the gradient's change along training.

    Args:
        landscapes: by name, what `probe_landscape` found at each of some steps.

    Returns:
        A figure: the range of the loss along the gradient, and the largest effective
        smoothness, by the number of the probe.

    Example:
        >>> len(plot_landscape({}).axes)
        2
    """
    from matplotlib.figure import Figure

    if not isinstance(landscapes, Mapping) or not all(
        isinstance(probes, list | tuple)
        and all(isinstance(probe, Landscape) for probe in probes)
        for probes in landscapes.values()
    ):
        raise ValueError(
            f"landscapes is {shown(landscapes)}, expected lists of Landscape by name; "
            "pass what probe_landscape returned"
        )
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, probes in landscapes.items():
        low = [probe.losses.min() for probe in probes]
        high = [probe.losses.max() for probe in probes]
        left.fill_between(range(len(probes)), low, high, alpha=0.5, label=name)
        right.plot([probe.beta for probe in probes], label=name)
    left.set(xlabel="probe", ylabel="loss along the gradient")
    right.set(xlabel="probe", ylabel="effective smoothness")
    if landscapes:
        left.legend()
    return figure
