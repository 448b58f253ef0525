"""Averages of several momenta in one run, and what to hold them against.

Training never reads them, so that it is the same to the last bit whatever is averaged;
`debiased` is what `batch_norm(debias=True)` would have kept.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxbn.base import Array
from jaxbn.data import Split
from jaxbn.experiments._measure import errors, precise
from jaxbn.experiments._runs import Loss, Runs, classification
from jaxbn.experiments._verdicts import BEFORE, PILOT, Verdict, greater, jointly, less
from jaxbn.population import collect_moments

MOMENTA = (0.9, 0.99)


def with_averages(runs: Runs) -> Runs:
    """Returns new runs whose `batch_stats` hold those of the batch and the averages."""
    averages = {str(momentum): runs.batch_stats for momentum in MOMENTA}
    return runs._replace(batch_stats={"batch": runs.batch_stats, **averages})


def averaging(model: Any) -> Loss:
    """Returns the mean cross entropy, and the statistics of `with_averages` moved on.

    Args:
        model: whose norm has momentum 0, so that it keeps the batch's own statistics.
    """
    plain = classification(model)

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        value, new = plain(params, stats["batch"], batch, key)
        averages = {
            str(momentum): optax.incremental_update(
                new, stats[str(momentum)], 1 - momentum
            )
            for momentum in MOMENTA
        }
        return value, {"batch": new, **averages}

    return loss


def debiased(average: Any, first: Any, momentum: float, steps: int) -> Any:
    """Returns an average after so many steps without the `first` values it began at."""
    left = momentum**steps
    return jax.tree.map(lambda a, f: (a - left * f) / (1 - left), average, first)


def errors_of_all(
    model: Any, runs: Runs, first: Any, images: Any, count: int
) -> dict[str, Any]:
    """Returns the test errors [R] with each kind of statistics, by its name.

    `first` are those that the averages began at; precise ones are of `count` images.
    """
    stats, steps = runs.batch_stats, int(runs.step[0])
    kinds = {}
    for momentum in MOMENTA:
        average = stats[str(momentum)]
        kinds[f"EMA {momentum}"] = average
        kinds[f"debiased {momentum}"] = debiased(average, first, momentum, steps)
    kinds["precise"] = precise(model, runs.params, first, images.train.inputs[:count])
    return {
        kind: errors(model, runs.params, stats, images.test)
        for kind, stats in kinds.items()
    }


@functools.partial(jax.jit, static_argnames="model")
def share_outside(model: Any, params: Any, average: Any, batches: Array) -> Array:
    """Returns the share of channels whose average mean lies outside those of batches.

    Args:
        model: of R runs.
        params: [R, ...].
        average: [R, ...] their running statistics.
        batches: [K, B, ...] that give K means a channel.

    Returns:
        [R], over the channels of all layers.
    """
    run = collect_moments(model)

    def one(params: Any, average: Any) -> Array:
        variables = {"params": params, "batch_stats": average}

        def means(x: Array) -> dict[str, Array]:
            return {path: m.mean for path, m in run(variables, x, True)[1].items()}

        outside = [
            (average[path]["mean"] < mean.min(0))
            | (average[path]["mean"] > mean.max(0))
            for path, mean in lax.map(means, batches).items()
        ]
        return jnp.concatenate(outside).mean()

    return jax.vmap(one)(params, average)


def errors_by_samples(
    model: Any, runs: Runs, images: Any, counts: Sequence[int], draws: int
) -> np.ndarray:
    """Returns the test errors [R, draws, counts] with statistics of so many images."""
    inputs, stats, found = images.train.inputs, runs.batch_stats["batch"], []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(inputs))
        for count in counts:
            batch = {"batch": min(count, 100)}
            chosen = inputs[order[:count]]
            measured = precise(model, runs.params, stats, chosen, **batch)
            found.append(errors(model, runs.params, measured, images.test))
    return np.stack(found, -1).reshape(-1, draws, len(counts))


def on_samples(found: dict[str, Any]) -> list[Verdict]:
    """Returns the verdicts on how many images are enough, of both models.

    Errors are [S, draws, counts].
    """
    trained, early = (np.asarray(errors) for errors in found["samples"].values())
    counts = [f"{count:,}" for count in found["counts"]]
    falls = np.diff(trained.std(1, ddof=1)).max(1)
    few = (trained[..., 0] - trained[..., -2]).mean(1)
    changes = [
        np.abs((errors[..., -2] - errors[..., -1]).mean(1))
        for errors in (trained, early)
    ]
    return [
        jointly(
            f"{counts[0]} images cost precise statistics 5 points over {counts[-2]}, "
            f"{counts[-1]} change under 0.3, and the spread falls",
            [
                greater(f"{counts[0]} minus {counts[-2]}", few, by=5, chosen=PILOT),
                less(
                    f"change from {counts[-2]} to {counts[-1]}",
                    changes[0],
                    by=-0.3,
                    chosen=PILOT,
                ),
                less("largest step of the spread over draws", falls),
            ],
            source="28.1, 24.0, 23.57, 23.54 %",
        ),
        less(
            f"far from convergence, precise statistics of {counts[-2]} images are "
            f"within 0.3 points of {counts[-1]}",
            changes[1],
            by=-0.3,
            chosen=BEFORE,
            source="39.44 and 39.42 %",
        ),
    ]


@functools.partial(jax.jit, static_argnames=("model", "batch"))
def cumulative(
    model: Any, params: Any, batch_stats: Any, inputs: Array, *, batch: int
) -> Any:
    """Returns means of the batches' means and variances, for R runs.

    Args:
        model: whose norm has momentum None, and `unbiased` for unbiased variances.
        params: [R, ...].
        batch_stats: [R, ...] of the model with any other norm, for their structure.
        inputs: [N, ...], N a multiple of `batch`.
        batch: examples a forward pass.
    """
    batches = inputs.reshape(-1, batch, *inputs.shape[1:])

    def one(params: Any, stats: Any) -> Any:
        def absorb(stats: Any, x: Array) -> tuple[Any, None]:
            variables = {"params": params, "batch_stats": stats}
            _, new = model.apply(variables, x, True, mutable=["batch_stats"])
            return new["batch_stats"], None

        # With a count of 0 the first batch replaces what was there.
        counted = model.init(jax.random.key(0), batches[0], False)["batch_stats"]
        found, _ = lax.scan(absorb, counted, batches)
        return {path: {key: found[path][key] for key in stats[path]} for path in stats}

    return jax.vmap(one)(params, batch_stats)
