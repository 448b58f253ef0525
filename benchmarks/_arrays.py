"""Arrays: what a program accesses and stores, in units of its input."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks._alone import Figures, markdown

DTYPES = ("float32", "bfloat16")
Runs = dict[str, Callable[..., Any]]


def as_text(shape: tuple[int, ...]) -> str:
    """Returns a shape as it stands in a table."""
    return "x".join(map(str, shape))


def weigh(run: Callable[..., Any], shape: tuple[int, ...], dtype: str) -> Figures:
    """Returns what a layer, run by x, slope, scale and bias, accesses and stores.

    What it stores is temporary: neither given nor returned.
    """
    x, affine = (
        jax.ShapeDtypeStruct(s, d) for s, d in ((shape, dtype), (shape[-1:], "float32"))
    )
    program = jax.jit(run).lower(x, x, affine, affine).compile()
    size = x.size * x.dtype.itemsize
    return {
        "accessed": program.cost_analysis()["bytes accessed"] / size,
        "stored": program.memory_analysis().temp_size_in_bytes / size,
    }


def weights(runs: Runs, shapes: tuple[tuple[int, ...], ...]) -> Figures:
    """Returns what layers access and store, by dtype, shape and name."""
    return {
        dtype: {
            as_text(shape): {k: weigh(run, shape, dtype) for k, run in runs.items()}
            for shape in shapes
        }
        for dtype in DTYPES
    }


def table(figures: Figures) -> str:
    """Returns a table of what is accessed and, behind the plus, stored."""
    lines = []
    for dtype, rows in figures.items():
        for shape, row in rows.items():
            cells = [f"{w['accessed']:.1f} + {w['stored']:.1f}" for w in row.values()]
            lines.append([f"{dtype}, {shape}", *cells])
    names = next(iter(next(iter(figures.values())).values()))
    return markdown(["arrays accessed + stored", *names], lines)
