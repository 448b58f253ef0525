"""Haiku, Equinox, Keras: their batch norms as `(params, state)`. None is needed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn._values import (
    as_numpy,
    check_flags,
    check_mapping,
    check_number,
    has_numbers,
    is_count,
    shown,
)
from jaxbn.base import Params, State


def from_haiku(
    params: Mapping[str, Any], state: Mapping[str, Any], name: str
) -> tuple[Params, State]:
    """Returns one batch norm of Haiku as `(params, state)`.

    Haiku keeps a biased average ('hidden') and what is debiased ('average'), which it
    evaluates with; that is taken. Its `decay_rate` is our momentum, its average
    `debias=True` here; to go on with it the state gets its counter.

    Args:
        params: of `hk.transform_with_state`, all modules.
        state: likewise.
        name: of the module, such as 'res_net/~/initial_batchnorm'.

    Returns:
        {'scale', 'bias'} as far as there are, and {'mean', 'var', 'count'}, [C] each.

    Raises:
        ValueError: if there is no such batch norm.

    Example:
        >>> ema = {'average': jnp.ones((1, 1, 2)), 'hidden': jnp.ones((1, 1, 2)),
        ...        'counter': jnp.int32(3)}
        >>> state = {'bn/~/mean_ema': ema, 'bn/~/var_ema': ema}
        >>> from_haiku({}, state, 'bn')[1]['mean']
        Array([1., 1.], dtype=float32)
    """
    check_mapping("params", params)
    check_mapping("state", state)
    keys = [f"{name}/~/mean_ema", f"{name}/~/var_ema"]
    if not set(keys) <= set(state):
        raise ValueError(
            f"state has no {keys}, expected a batch norm called {name!r}; it has "
            f"{sorted(k.removesuffix('/~/mean_ema') for k in state if 'mean_ema' in k)}"
        )
    for key in keys:
        check_mapping(f"state[{key!r}]", state[key])
        if not {"average", "counter"} <= set(state[key]):
            raise ValueError(
                f"state[{key!r}] has {sorted(state[key])}, expected 'average' and "
                "'counter'; pass what hk.transform_with_state keeps"
            )
    mean, var = (_channels("state", state[key]["average"]) for key in keys)
    counter = as_numpy("the counter of state", state[keys[0]]["counter"])
    if counter.size != 1 or mean.shape != var.shape:
        raise ValueError(
            f"state has a counter of shape {counter.shape}, a mean {mean.shape} and a "
            f"variance {var.shape}, expected a number and arrays of one shape"
        )
    count = jnp.full(var.shape, counter.item(), jnp.float32)
    affine = params.get(name, {})
    check_mapping(f"params[{name!r}]", affine)
    names = {"scale": "scale", "offset": "bias"}
    found = {
        names[k]: _channels(f"params {k}", v) for k, v in affine.items() if k in names
    }
    return found, {"mean": mean, "var": var, "count": count}


def from_equinox(
    mean: Any,
    var: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    count: int | None = None,
    momentum: float = 0.99,
    as_evaluated: bool = False,
) -> tuple[Params, State]:
    """Returns the arrays of an Equinox batch norm as `(params, state)`.

    In mode 'ema' its state is what it evaluates with. In mode 'batch' it is a biased
    average, the mean from 0 and the variance from 1, and both are divided by
    `1 - momentum^count` to evaluate; for the variance that is wrong (0.13: +99 after
    one step, +0.58 after 100), and the initial 1 is removed here as it should be.

    Args:
        mean: [C] of `state.get(layer.ema_state_index)` or `layer.batch_state_index`.
        var: [C] likewise.
        weight: [C] of the layer, or None.
        bias: [C] likewise.
        count: of `layer.batch_counter` in mode 'batch'; None for mode 'ema'.
        momentum: of the layer, the weight of the old value, as here.
        as_evaluated: what Equinox evaluates with, its error included.

    Returns:
        {'scale', 'bias'} as far as there are, and {'mean', 'var'} [C], with 'count' in
        mode 'batch' (`debias=True` goes on from there).

    Raises:
        ValueError: if `count` is 0, nothing was averaged yet, or `momentum` is 1, which
            averages nothing.

    Example:
        >>> from_equinox([0.02], [0.99 + 0.01 * 4], count=1)[1]['var'].round(3)
        Array([4.], dtype=float32)
    """
    mean, var = as_numpy("mean", mean).real, as_numpy("var", var).real
    mean, var = mean.astype(np.float64), var.astype(np.float64)
    check_flags(as_evaluated=as_evaluated)
    state = {}
    if count is not None:
        count = int(np.ravel(count)[0]) if is_whole(count) else count
        if not is_count(count):
            raise ValueError(
                f"count is {shown(count)}, expected at least 1 batch; a layer that saw "
                "none starts by bn_init"
            )
        check_number("momentum", momentum, 0, 1, fix="pass the layer's own")
        left = momentum**count
        if left == 1:
            raise ValueError(
                f"momentum is {momentum}, expected less than 1: nothing was averaged; "
                "pass the layer's own"
            )
        mean = mean / (1 - left)
        var = (var - (0.0 if as_evaluated else left)) / (1 - left)
        state["count"] = jnp.full(var.shape, count, jnp.float32)
    arrays = {"scale": weight, "bias": bias}
    names = {"scale": "weight", "bias": "bias"}
    params = {k: _channels(names[k], v) for k, v in arrays.items() if v is not None}
    return params, {
        "mean": _channels("mean", mean),
        "var": _channels("var", var),
        **state,
    }


def from_keras(
    weights: Mapping[str, Any] | Sequence[Any],
    *,
    scale: bool = True,
    center: bool = True,
    num_elements: float | None = None,
) -> tuple[Params, State]:
    """Returns the weights of a Keras batch norm as `(params, state)`.

    Keras's momentum is the weight of the old value, as here (0.99), its epsilon 1e-3:
    pass that on to `bn_apply`. Its variance is biased, on every backend, except in the
    fused layer of tf_keras (Keras 2, by default for images), which absorbs n / (n - 1)
    of it.

    Args:
        weights: gamma, beta, moving_mean and moving_variance by name, or in the order
            of `layer.get_weights()`.
        scale: whether the layer has a gamma; for a list.
        center: whether it has a beta; for a list.
        num_elements: n of that fused layer of tf_keras, how many elements a channel had
            in each batch: the variance is made biased, times (n - 1) / n. None leaves
            it.

    Returns:
        {'scale', 'bias'} as far as there are, and {'mean', 'var'}.

    Raises:
        ValueError: if a list has another length, statistics are missing, or are of
            different shapes.

    Example:
        >>> from_keras([[2.0], [1.0], [3.0], [4.0]])[1]['var']
        Array([4.], dtype=float32)
    """
    check_flags(scale=scale, center=center)
    if num_elements is not None:
        check_number("num_elements", num_elements, 0, fix="pass how many a batch had")
    if not isinstance(weights, Mapping):
        if isinstance(weights, str) or not isinstance(weights, Sequence):
            raise ValueError(
                f"weights is {shown(weights)}, expected a list or a dict of arrays; "
                "pass layer.get_weights()"
            )
        order = ["gamma"] * bool(scale) + ["beta"] * bool(center)
        order += ["moving_mean", "moving_variance"]
        if len(weights) != len(order):
            raise ValueError(
                f"weights has {len(weights)} arrays, expected {order}; say scale=False "
                "or center=False where there are none"
            )
        weights = dict(zip(order, weights, strict=True))
    if not {"moving_mean", "moving_variance"} <= set(weights):
        raise ValueError(
            f"weights has {sorted(map(str, weights))}, expected 'moving_mean' and "
            "'moving_variance'; pass the weights of one BatchNormalization"
        )
    names = {"gamma": "scale", "beta": "bias"}
    params = {
        new: _channels(f"weights {k}", weights[k])
        for k, new in names.items()
        if k in weights
    }
    mean, var = (
        as_numpy(f"weights {k}", weights[k]) for k in ("moving_mean", "moving_variance")
    )
    if mean.size != var.size:
        raise ValueError(
            f"moving_mean has shape {mean.shape} and moving_variance {var.shape}, "
            "expected the same; pass the weights of one BatchNormalization"
        )
    if num_elements is not None and num_elements > 1:
        var = var.astype(np.float64) * (num_elements - 1) / num_elements
    stats = {"mean": mean, "var": var}
    return params, {
        key: _channels(f"weights {key}", value) for key, value in stats.items()
    }


def _channels(name: str, value: Any) -> Any:
    """Returns an array [1, ..., C] as [C] float32."""
    return jnp.asarray(as_numpy(name, value).real.reshape(-1), jnp.float32)


def is_whole(count: Any) -> bool:
    """Returns whether a count, maybe an array of one number, is a whole number."""
    known = has_numbers(count) and not isinstance(count, jax.core.Tracer)
    return known and count.size == 1 and bool(np.ravel(count)[0] % 1 == 0)
