"""Histograms of what goes into each relu, over the epochs."""

from typing import Any

import jax
import numpy as np

from jaxbn.base import Array
from jaxbn.data import to_float
from jaxbn.training._step import Job

BINS = 40
MOST_LAYERS = 7


def activations(job: Job, variables: dict[str, Any], inputs: Array) -> Any:
    """Returns the tree of what the model sows as intermediates in evaluation."""
    x = to_float(inputs, job.mean, job.std)
    collected = job.model.apply(variables, x, False, mutable=["intermediates"])[1]
    return collected["intermediates"]


def histograms_of(intermediates: Any) -> dict[str, dict[str, Any]]:
    """Returns a histogram of each layer's activations, ready for JSON.

    Args:
        intermediates: what `activations` returns.

    Returns:
        For each of up to seven layers, evenly chosen from first to last: 'low' and
        'high', the range of the middle 99 % of the values, 'counts' in 40 equal bins of
        it, 'outside', the share of values beyond it or not finite, 'mean' and 'std'.
    """
    flat = jax.tree_util.tree_flatten_with_path(intermediates)[0]
    layers = {".".join(k.key for k in path if hasattr(k, "key")): a for path, a in flat}
    names = sorted(layers, key=_in_order)
    chosen = np.unique(np.linspace(0, len(names) - 1, MOST_LAYERS).round().astype(int))
    return {names[i]: histogram(np.asarray(layers[names[i]])) for i in chosen}


def histogram(values: np.ndarray) -> dict[str, Any]:
    """Returns the histogram of one array; see `histograms_of`."""
    values = values.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        empty = {"low": 0.0, "high": 1.0, "counts": [0] * BINS, "outside": 1.0}
        return {**empty, "mean": None, "std": None}
    low = float(np.quantile(finite, 0.005, method="lower"))
    high = float(np.quantile(finite, 0.995, method="higher"))
    high = high if high > low else low + 1.0
    counts, _ = np.histogram(finite, BINS, (low, high))
    return {
        "low": low,
        "high": high,
        "counts": counts.tolist(),
        "outside": 1 - int(counts.sum()) / values.size,
        "mean": float(finite.mean()),
        "std": float(finite.std()),
    }


def _in_order(name: str) -> tuple[bool, list[str]]:
    """Sorts the stem first, then blocks and layers by their numbers."""
    return (not name.startswith("stem"), name.split("."))
