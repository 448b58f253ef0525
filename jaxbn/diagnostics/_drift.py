"""Drift: how far the statistics of a layer are from those of the data it meets.

A running average may lag behind the model, be of other data, or never have moved. Each
norm layer's input is measured in one forward pass and compared with what it holds.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn.base import Array
from jaxbn.core import Moments, batch_moments, feature_axes
from jaxbn.core._mask import as_weights
from jaxbn.tree import (
    Call,
    each_part,
    find_layers,
    has_statistics,
    layers_with_statistics,
    merge_two,
    moments_of,
    run_jitted,
    variables_of,
)

EPSILON = 1e-5
"""Added to variances of layers that do not evaluate as batch norm does."""


class Distance(NamedTuple):
    """How far some statistics are from the running ones.

    Attributes:
        shift: [C] `|mean - running mean| / sqrt(running var + epsilon)`, in deviations.
        log_ratio: [C] `log((var + epsilon) / (running var + epsilon))`.
    """

    shift: np.ndarray
    log_ratio: np.ndarray


class Drift(NamedTuple):
    """One layer's running statistics beside those of a batch; [C] arrays are NumPy's.

    What was not measured is NaN: all of a layer that was not reached, and channels that
    counted nothing. A distance of what is not finite is inf.

    Attributes:
        path: of the layer; with '[i]' for one of several stacked by `nn.scan`, or one
            domain of a `domain_norm`.
        num_elements: counted a channel, the largest; 0 if the layer was not reached.
        num_independent: [C] how many independent elements would give a mean as certain
            as this one: fewer than there are where an example's elements are alike, as
            the pixels of an image.
        mean: [C] of the running statistics.
        var: [C] likewise.
        batch_mean: [C] of what the layer was given.
        batch_var: [C] likewise, biased.
        scale: [C] of the layer's parameters; ones if it has none.
        batch: how far the batch is from the running statistics.
        surprise: [C] the shift of the batch in standard errors of its mean, the larger
            of those of independent elements and of independent examples.
        precise: how far the precise statistics are; None if there were none.
    """

    path: str
    num_elements: float
    num_independent: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    batch_mean: np.ndarray
    batch_var: np.ndarray
    scale: np.ndarray
    batch: Distance
    surprise: np.ndarray
    precise: Distance | None

    @property
    def is_initial(self) -> bool:
        """Whether the statistics are exactly those at initialization: 0 and 1."""
        return bool(np.all(self.mean == 0) and np.all(self.var == 1))


def measure_drift(
    model: Any, variables: Any, *args: Any, precise: Any = None, **kwargs: Any
) -> tuple[Drift, ...]:
    """Returns how far each layer's running statistics are from those of a batch.

    The model runs as it is called: in evaluation each layer is given what it meets at
    test time, in training what it meets there. Nothing of it changes. Each layer's own
    epsilon is used; 1e-5 for norms that do not evaluate as batch norm does.

    Args:
        model: a linen or nnx module.
        variables: of it; None for what an nnx model holds.
        *args: of the call.
        precise: what `precise_batch_stats` returned, or any tree like the model's
            `batch_stats`, to be compared with the running statistics too. (To compare a
            batch with these, put them into `variables`.)
        **kwargs: of the call.

    Returns:
        A tuple, in the order of the layers in `batch_stats`.

    Raises:
        ValueError: if the model has no layer with statistics, if `precise` lacks one,
            or if layers are stacked along another axis than the first.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=True)
        >>> x = jnp.array([[4.0], [6.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> (found,) = measure_drift(model, variables, x)
        >>> found.batch.shift.round(2), found.batch.log_ratio.round(2)
        (array([5.], dtype=float32), array([0.], dtype=float32))

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, figure 2.
    """
    variables = variables_of(model, variables)
    known = layers_with_statistics(variables)
    _, notes = run_jitted(model, _note, variables, *args, **kwargs)
    others = known if precise is None else find_layers(precise)
    missing = sorted(p for p in known if not has_statistics(others.get(p, {})))
    if missing:
        raise ValueError(
            f"precise has no statistics of layers {missing}, expected those of the "
            "model; pass what precise_batch_stats returned for it"
        )
    drifts = []
    for path, state in known.items():
        held = {name: state[name] for name in ("mean", "var")}
        if precise is not None:
            held |= {f"precise_{name}": others[path][name] for name in held}
        for name, entries in _unstacked(path, {**held, **notes.get(path, {})}):
            drifts.append(_compare(name, entries))
    return tuple(drifts)


def _note(call: Call) -> tuple[Array, dict[str, Array]]:
    """Notes the moments of a layer's input, and what is known where it is called."""
    if not has_statistics(call.state):
        return call.proceed(), {}
    call = call._replace(x=lax.stop_gradient(call.x))
    moments = moments_of(call)
    spread = each_part(call, functools.partial(_spread_of_examples, call))
    if call.notes:
        earlier = Moments(*(call.notes[name] for name in Moments._fields))
        moments, spread = merge_two(earlier, moments), spread + call.notes["spread"]
    num_features = len(feature_axes(call.axis, call.x.ndim))
    rows = moments.total.shape[: moments.total.ndim - num_features]
    epsilon = EPSILON if call.epsilon is None else call.epsilon
    scale = call.params.get("scale", jnp.ones(()))
    notes = {
        "spread": spread,
        "scale": jnp.broadcast_to(scale, moments.total.shape),
        "epsilon": jnp.full(rows, epsilon),
    }
    return call.proceed(), {**moments._asdict(), **notes}


def _spread_of_examples(call: Call, mask: Array | None) -> Array:
    """Returns `sum_i n_i^2 |mean_i - mean|^2` over the examples of axis 0, [C].

    Over n^2 that is the squared standard error of the mean if examples are independent,
    however alike the elements of each are.
    """
    features = feature_axes(call.axis, call.x.ndim)
    if 0 in features:
        return jnp.zeros([call.x.shape[a] for a in features])
    weights = as_weights(mask, call.x, features)
    each = batch_moments(call.x, axis=(0, *features), mask=weights)
    _, shift, delta, _ = batch_moments(call.x, axis=call.axis, mask=weights)
    away = (each.shift - shift[None]) + (each.delta - delta[None])
    return jnp.sum(jnp.abs(each.total * away) ** 2, 0)


def _unstacked(
    path: str, entries: dict[str, Any]
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Returns the layers that are stacked as one; their epsilon has no other axes."""
    arrays = {name: np.asarray(value) for name, value in entries.items()}
    stack = arrays["epsilon"].shape if "epsilon" in arrays else ()
    if any(array.shape[: len(stack)] != stack for array in arrays.values()):
        raise ValueError(
            f"the statistics of layer {path!r} have shape {arrays['mean'].shape}, "
            f"expected {stack} to come first; stack layers along axis 0, by "
            "variable_axes={'batch_stats': 0}"
        )
    return [
        (path + "".join(f"[{i}]" for i in at), {k: v[at] for k, v in arrays.items()})
        for at in np.ndindex(*stack)
    ]


def _compare(path: str, held: dict[str, np.ndarray]) -> Drift:
    """Returns the drift of one layer, from what it holds and what was noted."""
    mean, var, epsilon = held["mean"], held["var"], held.get("epsilon", EPSILON)
    precise = None
    if "precise_mean" in held:
        apart = held["precise_mean"] - mean
        precise = _distance(apart, held["precise_var"], var, epsilon)
    nothing = np.full_like(var, np.nan)
    blank = Drift(
        path,
        0.0,
        nothing,
        mean,
        var,
        nothing,
        nothing,
        held.get("scale", np.ones_like(var)),
        Distance(nothing, nothing),
        nothing,
        precise,
    )
    if "total" not in held:
        return blank
    counted = held["total"] > 0
    total = np.where(counted, held["total"], 1)
    apart = (held["shift"] - mean) + held["delta"]
    batch_var = held["m2"] / total
    wide = batch_var + epsilon
    independent = total / np.maximum(held["spread"] / (total * wide), 1)
    found = (
        independent,
        held["shift"] + held["delta"],
        batch_var,
        *_distance(apart, batch_var, var, epsilon),
        np.abs(apart) * np.sqrt(independent / wide),
    )
    independent, batch_mean, batch_var, shift, log_ratio, surprise = (
        np.where(counted, value, np.nan) for value in found
    )
    return blank._replace(
        num_elements=float(held["total"].max(initial=0)),
        num_independent=independent,
        batch_mean=batch_mean,
        batch_var=batch_var,
        batch=Distance(shift, log_ratio),
        surprise=surprise,
    )


def _distance(
    apart: np.ndarray, new: np.ndarray, old: np.ndarray, epsilon: float | np.ndarray
) -> Distance:
    """Returns a distance: inf where it is not finite."""
    with np.errstate(all="ignore"):
        shift = np.abs(apart) / np.sqrt(old + epsilon)
        log_ratio = np.log((new + epsilon) / (old + epsilon))
    return Distance(*(np.where(np.isfinite(d), d, np.inf) for d in (shift, log_ratio)))
