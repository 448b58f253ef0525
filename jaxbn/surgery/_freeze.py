"""Freezing: layers whose statistics, scale and bias stand still while others train.

Three things have to stop: the optimizer moving scale and bias (`freeze_labels`), the
batch normalizing and being absorbed in training (`freeze`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import tree_util

from jaxbn.base import Array
from jaxbn.surgery._where import Where, choose
from jaxbn.tree import (
    Call,
    find_layers,
    params_of,
    path_name,
    stats_of,
    variables_of,
    watch,
)


class Plan(NamedTuple):
    """What freezing would stop.

    Attributes:
        layers: paths of the norms that it means.
        statistics: how many numbers there are in their statistics.
        parameters: how many in their scales and biases.
    """

    layers: tuple[str, ...]
    statistics: int
    parameters: int


def plan_freezing(model: Any, variables: Any, where: Where = None) -> Plan:
    """Returns what `freeze` and `freeze_labels` would stop; nothing is changed.

    Args:
        model: a linen or nnx module.
        variables: of it; None for what an nnx model holds.
        where: which norms: a path, the start of one, a pattern, several, a predicate.

    Returns:
        A `Plan`.

    Raises:
        ValueError: if `where` chooses no layer; those there are are listed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=True)
        >>> variables = model.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> plan_freezing(model, variables)
        Plan(layers=('',), statistics=6, parameters=6)
    """
    variables = variables_of(model, variables)
    stats, params = find_layers(stats_of(variables)), find_layers(params_of(variables))
    chosen = choose(_norms(stats), where)
    held = (stats[path] for path in chosen)
    affine = (params.get(path, {}) for path in chosen)
    count = [
        sum(leaf.size for layer in layers for leaf in layer.values())
        for layers in (held, affine)
    ]
    return Plan(chosen, *count)


def freeze_labels(params: Any, layers: tuple[str, ...]) -> Any:
    """Returns 'frozen' or 'trained' for each parameter, for Optax.

        optax.multi_transform({'trained': optimizer, 'frozen': optax.set_to_zero()},
                              freeze_labels(params, plan.layers))

    Args:
        params: a tree of parameters, linen's or an `nnx.State`.
        layers: paths of the norms whose scale and bias are frozen.

    Returns:
        A tree like `params`, of strings.

    Raises:
        ValueError: if one of the paths holds no parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {'bn': {'scale': jnp.ones(2)}, 'dense': {'kernel': jnp.ones(2)}}
        >>> freeze_labels(params, ('bn',))
        {'bn': {'scale': 'frozen'}, 'dense': {'kernel': 'trained'}}
    """
    known = set(find_layers(params))
    missing = sorted(set(layers) - known)
    if missing:
        raise ValueError(
            f"layers has {missing}, which hold no parameters, expected some of "
            f"{sorted(known)}; leave out norms without scale and bias"
        )

    def label(path: tuple, _: Any) -> str:
        layer, _, _ = path_name(path).rpartition("/")
        return "frozen" if layer in layers else "trained"

    return tree_util.tree_map_with_path(label, params)


def freeze(model: Any, layers: tuple[str, ...]) -> Callable[..., tuple[Any, Any]]:
    """Returns `run(variables, *args, **kwargs) -> (output, batch_stats)`.

    The model as it is called, but the norms named normalize by their running statistics
    and do not move them, in training too. Pure; the model's code is not touched.
    detectron2's `convert_frozen_batchnorm` and timm's `freeze_batch_norm_2d` swap the
    modules for ones whose scale and bias are constants too; here those are left to the
    optimizer, see `freeze_labels`.

    Args:
        model: a linen or nnx module.
        layers: paths of the norms, from `plan_freezing`.

    Returns:
        `run`; its second result takes the place of the model's statistics, linen's
        `batch_stats` or an `nnx.State` for `nnx.update`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=False)
        >>> x = jnp.array([[1.0], [5.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, stats = freeze(model, ('',))(variables, x)
        >>> y.round(2).ravel(), stats['mean']
        (Array([1., 5.], dtype=float32), Array([0.], dtype=float32))
    """
    still = frozenset(layers)

    def handler(call: Call) -> tuple[Array, dict]:
        if call.path in still:
            return call.proceed(use_running_average=True), {}
        return call.proceed(), {}

    return watch(model, handler, updating=True)


def _norms(stats: dict[str, dict[str, Any]]) -> list[str]:
    return [path for path, layer in stats.items() if {"mean", "var"} <= set(layer)]
