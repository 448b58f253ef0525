"""Training and measuring the narrow regression nets; see `_regression_layers`.

S seeds lie along the first axis, R runs where there are several of a seed.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbn.base import Array
from jaxbn.data import Split
from jaxbn.experiments._measure import logits, precise
from jaxbn.experiments._runs import Loss, Runs, fit, sgd, start
from jaxbn.population import collect_moments, commit_moments

OPTIMIZER = sgd(0.001, momentum=0.0)
BATCH, EVERY, LOOK = 10, 5, 50
"""Examples a step; steps from one cost to the next; from one look at the layers."""
MOMENTA = (0.5, 0.9)
"""Of the running averages that are kept side by side."""
BINS = 24


class Seen(NamedTuple):
    """What a net showed: costs [R, T], the layers' deviations [R, L, 8], all values."""

    cost: np.ndarray
    std: np.ndarray
    values: list[np.ndarray]


def begin(model: Any, data: Split, seeds: np.ndarray) -> Runs:
    """Returns new runs, with running statistics of each momentum."""
    runs = start(model, data.inputs[0], seeds, OPTIMIZER)
    kept = dict.fromkeys(map(str, MOMENTA), runs.batch_stats)
    return runs._replace(batch_stats=kept)


def as_he(params: Any, plain: int) -> Any:
    """Returns parameters whose kernels have He's scale, but for the first `plain`."""

    def scaled(layer: Any) -> Any:
        kernel = layer["kernel"]
        he = kernel * np.float32(np.sqrt(2 / kernel.shape[1]))
        return {**layer, "kernel": jnp.concatenate([kernel[:plain], he[plain:]])}

    return {name: scaled(layer) for name, layer in params.items()}


def standardized(x: np.ndarray) -> np.ndarray:
    """Returns `x` [S, N, 1] with mean 0 and deviation 1 over each seed's points."""
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


def squared_error(model: Any) -> Loss:
    """Returns the mean squared error; every running average absorbs the same moments.

    So one training serves all momenta: in training none of them is read.
    """
    collect = collect_moments(model)

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        del key
        variables = {"params": params, "batch_stats": stats[str(MOMENTA[0])]}
        said, moments = collect(variables, batch.inputs, True)
        moved = {
            momentum: commit_moments(old, moments, momentum=float(momentum))
            for momentum, old in stats.items()
        }
        return jnp.mean((said - batch.labels) ** 2), moved

    return loss


def cost(model: Any, params: Any, stats: Any, data: Split, **how: Any) -> np.ndarray:
    """Returns the mean squared error of R runs, each on its own data; see `logits`."""
    said = np.asarray(logits(model, params, stats, data.inputs, apart=True, **how))
    with np.errstate(over="ignore", invalid="ignore"):
        return ((said.astype(float) - data.labels) ** 2).mean((1, 2))


def evaluate(model: Any, runs: Runs, data: Split) -> dict[str, np.ndarray]:
    """Returns the costs of trained runs, by what normalizes them."""
    params, kept = runs.params, runs.batch_stats
    old = kept[str(MOMENTA[0])]
    by_all = {"train": True, "batch": data.inputs.shape[1]}
    exact = precise(model, params, old, data.inputs, batch=BATCH, apart=True)
    found = {f"average {name}": cost(model, params, kept[name], data) for name in kept}
    return found | {
        f"precise, by {BATCH}": cost(model, params, exact, data),
        "all points": cost(model, params, old, data, **by_all),
        f"batches of {BATCH}": cost(model, params, old, data, train=True, batch=BATCH),
    }


def train(
    model: Any, runs: Runs, data: Split, passes: int, rates: np.ndarray | None = None
) -> tuple[Runs, Seen, list[np.ndarray]]:
    """Returns the runs trained on their own data in its order, and what they showed.

    The values are the layers' inputs of the first run: at the end, and at the start.
    """
    many, points = data.inputs.shape[:2]
    pool = Split(*(np.asarray(a).reshape(-1, 1) for a in data))
    parts = points // (BATCH * EVERY)
    costs, stds, inputs = [], [], jnp.asarray(data.inputs)
    values: list[np.ndarray] = []

    def rows(part: int) -> np.ndarray:
        first = part % parts * BATCH * EVERY + np.arange(many)[:, None, None] * points
        return first + np.arange(BATCH * EVERY).reshape(1, EVERY, BATCH)

    def observe(part: int, runs: Runs) -> None:
        now = runs.params, runs.batch_stats[str(MOMENTA[0])]
        costs.append(cost(model, *now, data, train=True, batch=points))
        if (part + 1) * EVERY % LOOK == 0:
            spread, shown = layer_inputs(model, *now, inputs)
            stds.append(np.asarray(spread))
            values[:] = [np.asarray(each) for each in shown]

    observe(-1, runs)
    began = list(values)
    runs, _ = fit(
        squared_error(model),
        runs,
        pool,
        rows,
        range(parts * passes),
        optimizer=OPTIMIZER,
        rates=rates,
        observe=observe,
    )
    return runs, Seen(np.stack(costs, 1), np.stack(stds, 1), values), began


@functools.partial(jax.jit, static_argnames="model")
def layer_inputs(
    model: Any, params: Any, batch_stats: Any, inputs: Array
) -> tuple[Array, list[Array]]:
    """Returns the deviation of what each layer of R runs is given, and run 0's values.

    Of all points at once, which normalize themselves; [R, 8] and 8 arrays [N, C].
    """

    def one(params: Any, stats: Any, x: Array) -> list[Array]:
        variables = {"params": params, "batch_stats": stats}
        sown = model.apply(
            variables,
            x,
            True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: module.name == "bn0",
        )[1]["intermediates"]
        first = sown["bn0"]["__call__"][0] if "bn0" in sown else x
        layers = range(1, len(model.hidden) + 1)
        return [first, *(nn.relu(sown[f"layer{i}"][0]) for i in layers)]

    values = jax.vmap(one)(params, batch_stats, inputs)
    return jnp.stack([a.std((1, 2)) for a in values], 1), [a[0] for a in values]


class Histogram(NamedTuple):
    """Shares [bins] of all values between edges [bins + 1], and of exact zeros."""

    shares: np.ndarray
    edges: np.ndarray
    zero: float


def binned(values: list[np.ndarray]) -> list[Histogram]:
    """Returns a histogram of each layer's input; zeros of a relu are counted apart."""

    def one(each: np.ndarray) -> Histogram:
        other, zero = each[each != 0], float((each == 0).mean())
        low = 0.0 if zero > 0.01 else other.min()
        counts, edges = np.histogram(other, BINS, (low, other.max()))
        return Histogram(counts / each.size, edges, zero)

    return [one(each) for each in values]
