"""Numbers of an experiment, to JSON and back."""

import math
from typing import Any

import jax
import numpy as np


def as_plain(value: Any) -> Any:
    """Returns what JSON can hold: lists for arrays, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, np.ndarray | jax.Array):
        return as_plain(np.asarray(value).tolist())
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def restored(value: Any) -> Any:
    """Returns arrays for lists of numbers, NaN for None.

    Example:
        >>> restored({"error": [1.0, None], "sizes": [2, 4], "names": ["a"]})
        {'error': array([ 1., nan]), 'sizes': array([2, 4]), 'names': ['a']}
    """
    if isinstance(value, dict):
        return {key: restored(item) for key, item in value.items()}
    if not isinstance(value, list):
        return math.nan if value is None else value
    items = [restored(item) for item in value]
    if all(isinstance(item, int | float | np.ndarray) for item in items):
        shapes = {np.shape(item) for item in items}
        return np.array(items) if len(shapes) == 1 else items
    return items
