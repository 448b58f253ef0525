"""What synchronizing costs: time, collectives and bytes, beside flax.linen.BatchNorm.

    python -m benchmarks.sync [--repeats N] [--json FILE]

Virtual devices of a CPU share its cores, so the times say how the arithmetic and the
calls compare, not how a network would do; collectives and bytes are those of any
machine. `benchmarks/README.md` has the figures.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxbn.linen
from benchmarks._alone import Figures, markdown, run_alone, split_cpu
from benchmarks._turns import in_turn
from jaxbn.core._reduce import SWITCH_BYTES, prefers_sums
from jaxbn.diagnostics import find_collectives

SHAPE = (16, 16, 16, 64)
LAYERS = {
    "jaxbn": jaxbn.linen.BatchNorm,
    "flax": nn.BatchNorm,
    "flax, exact variance": lambda **options: nn.BatchNorm(
        use_fast_variance=False, **options
    ),
}
DEVICES, CHANNELS = (8, 16, 32, 64, 128, 256), (64, 256, 2048)
INNER = 8


def step_of(make, devices):
    """Returns a compiled forward and backward of `INNER` layers, and its arguments."""
    layer = make(use_running_average=False, axis_name="devices", momentum=0.9)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("devices",))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(devices * SHAPE[0], *SHAPE[1:])).astype(np.float32)
    local = make(use_running_average=False, momentum=0.9)
    variables = local.init(jax.random.key(0), jnp.ones((2, SHAPE[-1])))

    def loss(params, x, stats):
        for _ in range(INNER):
            both = {"params": params, "batch_stats": stats}
            x, new = layer.apply(both, x, mutable=["batch_stats"])
            stats = new["batch_stats"]
        return jnp.sum(x * x * x), stats

    def local_step(params, stats, x):
        grads, new = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, stats)
        return jax.lax.psum(grads[0], "devices"), grads[1], new

    mapped = jax.shard_map(
        local_step,
        mesh=mesh,
        in_specs=(P(), P(), P("devices")),
        out_specs=(P(), P("devices"), P()),
        check_vma=False,
    )
    arguments = (
        variables["params"],
        variables["batch_stats"],
        jax.device_put(x, jax.NamedSharding(mesh, P("devices"))),
    )
    return jax.jit(mapped).lower(*arguments).compile(), arguments


def measure_on(devices: int, repeats: int) -> Figures:
    """Returns milliseconds a layer (median, minimum) and collectives, by layer."""
    steps = {name: step_of(make, devices) for name, make in LAYERS.items()}
    calls = {k: functools.partial(step, *given) for k, (step, given) in steps.items()}
    times = in_turn(calls, repeats)
    found = {}
    for name, (step, _) in steps.items():
        sent = find_collectives(step)
        found[name] = {
            "median_ms": times[name].median / INNER,
            "min_ms": times[name].least / INNER,
            # The sum of the parameters' gradients travels with one of them.
            "collectives_a_layer": len(sent) / INNER if devices > 1 else 0,
            "bytes_a_layer": sum(c.num_bytes for c in sent) / INNER,
        }
    return found


def moved(devices, channels):
    """Returns the bytes a device sends in a ring, by slots and by sums, float32."""
    ring = 2 * (devices - 1) / devices
    return ring * 4 * devices * channels * 4, ring * 4 * channels * 4


def measure(repeats: int = 15) -> Figures:
    """Returns what is timed on virtual devices, and what is sent on many."""
    split_cpu(8)
    sent: list[Any] = []
    for devices in DEVICES:
        for channels in CHANNELS:
            chosen = "sums" if prefers_sums(devices, 1, channels * 4) else "slots"
            sent.append([devices, channels, *moved(devices, channels), chosen])
    timed = {str(n): measure_on(n, repeats) for n in (1, 2, 4, 8)}
    return {"timed": timed, "moved": sent}


def table(figures: Figures) -> str:
    """Returns both as tables."""
    rows = []
    for devices, found in figures["timed"].items():
        base = found["flax"]["median_ms"]
        for name, row in found.items():
            times = f"{row['median_ms']:.2f} ({row['min_ms']:.2f})"
            ratio = f"{row['median_ms'] / base:.2f}"
            count = f"{row['collectives_a_layer']:.3g}"
            rows.append(
                [devices, name, times, ratio, count, f"{row['bytes_a_layer']:,.0f}"]
            )
    head = ["devices", "layer", "ms, median (min)", "ratio", "collectives", "bytes"]
    sent = [
        [str(n), str(c), f"{a:,.0f}", f"{b:,.0f}", by]
        for n, c, a, b, by in figures["moved"]
    ]
    slots = markdown(["devices", "channels", "slots", "sums", "chosen"], sent)
    saved = f"forward, bytes sent by a device; sums from {SWITCH_BYTES:,} saved on"
    return "\n\n".join([markdown(head, rows), saved, slots])


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
