"""Targets: what was promised, where its figure is found, and whether it was met."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import block, layer, precise, scale, variants
from benchmarks._alone import Figures, markdown


class Target(NamedTuple):
    """A row of the table.

    Attributes:
        what: in words.
        benchmark: that measures it.
        limit: the ratio promised.
        figure: that ratio among the benchmark's figures.
        least: whether the limit is a least value instead of a largest.
    """

    what: str
    benchmark: str
    limit: float
    figure: Callable[[Figures], float]
    least: bool = False

    def met(self, found: float) -> bool:
        """Returns whether a figure, as it is printed, keeps the promise."""
        found = round(found, 2)
        return found >= self.limit if self.least else found <= self.limit


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


def shrinking(figures: Figures) -> float:
    """Returns the time of ghost batches of 8 in that of 32."""
    return variants.ratio(figures, "ghost, 8") / variants.ratio(figures, "ghost, 32")


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


BLOCKS, HALF = "blocks float32", "blocks bfloat16"
LARGE = 2**18
ROWS = (
    Target("layer / bare passes", "layer", 1.10, beside("training", "bare passes")),
    Target("layer / flax", "layer", 0.50, beside("training", "flax")),
    Target("layer / haiku", "layer", 0.60, beside("training", "haiku")),
    Target("layer / torch", "layer", 0.95, beside("training", "torch")),
    Target(
        "layer, bfloat16 / flax", "layer", 0.50, beside("training, bfloat16", "flax")
    ),
    Target("masked / unmasked", "layer", 1.30, beside("masked", "jaxbn, no mask")),
    Target(
        "evaluation / multiply-add", "layer", 1.05, beside("evaluation", "multiply-add")
    ),
    Target("block, memory / flax", "block", 0.65, of_blocks(BLOCKS, "temporary_mb")),
    Target("block, bytes / flax", "block", 0.82, of_blocks(BLOCKS, "accessed_gb")),
    Target(
        "block, bfloat16, memory / flax", "block", 0.60, of_blocks(HALF, "temporary_mb")
    ),
    Target(
        "with the policy, memory / flax",
        "block",
        0.45,
        of_blocks(BLOCKS, "temporary_mb", block.POLICY),
    ),
    Target(
        "with the policy, kept / flax",
        "block",
        0.45,
        of_blocks(BLOCKS, "kept", block.POLICY),
    ),
    Target(
        "with the policy, time / flax",
        "block",
        1.15,
        of_blocks(BLOCKS, "ms", block.POLICY),
    ),
    Target(
        "ResNet-50, compiling / flax", "block", 1.0, of_blocks("resnet50", "compile_s")
    ),
    Target("MLP loop / torch, images/s", "training", 3.0, loop("torch"), least=True),
    Target("MLP loop / flax, images/s", "training", 1.2, loop("flax"), least=True),
    *(
        Target(
            f"ghost batches of {size} / plain",
            "variants",
            1.15,
            lambda figures, size=size: variants.ratio(figures, f"ghost, {size}"),
        )
        for size in variants.GHOSTS
    ),
    Target("ghost batches of 8 / of 32", "variants", 1.0, shrinking),
    Target("precise statistics / forward", "precise", 1.15, of_precise),
    Target("import jaxbn beyond jax, s", "startup", 0.15, lambda f: f["beyond jax"]),
    Target(
        "slope by examples, from 2^18",
        "scale",
        1.1,
        bend("numbers, by examples", LARGE),
    ),
    Target(
        "slope by channels, from 2^18",
        "scale",
        1.1,
        bend("numbers, by channels", LARGE),
    ),
    Target("slope by devices", "sync", 1.1, by_devices),
)


def table(runs: dict[str, list[Figures]]) -> str:
    """Returns every row that was measured: the median of the runs, and each of them."""
    lines = []
    for row in ROWS:
        try:
            found = [row.figure(figures) for figures in runs.get(row.benchmark, [])]
        except KeyError as missing:
            found = []
            print(f"{row.what}: {missing} was not measured")
        if not found:
            continue
        middle = statistics.median(found)
        sign = ">=" if row.least else "<="
        each = ", ".join(f"{figure:.2f}" for figure in found)
        met = "yes" if row.met(middle) else "no"
        lines.append([row.what, f"{sign} {row.limit:.2f}", f"{middle:.2f}", each, met])
    return markdown(["what", "target", "median", "runs", "met"], lines)
