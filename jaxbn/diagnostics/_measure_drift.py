"""Drift: how far the statistics of a layer are from those of the data it meets.

A running average may lag behind the model, be of other data, or never have moved. Each
norm layer's input is measured in one forward pass and compared with what it holds.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn.base import Array
from jaxbn.core import Moments, batch_moments, feature_axes
from jaxbn.core._mask import as_weights
from jaxbn.diagnostics._drift import EPSILON, Drift, compare
from jaxbn.tree import (
    Call,
    check_known,
    each_part,
    find_layers,
    has_statistics,
    layers_with_statistics,
    merge_two,
    moments_of,
    run_jitted,
    variables_of,
)


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
    check_known("measure_drift", variables, args, kwargs, precise)
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
            drifts.append(compare(name, entries))
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
