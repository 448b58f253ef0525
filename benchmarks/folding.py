"""What folding saves in evaluation: time, memory, numbers kept.

    python -m benchmarks.folding [--json FILE]

Models in evaluation with trained-like statistics, folded and not, jitted, in turn.
`benchmarks/README.md` has the figures.
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
from jaxbn.surgery import fold

MODELS = {"resnet20": (32, 32, 3), "convnet": (28, 28, 1), "mlp": (28, 28, 1)}
SIZE, REPEATS = 64, 30


def measure(name):
    """Returns milliseconds a batch, temporary bytes and numbers kept, by form."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(SIZE, *MODELS[name])), jnp.float32)
    model = create_model(name, 10, batch_norm())
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), x, False)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype),
        variables["batch_stats"],
    )
    folded = fold(model, variables, x, False)
    forms = {
        "plain": (lambda v, x: model.apply(v, x, False), variables),
        "folded": (lambda v, x: folded.apply(v, x, False), folded.variables),
    }
    runs = {key: jax.jit(run).lower(v, x).compile() for key, (run, v) in forms.items()}
    times = {key: [] for key in forms}
    for _ in range(REPEATS):
        for key, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(forms[key][1], x))
            times[key].append(1e3 * (time.perf_counter() - began))
    kept = dict(zip(forms, folded.num_params, strict=True))
    return {
        key: {
            "ms": statistics.median(times[key]),
            "temp_bytes": runs[key].memory_analysis().temp_size_in_bytes,
            "numbers": kept[key],
        }
        for key in forms
    } | {"error": folded.error}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where to write the figures")
    arguments = parser.parse_args()
    found = {name: measure(name) for name in MODELS}
    print("| model | ms, plain | ms, folded | ratio | MB, plain | folded | numbers |")
    print("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        a, b = row["plain"], row["folded"]
        print(
            f"| {name} | {a['ms']:.2f} | {b['ms']:.2f} | {b['ms'] / a['ms']:.2f} "
            f"| {a['temp_bytes'] / 1e6:.1f} | {b['temp_bytes'] / 1e6:.1f} "
            f"| {a['numbers']:,} to {b['numbers']:,} |"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
