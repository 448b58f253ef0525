"""Targets: what was promised, where its figure is found, and whether it was met."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import block, precise, variants
from benchmarks._alone import Figures, markdown
from benchmarks._peers import BEFORE
from benchmarks._ratios import (
    arrays,
    bend,
    beside,
    by_devices,
    loop,
    of_blocks,
    of_precise,
    of_resnet,
    varied,
)
from benchmarks.variants import EACH


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


BLOCKS, HALF = "blocks float32", "blocks bfloat16"
LARGE = 2**18
TWO = EACH.format(2)
ROWS = (
    Target("layer / bare passes", "layer", 1.10, beside("training", "bare passes")),
    Target("layer / flax", "layer", 0.50, beside("training", "flax")),
    Target("layer / haiku", "layer", 0.60, beside("training", "haiku")),
    Target("layer / torch", "layer", 0.95, beside("training", "torch")),
    Target(
        "layer, bfloat16 / flax", "layer", 0.50, beside("training, bfloat16", "flax")
    ),
    Target("bf16 layer, arrays accessed", "layer", 10, arrays("accessed")),
    Target("bf16 layer, arrays stored", "layer", 0, arrays("stored")),
    Target("bf16 layer / before", "layer", 0.45, beside("training, bfloat16", BEFORE)),
    Target("bf16 layer / flax", "layer", 0.40, beside("training, bfloat16", "flax")),
    Target("f32 layer / before", "layer", 1.0, beside("training", BEFORE)),
    Target("f32 layer / bare passes", "layer", 0.95, beside("training", "bare passes")),
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
    Target("ResNet-50, StableHLO lines / flax", "program", 1.0, of_resnet("lines")),
    Target("ResNet-50, tracing / flax", "program", 1.0, of_resnet("trace_s")),
    Target("ResNet-50, compiling / flax", "program", 1.0, of_resnet("compile_s")),
    Target("MLP loop / torch, images/s", "training", 3.0, loop("torch"), least=True),
    Target("MLP loop / flax, images/s", "training", 1.2, loop("flax"), least=True),
    *(
        Target(
            f"ghost batches of {size} / plain",
            "variants",
            1.15,
            varied(f"ghost, {size}"),
        )
        for size in variants.GHOSTS
    ),
    Target(
        "ghost batches of 8 / of 32", "variants", 1.0, varied("ghost, 8", "ghost, 32")
    ),
    Target(
        "domains of each example (2) / plain, images",
        "variants",
        1.5,
        varied(TWO, axes=4),
    ),
    Target(
        "domains of each example (2) / plain, rows",
        "variants",
        2.0,
        varied(TWO, axes=2),
    ),
    Target("8 domains / 2", "variants", 1.1, varied(EACH.format(8), TWO)),
    Target("32 domains / 2", "variants", 1.1, varied(EACH.format(32), TWO)),
    Target("masked / plain", "variants", 1.15, varied("masked")),
    Target("renorm / plain", "variants", 1.15, varied("renorm")),
    Target(
        "group norm / flax", "variants", 0.9, varied("group, 32", "group, 32, flax")
    ),
    Target("group norm / plain", "variants", 1.6, varied("group, 32")),
    Target("precise statistics / forward", "precise", 1.15, of_precise),
    Target(
        "precise statistics, MLP / forward",
        "precise",
        1.15,
        lambda figures: precise.ratio(figures, "mlp"),
    ),
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
