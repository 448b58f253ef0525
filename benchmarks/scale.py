"""How cost grows with examples, channels and layers, and where it bends.

    python -m benchmarks.scale [--repeats N] [--json FILE]

A layer forward and backward as in `benchmarks.layer`, from 2^14 to 2^23 numbers by
examples and by channels; 1 to 32 layers of the same size in one program; 1 to 8 virtual
devices of one CPU, which share its two cores, at a fixed share each, and with it their
collectives. A straight line on both logarithmic axes, of slope 1, is a cost a number.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import _peers as peers
from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._turns import in_turn
from benchmarks.layer import backward, layers

SIZES = tuple(2**k for k in range(14, 24))
CHANNELS, EXAMPLES = 64, 4096
DEPTHS, DEPTH_SIZE = (1, 2, 4, 8, 16, 32), (4096, 64)


def numbers(shape: tuple[int, ...], count: int) -> tuple[list[Any], list[Any]]:
    """Returns inputs and slopes of so many layers."""
    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.normal(size=shape), "float32") for _ in range(2))
    return [x + i for i in range(count)], [slope + i for i in range(count)]


def timed(shapes: dict[str, tuple[int, ...]], repeats: int, count: int = 4) -> Figures:
    """Returns milliseconds of a layer by name of its shape."""
    found = {}
    for name, shape in shapes.items():
        run = {"": layers(backward, peers.ours, *numbers(shape, count))}
        found[name] = in_turn(run, repeats)[""].median / count
    return found


def by_depth(repeats: int) -> Figures:
    """Returns milliseconds of all layers, by how many there are."""
    found = {}
    for depth in DEPTHS:
        run = {"": layers(backward, peers.ours, *numbers(DEPTH_SIZE, depth))}
        found[str(depth)] = in_turn(run, repeats)[""].median
    return found


def measure(repeats: int = 7) -> Figures:
    """Returns milliseconds by what grows and how large it is."""
    examples = {str(n): (n // CHANNELS, CHANNELS) for n in SIZES}
    channels = {str(n): (EXAMPLES, n // EXAMPLES) for n in SIZES}
    return {
        "numbers, by examples": timed(examples, repeats),
        "numbers, by channels": timed(channels, repeats),
        "layers": by_depth(repeats),
    }


def slope(row: dict[str, float], since: int = 0) -> float:
    """Returns the slope of a row on logarithmic axes, by sizes from `since` on."""
    points = [(int(n), cost) for n, cost in row.items() if int(n) >= since]
    sizes, costs = np.log(np.array(points)).T
    return float(np.polyfit(sizes, costs, 1)[0])


def table(figures: Figures) -> str:
    """Returns a table for each thing that grows, and the slopes."""
    parts = []
    for name, row in figures.items():
        cells = [f"{cost:.3f}" for cost in row.values()]
        parts.append(
            markdown([name, *row, "slope"], [["ms", *cells, f"{slope(row):.2f}"]])
        )
    return "\n\n".join(parts)


def draw(figures: Figures, axes: Any) -> None:
    """Draws cost against size for all that grows, each relative to its smallest."""
    for name, row in figures.items():
        sizes = np.array([int(n) for n in row])
        costs = np.array(list(row.values()))
        axes.loglog(sizes / sizes[0], costs / costs[0], "o-", label=name)
    ends = np.array(axes.get_xlim())
    axes.plot(ends, ends, color="black", linewidth=0.8, label="in proportion")
    axes.set_xlabel("size / smallest size")
    axes.set_ylabel("time / time at the smallest")
    axes.set_title("How the cost of a layer grows")
    axes.legend()


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
