"""What precise statistics cost: beside a plain training-mode forward of the same data.

    python -m benchmarks.precise [--json FILE]

The plain forward updates its running statistics, as a loop over the data would. The
other way is fvcore's: means and mean squares of the batches, noted and averaged. All
three are jitted, one call a batch, in turn. `benchmarks/README.md` has the figures.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn import batch_norm
from jaxbn.models import create_model
from jaxbn.population import precise_batch_stats
from jaxbn.tree import watch

BATCHES, SIZE, REPEATS = 8, 64, 5
MODELS = {"resnet8": (32, 32, 3), "convnet": (28, 28, 1), "mlp": (28, 28, 1)}


def forward(model, variables, batches):
    """Returns what runs the model over the data, as in training."""

    @jax.jit
    def step(stats, x):
        both = {**variables, "batch_stats": stats}
        return model.apply(both, x, True, mutable=["batch_stats"])[1]["batch_stats"]

    def run():
        stats = variables["batch_stats"]
        for x in batches:
            stats = step(stats, x)
        return stats

    return run


def mean_squares(model, variables, batches):
    """Returns what averages means and mean squares, as fvcore does."""

    def handle(call):
        axes = tuple(range(call.x.ndim - 1))
        notes = {"mean": call.x.mean(axes), "square": (call.x**2).mean(axes)}
        return call.proceed(use_running_average=False), notes

    watched = watch(model, handle)

    @jax.jit
    def step(total, x):
        _, notes = watched(variables, x, True)
        return notes if total is None else jax.tree.map(jnp.add, total, notes)

    def run():
        total = None
        for x in batches:
            total = step(total, x)
        return total

    return run


def precise(model, variables, batches):
    """Returns what measures the precise statistics."""

    def call(x):
        return (x, True), {}

    return lambda: precise_batch_stats(model, variables, batches, call=call)[0]


WAYS = {"forward": forward, "mean squares": mean_squares, "precise": precise}


def measure(name):
    """Returns milliseconds a batch (median of the repeats) by way."""
    rng = np.random.default_rng(0)
    batches = [
        jnp.asarray(rng.normal(size=(SIZE, *MODELS[name])), jnp.float32)
        for _ in range(BATCHES)
    ]
    model = create_model(name, 10, batch_norm())
    variables = jax.jit(model.init, static_argnums=2)(
        jax.random.key(0), batches[0], False
    )
    runs = {way: make(model, variables, batches) for way, make in WAYS.items()}
    times = {way: [] for way in WAYS}
    for repeat in range(REPEATS + 1):
        for way, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:  # The first one compiles.
                times[way].append(1e3 * (time.perf_counter() - began) / BATCHES)
    return {way: statistics.median(each) for way, each in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where to write the figures")
    arguments = parser.parse_args()
    found = {name: measure(name) for name in MODELS}
    print(f"{BATCHES} batches of {SIZE}, ms a batch")
    print("| model | forward | mean squares | precise | precise / forward |")
    print("|---|---|---|---|---|")
    for name, row in found.items():
        ratio = row["precise"] / row["forward"]
        cells = " | ".join(f"{row[way]:.1f}" for way in WAYS)
        print(f"| {name} | {cells} | {ratio:.2f} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
