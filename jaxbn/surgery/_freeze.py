"""Freezing: layers whose statistics, scale and bias stand still while others train.

Three things have to stop: the optimizer moving scale and bias (`freeze_labels`), the
batch normalizing and being absorbed in training (`freeze`).
"""

from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from jax import tree_util

from jaxbn._values import shown
from jaxbn.base import Array
from jaxbn.surgery._where import Where, check_where, choose, is_chosen
from jaxbn.tree import (
    Call,
    find_layers,
    has_statistics,
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

    Norms without scale and bias have nothing to be frozen here.

    Raises:
        ValueError: if none of the paths holds parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {'bn': {'scale': jnp.ones(2)}, 'dense': {'kernel': jnp.ones(2)}}
        >>> freeze_labels(params, ('bn',))
        {'bn': {'scale': 'frozen'}, 'dense': {'kernel': 'trained'}}
    """
    listed = isinstance(layers, Sequence | Set) and not isinstance(layers, str)
    if not listed or not all(isinstance(path, str) for path in layers):
        raise ValueError(
            f"layers is {shown(layers)}, expected the paths of norms; pass those of "
            "plan_freezing"
        )
    known = set(find_layers(params))
    if layers and not known & set(layers):
        raise ValueError(
            f"layers is {tuple(layers)}, of which none holds parameters, expected some "
            f"of {sorted(known)}; pass those of plan_freezing"
        )

    def label(path: tuple, _: Any) -> str:
        layer, _, _ = path_name(path).rpartition("/")
        return "frozen" if layer in layers else "trained"

    return tree_util.tree_map_with_path(label, params)


def freeze(model: Any, layers: Where = None) -> Callable[..., tuple[Any, Any]]:
    """Returns `run(variables, *args, **kwargs) -> (output, batch_stats)`.

    The model as it is called, but the norms named normalize by their running statistics
    and do not move them, in training too. Pure; the model's code is not touched.
    detectron2's `convert_frozen_batchnorm` and timm's `freeze_batch_norm_2d` swap the
    modules for ones whose scale and bias are constants too; here those are left to the
    optimizer, see `freeze_labels`.

    Args:
        model: a linen or nnx module.
        layers: paths of the norms, from `plan_freezing`, or what else its `where` may
            be; None for all.

    Returns:
        `run`; its second result takes the place of the model's statistics, linen's
        `batch_stats` or an `nnx.State` for `nnx.update`. A norm whose evaluation looks
        at the batch, as that of `adaptive_norm` does, still does.

    Raises:
        ValueError: in `run`, if `layers` chooses none of the model's.

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

    check_where(layers)

    def handler(call: Call) -> tuple[Array, dict]:
        if not is_chosen(call.path, layers):
            return call.proceed(), {}
        call.overrides.pop("update_stats", None)
        return call.proceed(use_running_average=True), {}

    frozen = watch(model, handler, updating=True)

    def run(variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        choose(_norms(find_layers(stats_of(variables_of(model, variables)))), layers)
        return frozen(variables, *args, **kwargs)

    return run


def _norms(stats: dict[str, dict[str, Any]]) -> list[str]:
    return [path for path, layer in stats.items() if has_statistics(layer)]
