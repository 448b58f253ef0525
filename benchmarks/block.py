"""What norms cost within a network: time, memory, bytes and compile time of a step.

    python -m benchmarks.block [--repeats N] [--json FILE]

Six blocks of 3x3 convolution, norm and relu on [64, 32, 32, 64], ResNet-20 on
[128, 32, 32, 3] and ResNet-50 on [2, 64, 64, 3]: value and gradient in one program,
whose own analysis says what temporary memory it takes and how many bytes it accesses.
"kept" is what autodiff holds between forward and backward, in units of the blocks'
input, before XLA has had its say: `jax.vjp` called outside of jit.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import _peers as peers
from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._turns import in_turn
from jaxbn import Norm, bn_init, keep_norm_inputs
from jaxbn.models import create_model

SHAPE, DEPTH = (64, 32, 32, 64), 6
MODELS = {"resnet20": (128, 32, 32, 3), "resnet50": (2, 64, 64, 3)}
TIMED = ("blocks float32", "blocks bfloat16", "resnet20")
COMPILED, COMPILES = ("resnet50",), 3
POLICY = "jaxbn, inputs of norms kept"


def blocks(norm: peers.Norm, dtype: str, policy: Any = None) -> tuple[Any, tuple]:
    """Returns the loss of six blocks, and its arguments."""
    rng, channels = np.random.default_rng(0), SHAPE[-1]
    shape = 3, 3, channels, channels
    kernels = [jnp.asarray(0.05 * rng.normal(size=shape), dtype) for _ in range(DEPTH)]
    affine = [[f(channels) for _ in range(DEPTH)] for f in (jnp.ones, jnp.zeros)]
    x = jnp.asarray(rng.normal(size=SHAPE), dtype)

    def loss(params, x):
        layout = "NHWC", "HWIO", "NHWC"
        for kernel, scale, bias in zip(*params, strict=True):
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=layout
            )
            x = jax.nn.relu(norm(x, scale, bias))
        return jnp.mean(x.astype(jnp.float32) ** 2)

    if policy is not None:
        loss = jax.checkpoint(loss, policy=policy)
    return loss, ((kernels, *affine), x)


def kept(loss: Callable[..., Any], arguments: tuple) -> float:
    """Returns how many inputs' worth of bytes the derivative holds on to."""
    x = arguments[-1]
    held = jax.tree.leaves(jax.vjp(loss, *arguments)[1])
    return sum(a.nbytes for a in held if a.size >= x.size) / x.nbytes


def model(name: str, norm: peers.Norm) -> tuple[Any, tuple]:
    """Returns the loss of a model with a norm, and its arguments."""

    def apply(params, state, x, train, **unused):
        return norm(x, params["scale"], params["bias"]), state

    network = create_model(name, 10, Norm(bn_init, apply))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=MODELS[name]), jnp.float32)
    variables = jax.jit(network.init, static_argnums=2)(jax.random.key(0), x, True)

    def loss(params, x):
        given = {**variables, "params": params}
        y, _ = network.apply(given, x, True, mutable=["batch_stats"])
        return jnp.mean(y**2)

    return loss, (variables["params"], x)


def made() -> dict[str, dict[str, tuple[Any, tuple]]]:
    """Returns losses and arguments, by setting and library."""
    norms = {k: v for k, v in peers.norms().items() if k not in ("equinox", "keras")}
    both = {name: norms[name] for name in ("jaxbn", "flax")}
    found: dict[str, dict[str, tuple[Any, tuple]]] = {}
    for dtype in ("float32", "bfloat16"):
        setting = {name: blocks(norm, dtype) for name, norm in norms.items()}
        setting[POLICY] = blocks(peers.ours, dtype, keep_norm_inputs)
        found[f"blocks {dtype}"] = setting
    for name in MODELS:
        found[name] = {k: model(name, norm) for k, norm in both.items()}
    return found


def measure(repeats: int = 3) -> Figures:
    """Returns what each program costs, by setting and library."""
    found: Figures = {}
    for setting, losses in made().items():
        found[setting], runs = {}, {}
        for name, (loss, arguments) in losses.items():
            began = time.perf_counter()
            program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
            row: Figures = {"compile_s": time.perf_counter() - began}
            memory = program.memory_analysis()
            row["temporary_mb"] = memory.temp_size_in_bytes / 1e6
            row["accessed_gb"] = program.cost_analysis()["bytes accessed"] / 1e9
            if setting.startswith("blocks"):
                row["kept"] = kept(loss, arguments)
            found[setting][name] = row
            runs[name] = lambda run=program, given=arguments: run(*given)
        if setting in COMPILED:
            for name, seconds in compiling(losses).items():
                found[setting][name]["compile_s"] = seconds
        if setting in TIMED:
            for name, timing in in_turn(runs, repeats).items():
                found[setting][name]["ms"] = timing.median
    return found


def compiling(losses: dict[str, tuple[Any, tuple]]) -> dict[str, float]:
    """Returns seconds to trace and compile, in turn, the median of several."""
    taken: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(COMPILES):
        for name, (loss, arguments) in losses.items():
            jax.clear_caches()
            began = time.perf_counter()
            jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in taken.items()}


COLUMNS = {
    "ms": "ms",
    "temporary_mb": "temporary MB",
    "accessed_gb": "accessed GB",
    "kept": "kept",
    "compile_s": "compile s",
}


def table(figures: Figures) -> str:
    """Returns a table for each setting."""
    parts = []
    for setting, rows in figures.items():
        columns = [c for c in COLUMNS if c in next(iter(rows.values()))]
        lines = [
            [name, *(f"{row[c]:.4g}" for c in columns)] for name, row in rows.items()
        ]
        parts.append(markdown([setting, *(COLUMNS[c] for c in columns)], lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
