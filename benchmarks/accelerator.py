"""What one GPU tells in five minutes: layers, variants, blocks, a ResNet-50 step.

    python -m benchmarks.accelerator [--seconds S] [--repeats N] [--json FILE]

The copy rate is that of `x + 1` over a large array. A layer, forward and backward,
moves at least eight arrays of the size of its input (see "The floor" in the README);
times are over that floor. Of the smallest inputs here, 33 and 51 MB in bfloat16, some
may stay in a card's cache, and come out below it. Rows that there is no time for are
left out and named. Without an accelerator nothing is measured.
"""

import datetime
import importlib.metadata
from typing import Any

import jax

from benchmarks import _device as device
from benchmarks import _peers as peers
from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._device import Budget, Size
from benchmarks._step import resnet

SIZES = {
    "full": Size(
        copied=2**29,
        layers=(
            (256, 112, 112, 64),
            (256, 56, 56, 256),
            (256, 14, 14, 1024),
            (256, 7, 7, 2048),
            (16384, 1024),
        ),
        varied=(256, 56, 56, 256),
        blocks=(256, 56, 56, 64),
        images=(128, 224, 224, 3),
        resnet={"stages": (3, 4, 6, 3), "width": 64},
        calls=10,
    ),
    "smoke": Size(
        copied=2**10,
        layers=((8, 2, 2, 32),),
        varied=(32, 2, 2, 32),
        blocks=(2, 4, 4, 64),
        images=(2, 32, 32, 3),
        resnet={"stages": (1,), "width": 4},
        calls=2,
    ),
}
PACKAGES = ("jax", "jaxlib", "flax", "jaxbn", "dm-haiku")
NORMS = ("bare passes", "jaxbn", "flax", "flax, exact", "haiku")
# The part of the time that has passed when a section stops; the last ends with all.
SECTIONS = {
    "bfloat16": 0.15,
    "float32": 0.3,
    "six blocks": 0.4,
    "ResNet-50": 0.7,
    "bfloat16, relu": 0.8,
    "float32, relu": 0.9,
    "variants, bfloat16": 0.95,
    "variants, float32": 1.0,
}
COLUMNS = {
    "ms": "ms",
    "images_s": "images/s",
    "temporary_mb": "temporary MB",
    "compile_s": "compile s",
}


def card() -> Figures:
    """Returns what was measured on, when, and the versions."""
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {
        "card": jax.devices()[0].device_kind,
        "date": datetime.date.today().isoformat(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in PACKAGES
            if name in installed
        },
    }


def measure(repeats: int = 3, seconds: int = 280, size: str = "full") -> Figures:
    """Returns the card, its copy rate, and the figures by section."""
    if size == "full" and jax.devices()[0].platform == "cpu":
        return {}
    given, budget = SIZES[size], Budget(seconds)
    found: Figures = {**card(), "size": size}
    rate = device.copy_rate(given, repeats)
    found["copy_tb_s"] = rate / 1e12
    norms = {k: v for k, v in peers.norms().items() if k in NORMS}
    for name, part in SECTIONS.items():
        budget.until(part)
        dtype = name.removeprefix("variants, ").removesuffix(", relu")
        if name == "six blocks":
            found[name] = device.blocks(given, repeats, budget)
        elif name == "ResNet-50":
            found[name] = resnet(given, repeats, budget)
        elif name.startswith("variants"):
            found[name] = device.variants(dtype, given, repeats, rate, budget)
        else:
            relu = name.endswith("relu")
            found[name] = {}
            for shape in given.layers:
                what = f"{dtype} {shape}{', relu' if relu else ''}"
                if budget.allows(what):
                    row = device.layers(norms, shape, dtype, relu, given.calls, repeats)
                    found[name]["x".join(map(str, shape))] = device.floors(
                        row, shape, dtype, rate
                    )
    return found | {"left out": budget.left_out}


def table_of_layers(title: str, rows: Figures) -> str:
    """Returns times over the floor, a row a shape."""
    names = list(next(iter(rows.values()))["over"])
    lines = [
        [shape, f"{row['floor_ms']:.3f} ms", *(f"{row['over'][k]:.2f}" for k in names)]
        for shape, row in rows.items()
    ]
    return markdown([title, "floor", *names], lines)


def table_of_variants(title: str, rows: Figures) -> str:
    """Returns times over the floor and over plain batch norm, a row a variant."""
    ((shape, row),) = rows.items()
    plain = row["over"]["plain"]
    lines = [[k, f"{v:.2f}", f"{v / plain:.2f}"] for k, v in row["over"].items()]
    return markdown([f"{title}, {shape}", "over the floor", "over plain"], lines)


def table_of_programs(title: str, rows: Figures) -> str:
    """Returns what was measured of each program."""
    columns = {k: v for k, v in COLUMNS.items() if k in next(iter(rows.values()))}
    lines = [[name, *(f"{row[k]:.4g}" for k in columns)] for name, row in rows.items()]
    return markdown([title, *columns.values()], lines)


def table(figures: Figures) -> str:
    """Returns a table a section, under a line on the card; or that there is none."""
    if not figures:
        return "accelerator needs an accelerator, and jax.devices() has CPUs only."
    versions = " ".join(f"{k} {v}" for k, v in figures["versions"].items())
    rate = ["copy rate", f"{figures['copy_tb_s']:.3g} TB/s"]
    parts = [markdown([figures["card"], f"{figures['date']}, {versions}"], [rate])]
    for name in SECTIONS:
        rows = figures[name]
        make: Any = table_of_layers
        if name in ("six blocks", "ResNet-50"):
            make = table_of_programs
        elif name.startswith("variants"):
            make = table_of_variants
        parts += [make(name, rows)] if rows else []
    left_out = "; ".join(figures["left out"])
    parts += [f"Left out, past the time: {left_out}."] if left_out else []
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
