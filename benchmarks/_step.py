"""A training step of ResNet-50 in bfloat16, as `accelerator` measures it."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _networks as networks
from benchmarks import block
from benchmarks._alone import Figures
from benchmarks._device import Budget, Size, normal, temporary
from benchmarks._turns import in_turn
from jaxbn import keep_norm_inputs


def resnet(size: Size, repeats: int, budget: Budget) -> Figures:
    """Returns images a second of a step in bfloat16, and what its program takes."""
    modules = networks.linen_layers()
    ways = {"jaxbn": ("jaxbn", None), "flax": ("flax", None)}
    ways[block.POLICY] = ("jaxbn", keep_norm_inputs)
    found: Figures = {}
    runs: dict[str, Callable[[], Any]] = {}
    x = normal(size.images, "bfloat16")
    for name, (library, policy) in ways.items():
        if not budget.allows(f"ResNet-50, {name}"):
            continue
        model = networks.ResNet(modules[library], dtype=jnp.bfloat16, **size.resnet)
        shapes = networks.variables(model, x)
        step = training_step(networks.training_loss(model, policy))
        began = time.perf_counter()
        program = step.lower(*shapes, x).compile()
        found[name] = {
            "compile_s": time.perf_counter() - began,
            "temporary_mb": temporary(program),
        }
        runs[name] = continuing(program, filled(shapes), x)
    for name, timing in in_turn(runs, repeats, size.calls).items():
        ms = timing.median
        found[name] |= {"ms": ms, "images_s": 1e3 * len(x) / ms}
    return found


def filled(shapes: Any) -> Any:
    """Returns small normal numbers for each shape."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(0.05 * rng.normal(size=s.shape), s.dtype), shapes
    )


def continuing(program: Any, start: tuple[Any, Any], x: Any) -> Callable[[], Any]:
    """Returns what takes one step after the other, from where the last one ended."""
    held = [start]

    def run():
        *held[0], value = program(*held[0], x)
        return value

    return run


def training_step(loss: Callable[..., Any]) -> Any:
    """Returns what takes a step of gradient descent, in place."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, stats, x):
        derive = jax.value_and_grad(loss, has_aux=True)
        (value, stats), slopes = derive(params, stats, x)
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, slopes)
        return params, stats, value

    return step
