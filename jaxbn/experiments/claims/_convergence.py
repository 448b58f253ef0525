"""How fast nets converge, and what their first relu sees; see `_mnist_convergence`.

S seeds lie along the first axis of numbers, R runs along that of a program's.
"""

import functools
from typing import Any

import jax
import numpy as np

from jaxbn.base import Array

LOSS, ACCURACY = 0.5, 95.0
"""What is to be reached, in nats and percent."""
WEIGHTS = {"": (1 / 6, 1 / 3), ", He's weights": (1.0, 1.0)}
"""Variances of hidden and output weights, times those that the model has."""
EDGES = np.linspace(-5, 5, 21)
"""Of the histograms of pre-activations."""


def weighted(params: Any) -> Any:
    """Returns parameters of runs, whose kernels have the variances of `WEIGHTS`."""
    many = len(params["head"]["kernel"]) // len(WEIGHTS)
    hidden, head = (
        np.sqrt(np.repeat(each, many), dtype=np.float32).reshape(-1, 1, 1)
        for each in zip(*WEIGHTS.values(), strict=True)
    )
    return {
        layer: {**own, "kernel": own["kernel"] * (head if layer == "head" else hidden)}
        if "kernel" in own
        else own
        for layer, own in params.items()
    }


def summary(
    losses: np.ndarray, error: np.ndarray, values: np.ndarray
) -> dict[str, Any]:
    """Returns numbers [S, ...] and histograms [E + 1, bins] of a net's runs.

    Args:
        losses: [S, steps].
        error: [S, E] on test images after each epoch.
        values: [S, E + 1, N] what the first relu saw.
    """
    seeds, epochs = error.shape
    steps = losses.shape[1] // epochs
    window = max(steps // 5, 1)
    fifths = in_windows(losses, window)
    return {
        "loss": losses.reshape(seeds, epochs, steps)[:, [0, -1]].mean(-1),
        "curve": in_windows(fifths, 2),
        "curve_epochs": 2 * window / steps,
        "to_loss": first_place(fifths <= LOSS) * window / steps,
        "error": error,
        "to_accuracy": first_place(error <= 100 - ACCURACY),
        **shape_of(values),
    }


def in_windows(values: np.ndarray, size: int) -> np.ndarray:
    """Returns the means of so many neighbours; the rest of [S, T] is left out."""
    whole = values[:, : values.shape[1] // size * size]
    return whole.reshape(len(values), -1, size).mean(-1)


@functools.partial(jax.jit, static_argnames="model")
def first_inputs(model: Any, params: Any, batch_stats: Any, inputs: Array) -> Array:
    """Returns what the first relu of R runs sees in evaluation, [R, N, C]."""

    def one(params: Any, stats: Any) -> Array:
        variables = {"params": params, "batch_stats": stats}
        sown = model.apply(variables, inputs, False, mutable=["intermediates"])[1]
        return sown["intermediates"]["layer1"][0]

    return jax.vmap(one)(params, batch_stats)


def first_place(reached: np.ndarray) -> np.ndarray:
    """Returns the first place, from 1 on, where [S, T] is true; T + 1 for nowhere.

    Example:
        >>> first_place(np.array([[False, True], [False, False]]))
        array([2, 3])
    """
    return np.where(reached.any(1), reached.argmax(1), reached.shape[1]) + 1


def shape_of(values: np.ndarray) -> dict[str, Any]:
    """Returns moments of values [S, T, N] at the end, [S], and histograms [T, bins].

    Histograms are densities of all seeds; what lies outside is left out of the bins.
    """
    last = values[:, -1]
    mean, std = last.mean(-1), last.std(-1)
    away = last - mean[:, None]
    bins = [
        np.histogram(values[:, i], EDGES)[0] / values[:, i].size / np.diff(EDGES)
        for i in range(values.shape[1])
    ]
    skewness = (away**3).mean(-1) / std**3
    return {"mean": mean, "std": std, "skewness": skewness, "histogram": np.stack(bins)}
