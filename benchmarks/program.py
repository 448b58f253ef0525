"""How long a norm's program is, and how long tracing, lowering and compiling it take.

    python -m benchmarks.program [--repeats N] [--baseline DIR] [--json FILE]

Value and gradient, running statistics included, of ResNet-50 on [2, 64, 64, 3] and of
six blocks of 3x3 convolution, norm and relu on [64, 32, 32, 64], both with each
library's own layer; Haiku has blocks only. Nothing is run, and nothing is reused:
caches are emptied before each measurement. Libraries take turns, after a round of
tracing that is not counted. With an earlier build of jaxbn in a folder, as the package
`jaxbn_old`, that is measured too.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _networks as networks
from benchmarks import _peers as peers
from benchmarks._alone import Figures, markdown, run_alone

IMAGES, RESNET = (2, 64, 64, 3), {"stages": (3, 4, 6, 3), "width": 64}
SHAPE, DEPTH = (64, 32, 32, 64), 6
OPERATION = re.compile(r"(?<![#.\w])stablehlo\.\w+")
FUSION = re.compile(r" fusion\(")
Case = tuple[Callable[..., Any], tuple]


def flax_case(model: Any, shape: tuple[int, ...]) -> Case:
    """Returns the loss of a Flax model and the shapes it takes."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return networks.training_loss(model), (*networks.variables(model, x), x)


def cases(baseline: str) -> dict[str, dict[str, Case]]:
    """Returns losses and what they take, by network and library."""
    layers = networks.linen_layers(baseline)
    resnets = {
        k: flax_case(networks.ResNet(v, **RESNET), IMAGES) for k, v in layers.items()
    }
    blocks = {
        k: flax_case(networks.Blocks(v, width=SHAPE[-1], depth=DEPTH), SHAPE)
        for k, v in layers.items()
    }
    if peers.installed("haiku"):
        x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
        blocks["haiku"] = networks.haiku_blocks(SHAPE[-1], DEPTH, x)
    return {"ResNet-50": resnets, "six blocks": blocks}


def stages(loss: Callable[..., Any], arguments: tuple) -> Iterator[tuple[str, Any]]:
    """Yields the name of a stage and what it made: traced, lowered, compiled."""
    traced = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(*arguments)
    yield "trace_s", traced
    lowered = traced.lower()
    yield "lower_s", lowered
    yield "compile_s", lowered.compile()


def once(loss: Callable[..., Any], arguments: tuple) -> Figures:
    """Returns seconds of each stage, and the sizes of the programs."""
    jax.clear_caches()
    found: Figures = {}
    made: dict[str, Any] = {}
    began = time.perf_counter()
    for stage, result in stages(loss, arguments):
        found[stage], made[stage] = time.perf_counter() - began, result
        began = time.perf_counter()
    text = made["lower_s"].as_text()
    found["lines"] = len(text.splitlines())
    found["operations"] = len(OPERATION.findall(text))
    found["fusions"] = len(FUSION.findall(made["compile_s"].as_text()))
    return found


def measure(repeats: int = 3, baseline: str = "") -> Figures:
    """Returns lengths and medians of seconds, by network and library."""
    found: Figures = {}
    # Not from the folder of compiled programs that a user may have.
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        for network, losses in cases(baseline).items():
            for case in losses.values():
                next(stages(*case))
            taken: dict[str, list[Figures]] = {name: [] for name in losses}
            for _ in range(repeats):
                for name, case in losses.items():
                    taken[name].append(once(*case))
            found[network] = {
                name: {k: statistics.median(row[k] for row in rows) for k in rows[0]}
                for name, rows in taken.items()
            }
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
    return found


COLUMNS = {
    "lines": "lines of StableHLO",
    "operations": "operations",
    "fusions": "fusions",
    "trace_s": "trace s",
    "lower_s": "lower s",
    "compile_s": "compile s",
}


def ratio(figures: Figures, network: str, column: str, name: str = "jaxbn") -> float:
    """Returns a figure over that of Flax."""
    return figures[network][name][column] / figures[network]["flax"][column]


def as_text(figure: float) -> str:
    """Returns seconds with three digits, a large count without any."""
    return f"{figure:.3f}" if figure < 100 else f"{figure:.0f}"


def table(figures: Figures) -> str:
    """Returns a table for each network; in brackets the ratio to Flax."""
    parts = []
    for network, rows in figures.items():
        lines = []
        for name, row in rows.items():
            ratios = {c: ratio(figures, network, c, name) for c in COLUMNS}
            cells = [f"{as_text(row[c])} ({r:.2f})" for c, r in ratios.items()]
            lines.append([name, *cells])
        parts.append(markdown([network, *COLUMNS.values()], lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
