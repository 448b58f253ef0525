"""The measurements of `accelerator`: on one device, programs compiled side by side.

Arrays are made on the device, and calls are handed to it one behind the other, so that
neither copies from the host nor dispatch are in the times.
"""

import functools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import _peers as peers
from benchmarks import block
from benchmarks import variants as variety
from benchmarks._alone import Figures
from benchmarks._turns import in_turn
from benchmarks.layer import backward
from jaxbn import keep_norm_inputs

FLOOR = 8  # arrays that a layer moves at least, forward and backward
COMPILERS = 8
VARIED = ("plain", "ghost, 32", "masked", "renorm", "split", "frozen", "group, 32")
VARIED += tuple(map(variety.EACH.format, (2, 8)))


class Size(NamedTuple):
    """How large the measurements are.

    Attributes:
        copied: numbers that are copied.
        layers: shapes of layers.
        varied: the shape at which the variants stand.
        blocks: the shape of the blocks' input, of 64 channels.
        images: the shape of a batch of ResNet-50.
        resnet: options of `ResNet`.
        calls: in a turn.
    """

    copied: int
    layers: tuple[tuple[int, ...], ...]
    varied: tuple[int, ...]
    blocks: tuple[int, ...]
    images: tuple[int, ...]
    resnet: dict[str, Any]
    calls: int


class Budget:
    """So many seconds, and what there was no time for."""

    def __init__(self, seconds: float):
        self.began, self.seconds = time.perf_counter(), seconds
        self.left_out: list[str] = []
        self.part = 1.0

    def until(self, part: float) -> None:
        """Has what follows stop when that part of the time has passed."""
        self.part = part

    def allows(self, what: str) -> bool:
        """Returns whether there is time left; notes what is left out otherwise."""
        late = time.perf_counter() - self.began > self.part * self.seconds
        if late:
            self.left_out.append(what)
        return not late


@functools.partial(jax.jit, static_argnums=(0, 1))
def normal(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    """Returns normal numbers, made on the device."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def compiled(runs: dict[str, Callable[..., Any]], *arguments: Any) -> dict[str, Any]:
    """Returns the programs of functions of the same arguments, compiled in threads."""
    lowered = [jax.jit(run).lower(*arguments) for run in runs.values()]
    with ThreadPoolExecutor(COMPILERS) as pool:
        programs = pool.map(lambda each: each.compile(), lowered)
        return dict(zip(runs, programs, strict=True))


def timed(
    programs: dict[str, Any], arguments: tuple, repeats: int, calls: int
) -> dict[str, float]:
    """Returns milliseconds of a call, by program."""
    runs = {k: functools.partial(v, *arguments) for k, v in programs.items()}
    return {k: t.median for k, t in in_turn(runs, repeats, calls).items()}


def temporary(program: Any) -> float:
    """Returns megabytes that a program takes beside what it is given and returns."""
    return program.memory_analysis().temp_size_in_bytes / 1e6


def copy_rate(size: Size, repeats: int) -> float:
    """Returns bytes a second, read and written."""
    x = normal((size.copied,), "float32")
    programs = compiled({"copy": lambda x: x + 1}, x)
    ms = timed(programs, (x,), repeats, size.calls)["copy"]
    return 2 * x.nbytes / (1e-3 * ms)


def layers(
    norms: dict[str, peers.Norm],
    shape: tuple[int, ...],
    dtype: str,
    relu: bool,
    calls: int,
    repeats: int,
) -> dict[str, float]:
    """Returns milliseconds of a layer forward and backward, by norm."""
    x, slope = normal(shape, dtype), normal(shape, dtype, 1)
    arguments = x, slope, jnp.ones(shape[-1]), jnp.zeros(shape[-1])

    def run(norm, x, slope, scale, bias):
        def whole(*given):
            return jax.nn.relu(norm(*given)) if relu else norm(*given)

        return backward(whole, x, slope, scale, bias)

    runs = {name: functools.partial(run, norm) for name, norm in norms.items()}
    return timed(compiled(runs, *arguments), arguments, repeats, calls)


def floors(
    row: dict[str, float], shape: tuple[int, ...], dtype: str, rate: float
) -> Figures:
    """Returns milliseconds of the floor, and times over it."""
    floor = 1e3 * FLOOR * math.prod(shape) * jnp.dtype(dtype).itemsize / rate
    return {"floor_ms": floor, "over": {name: ms / floor for name, ms in row.items()}}


def variants(
    dtype: str, size: Size, repeats: int, rate: float, budget: Budget
) -> Figures:
    """Returns times over the floor by shape and variant, plain batch norm's first."""
    shape = size.varied
    x, made = jax.ShapeDtypeStruct(shape, dtype), variety.variants(shape[0])
    norms = {
        name: variety.as_function(*made[name], x)
        for name in VARIED
        if budget.allows(f"{name}, {dtype}")
    }
    if "plain" not in norms:
        return {}
    row = layers(norms, shape, dtype, False, size.calls, repeats)
    return {"x".join(map(str, shape)): floors(row, shape, dtype, rate)}


def blocks(size: Size, repeats: int, budget: Budget) -> Figures:
    """Returns milliseconds and temporary memory of blocks in bfloat16, by library."""
    losses = {
        "jaxbn": (peers.ours, None),
        block.POLICY: (peers.ours, keep_norm_inputs),
        "flax": (peers.of_flax(fast=True), None),
    }
    runs, params = {}, None
    for name, (norm, policy) in losses.items():
        if budget.allows(f"six blocks, {name}"):
            loss, (params, _) = block.blocks(norm, "bfloat16", policy)
            runs[name] = jax.value_and_grad(loss)
    if not runs:
        return {}
    arguments = params, normal(size.blocks, "bfloat16")
    programs = compiled(runs, *arguments)
    times = timed(programs, arguments, repeats, size.calls)
    return {
        name: {"ms": ms, "temporary_mb": temporary(programs[name])}
        for name, ms in times.items()
    }
