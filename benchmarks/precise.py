"""What precise statistics cost: beside a plain training-mode forward of the same data.

    python -m benchmarks.precise [--repeats N] [--json FILE]

The plain forward updates its running statistics, as a loop over the data would. The
other way is fvcore's: means and mean squares of the batches, noted and averaged. All
three are jitted, one call a batch, in turn. `benchmarks/README.md` has the figures.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._turns import in_turn
from jaxbn import batch_norm
from jaxbn.models import create_model
from jaxbn.population import precise_batch_stats
from jaxbn.tree import watch

BATCHES, SIZE = 8, 64
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


def measure(repeats: int = 5) -> Figures:
    """Returns milliseconds a batch by model and way."""
    found: Figures = {}
    for name, shape in MODELS.items():
        rng = np.random.default_rng(0)
        draw = functools.partial(rng.normal, size=(SIZE, *shape))
        batches = [jnp.asarray(draw(), jnp.float32) for _ in range(BATCHES)]
        model = create_model(name, 10, batch_norm())
        init = jax.jit(model.init, static_argnums=2)
        variables = init(jax.random.key(0), batches[0], False)
        runs = {way: make(model, variables, batches) for way, make in WAYS.items()}
        times = in_turn(runs, repeats)
        found[name] = {way: timing.median / BATCHES for way, timing in times.items()}
    return found


def table(figures: Figures) -> str:
    """Returns milliseconds a batch, and their ratio."""
    rows = [
        [name, *(f"{row[way]:.2f}" for way in WAYS), f"{ratio(figures, name):.2f}"]
        for name, row in figures.items()
    ]
    return markdown(["ms a batch", *WAYS, "precise / forward"], rows)


def ratio(figures: Figures, name: str) -> float:
    """Returns what precise statistics take over a plain forward."""
    return figures[name]["precise"] / figures[name]["forward"]


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
