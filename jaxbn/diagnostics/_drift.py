"""Drift: how far the statistics of a layer are from those of the data it meets.

A running average may lag behind the model, be of other data, or never have moved. Each
norm layer's input is measured in one forward pass and compared with what it holds.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn.base import Array
from jaxbn.core import Moments, batch_moments, merge_moments
from jaxbn.tree import (
    Call,
    find_layers,
    params_of,
    run_jitted,
    stats_of,
    variables_of,
)


class Drift(NamedTuple):
    """One layer's statistics beside those of a batch.

    Attributes:
        path: of the layer.
        num_elements: counted a channel, the largest.
        mean: [C] of the running statistics.
        var: [C] likewise.
        batch_mean: [C] of what the layer was given.
        batch_var: [C] likewise, biased.
        shift: [C] `|batch_mean - mean| / sqrt(var + epsilon)`, in deviations.
        log_ratio: [C] `log((batch_var + epsilon) / (var + epsilon))`.
        surprise: [C] the shift in standard errors of a mean of so many independent
            elements; elements of an image are not, so 3 is no limit there.
        scale: [C] of the layer's parameters; ones if it has none.
    """

    path: str
    num_elements: float
    mean: np.ndarray
    var: np.ndarray
    batch_mean: np.ndarray
    batch_var: np.ndarray
    shift: np.ndarray
    log_ratio: np.ndarray
    surprise: np.ndarray
    scale: np.ndarray


def measure_drift(
    model: Any,
    variables: Any,
    *args: Any,
    reference: Any = None,
    epsilon: float = 1e-5,
    **kwargs: Any,
) -> tuple[Drift, ...]:
    """Returns how far each layer's statistics are from those of a batch.

    The model runs as it is called: in evaluation each layer is given what it meets at
    test time, in training what it meets there. Nothing of it changes.

    Args:
        model: a linen or nnx module.
        variables: of it; None for what an nnx model holds.
        *args: of the call.
        reference: statistics to compare with the batch instead of those the model
            holds, such as precise ones: a tree like its `batch_stats`. Or two of them:
            pass the precise ones as `variables` and the running ones here.
        epsilon: added to both variances.
        **kwargs: of the call.

    Returns:
        A tuple, in the order of the layers in `batch_stats`; layers that the call did
        not reach have `num_elements` 0 and NaN for the batch.

    Raises:
        ValueError: if the model has no layer with statistics.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=True)
        >>> x = jnp.array([[4.0], [6.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> (found,) = measure_drift(model, variables, x)
        >>> found.shift.round(2), found.log_ratio.round(2)
        (array([5.], dtype=float32), array([0.], dtype=float32))

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, figure 2.
    """
    variables = variables_of(model, variables)
    _, notes = run_jitted(model, _note, variables, *args, **kwargs)
    held = {p: n for p, n in notes.items() if "total" in n}
    layers = find_layers(reference) if reference is not None else {}
    known = {p: s for p, s in _held(variables).items() if "mean" in s}
    if not known:
        raise ValueError(
            "the model has no layer with 'mean' and 'var' among its statistics, "
            "expected at least one; pass its variables, batch_stats included"
        )
    return tuple(
        _compare(path, layers.get(path, state), held.get(path), epsilon)
        for path, state in known.items()
    )


def _held(variables: Any) -> dict[str, dict[str, Any]]:
    """Returns what each layer holds, statistics and scale."""
    params = find_layers(params_of(variables))
    scales = {p: {"scale": v["scale"]} for p, v in params.items() if "scale" in v}
    layers = find_layers(stats_of(variables))
    return {path: {**scales.get(path, {}), **layer} for path, layer in layers.items()}


def _note(call: Call) -> tuple[Array, dict[str, Array]]:
    if not {"mean", "var"} <= set(call.state):
        return call.proceed(), {}
    x = lax.stop_gradient(call.x)
    moments = batch_moments(x, axis=call.axis, mask=call.mask)
    if call.notes:
        both = zip(Moments(**call.notes), moments, strict=True)
        moments = merge_moments(Moments(*map(jnp.stack, both)))
    return call.proceed(), moments._asdict()


def _compare(
    path: str, state: dict[str, Any], note: dict[str, Array] | None, epsilon: float
) -> Drift:
    mean, var = (np.asarray(state[k]) for k in ("mean", "var"))
    scale = np.asarray(state.get("scale", np.ones_like(var)))
    if note is None:
        none = np.full_like(var, np.nan)
        return Drift(path, 0.0, mean, var, none, none, none, none, none, scale)
    moments = Moments(**note)
    apart = np.asarray((moments.shift - mean) + moments.delta)
    total, batch_mean, batch_var = map(
        np.asarray, (moments.total, moments.mean, moments.var)
    )
    shift = np.abs(apart) / np.sqrt(var + epsilon)
    log_ratio = np.log((batch_var + epsilon) / (var + epsilon))
    surprise = np.abs(apart) * np.sqrt(np.maximum(total, 1) / (batch_var + epsilon))
    numbers = batch_mean, batch_var, shift, log_ratio, surprise
    return Drift(path, float(total.max(initial=0)), mean, var, *numbers, scale)


def find_stale(
    drifts: tuple[Drift, ...],
    *,
    shift: float = 0.5,
    log_ratio: float = 0.7,
    momentum: float | None = None,
) -> tuple[str, ...]:
    """Returns the paths of layers whose statistics are not those of the data.

    Args:
        drifts: what `measure_drift` found, over enough examples.
        shift: the median shift of the mean over channels, in deviations, above which a
            layer is stale.
        log_ratio: likewise of `|log_ratio|`; 0.7 is a factor of two.
        momentum: of the running average, if what chance explains is to be allowed for:
            limits are then at least three times `sampling_shift`.

    Returns:
        Paths, the farthest first. Layers that are still as they were initialized (mean
        0, variance 1) are among them if the data is not like that.

    Example:
        >>> find_stale(())
        ()
    """
    far = []
    for drift in drifts:
        if not drift.num_elements:
            continue
        chance = 0.0
        if momentum is not None:
            chance = 3 * sampling_shift(drift.num_elements, momentum)
        moved = float(np.median(drift.shift)) / max(shift, chance)
        ratio = float(np.median(np.abs(drift.log_ratio)))
        scaled = ratio / max(log_ratio, np.sqrt(2) * chance)
        if max(moved, scaled) > 1:
            far.append((max(moved, scaled), drift.path))
    return tuple(path for _, path in sorted(far, reverse=True))


def sampling_shift(num_elements: float, momentum: float) -> float:
    """Returns the shift that chance gives, where batches are all of one population.

    The mean of n independent elements is off by `1 / sqrt(n)` deviations, and a running
    average of such means by that over the root of its window `(1 + m) / (1 - m)`:

        sqrt(1/n + (1 - m) / ((1 + m) n))

    Args:
        num_elements: n, of each batch; elements of one image are not independent.
        momentum: m, the weight of the old value.

    Returns:
        One standard deviation of the shift. That of the log ratio is, for normal data,
        about the root of two times it.

    Example:
        >>> round(sampling_shift(100, 0.9), 3)
        0.103
    """
    window = (1 + momentum) / max(1 - momentum, 1e-12)
    return float(np.sqrt((1 + 1 / window) / max(num_elements, 1)))


def find_dead(
    drifts: tuple[Drift, ...], *, relative: float = 1e-6
) -> dict[str, tuple[int, ...]]:
    """Returns the channels that carry nothing, by path of the layer.

    Args:
        drifts: what `measure_drift` found.
        relative: a channel is dead if its batch variance is at most so much of the
            median of its layer's, or if its scale is 0.

    Returns:
        Indices into the channels (of the flattened array, where there are several
        feature axes); layers without any are left out.

    Example:
        >>> find_dead(())
        {}
    """
    found = {}
    for drift in drifts:
        var = np.ravel(drift.batch_var)
        usual = np.median(var) if drift.num_elements else np.nan
        dead = (var <= relative * usual) | (np.ravel(drift.scale) == 0)
        if dead.any():
            found[drift.path] = tuple(np.flatnonzero(dead).tolist())
    return found
