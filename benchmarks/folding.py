"""What folding saves in evaluation: time, memory, numbers kept.

    python -m benchmarks.folding [--repeats N] [--json FILE]

Models in evaluation with trained-like statistics, folded and not, jitted, in turn.
`benchmarks/README.md` has the figures.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._turns import in_turn
from jaxbn import batch_norm
from jaxbn.models import create_model
from jaxbn.surgery import fold

INPUTS = {
    "resnet50": [(1, 224, 224, 3)],
    "resnet20": [(1, 32, 32, 3), (64, 32, 32, 3)],
    "convnet": [(1, 28, 28, 1), (64, 28, 28, 1)],
    "mlp": [(1, 28, 28, 1), (64, 28, 28, 1)],
}
"""For each model, the shapes of one image and of a batch; resnet50 is latency alone."""


def measure_model(name: str, shape: tuple[int, ...], repeats: int) -> Figures:
    """Returns milliseconds a batch, temporary bytes and numbers kept, by form."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
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
    calls = {k: functools.partial(run, forms[k][1], x) for k, run in runs.items()}
    times = in_turn(calls, repeats)
    kept = dict(zip(forms, folded.num_params, strict=True))
    return {
        key: {
            "ms": times[key].median,
            "temp_bytes": runs[key].memory_analysis().temp_size_in_bytes,
            "numbers": kept[key],
        }
        for key in forms
    } | {"error": folded.error}


def measure(repeats: int = 30) -> Figures:
    """Returns what each model costs, by model and batch, and by form."""
    return {
        f"{name}, batch {shape[0]}": measure_model(name, shape, repeats)
        for name, shapes in INPUTS.items()
        for shape in shapes
    }


def table(figures: Figures) -> str:
    """Returns times, memory and numbers kept, plain and folded."""
    rows = []
    for name, row in figures.items():
        a, b = row["plain"], row["folded"]
        rows.append(
            [
                name,
                f"{a['ms']:.2f}",
                f"{b['ms']:.2f}",
                f"{b['ms'] / a['ms']:.2f}",
                f"{a['temp_bytes'] / 1e6:.1f} to {b['temp_bytes'] / 1e6:.1f}",
                f"{a['numbers']:,} to {b['numbers']:,}",
            ]
        )
    head = ["model", "ms, plain", "ms, folded", "ratio", "temporary MB", "numbers kept"]
    return markdown(head, rows)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
