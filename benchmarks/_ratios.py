"""Ratios: where the figures of the targets are found among those of a benchmark."""

import statistics
from collections.abc import Callable

from benchmarks import layer, precise, program, scale, variants
from benchmarks._alone import Figures


def beside(mode: str, base: str, name: str = "jaxbn") -> Callable[[Figures], float]:
    """Returns what finds the ratio of two columns of `layer`, mean over shapes."""
    return lambda figures: layer.ratio(figures, mode, name, base)


def of_blocks(
    setting: str, column: str, name: str = "jaxbn"
) -> Callable[[Figures], float]:
    """Returns what finds the ratio to Flax in a column of `block`."""
    return lambda f: f[setting][name][column] / f[setting]["flax"][column]


def loop(base: str) -> Callable[[Figures], float]:
    """Returns what finds how much faster the MLP is trained than by `base`."""

    def figure(figures: Figures) -> float:
        row = figures["images a second"]["mlp"]
        return row["jaxbn"] / row[base]

    return figure


def arrays(what: str, dtype: str = "bfloat16") -> Callable[[Figures], float]:
    """Returns what finds how many arrays our layer accesses or stores."""
    return lambda figures: layer.arrays(figures, dtype, what)


def varied(
    name: str, base: str = "plain", axes: int | None = None
) -> Callable[[Figures], float]:
    """Returns what finds a variant's time in that of another, mean over shapes."""
    return lambda figures: variants.ratio(figures, name, base, axes)


def of_resnet(column: str) -> Callable[[Figures], float]:
    """Returns what finds the ratio to Flax in a column of `program`."""
    return lambda figures: program.ratio(figures, "ResNet-50", column)


def of_precise(figures: Figures) -> float:
    """Returns the geometric mean over models."""
    ratios = [precise.ratio(figures, name) for name in figures]
    return statistics.geometric_mean(ratios)


def bend(row: str, since: int) -> Callable[[Figures], float]:
    """Returns what finds the slope of a line of `scale` from its size `since` on."""
    return lambda figures: scale.slope(figures[row], since)


def by_devices(figures: Figures) -> float:
    """Returns the slope of a synchronized layer's time by virtual devices."""
    timed = figures["timed"].items()
    return scale.slope({n: row["jaxbn"]["median_ms"] for n, row in timed})
