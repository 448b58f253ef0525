"""The optimizer: a schedule, a chain, a decay that knows what a weight is, averages."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbn.base import Array
from jaxbn.training._config import TrainConfig
from jaxbn.training._finetune import label_parameters


def create_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    A linear warm-up to `learning_rate`, then a cosine to 0, or a tenth at one third
    and again at two thirds of the training, or constant.
    """
    total = config.num_epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    peak, rest = config.learning_rate, total - warmup
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest)
    elif config.schedule == "step":
        drops = {total // 3 - warmup: 0.1, 2 * total // 3 - warmup: 0.1}
        after = optax.piecewise_constant_schedule(
            peak, {step: by for step, by in drops.items() if step > 0}
        )
    else:
        after = optax.constant_schedule(peak)
    if warmup < 1:
        return after
    # The first step is not wasted on a rate of 0.
    before = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([before, after], [warmup])


def create_optimizer(
    config: TrainConfig, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Returns the Optax chain that `config` describes.

    Weight decay is decoupled for adamw and lamb and added to the gradient (the L2
    penalty) for the others; scales and biases are left alone by all. What `--freeze`
    keeps stands still.
    """
    chain = _create_chain(config, create_schedule(config, steps_per_epoch))
    if config.freeze in ("all_but_affine", "all_but_head"):
        parts: Any = {"trained": chain, "frozen": optax.set_to_zero()}
        labels = functools.partial(label_parameters, config)
        chain = optax.multi_transform(parts, labels)
    if config.average_decay is None:
        return chain
    return average_weights(chain, config.average_decay)


def _create_chain(
    config: TrainConfig, rate: optax.Schedule
) -> optax.GradientTransformation:
    decay, mask = config.weight_decay, is_weight
    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=decay, mask=mask)
    if config.optimizer == "lamb":
        return optax.lamb(rate, weight_decay=decay, mask=mask)
    step = {
        "sgd": lambda: optax.sgd(rate, config.momentum),
        "nesterov": lambda: optax.sgd(rate, config.momentum, nesterov=True),
        "adam": lambda: optax.adam(rate),
        "rmsprop": lambda: optax.rmsprop(rate, momentum=config.momentum),
    }[config.optimizer]()
    return optax.chain(optax.add_decayed_weights(decay, mask), step)


class Averaged(NamedTuple):
    """The state of `average_weights`.

    Attributes:
        inner: the state of the optimizer.
        steps: [] int32, how many were taken.
        average: of the parameters.
    """

    inner: Any
    steps: Array
    average: Any


def average_weights(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """Returns `optimizer` keeping an average of the weights it makes in its state.

        average = d average + (1 - d) params,   d = min(decay, (1 + steps)/(10 + steps))

    The average follows closely at first, so that nothing of the initial weights stays.
    """

    def init(params: Any) -> Averaged:
        steps = jnp.zeros((), jnp.int32)
        return Averaged(optimizer.init(params), steps, jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Averaged, params: Any = None) -> tuple:
        updates, inner = optimizer.update(updates, state.inner, params)
        keep = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        new = optax.apply_updates(params, updates)
        average = optax.incremental_update(new, state.average, 1 - keep)
        same = lambda new, old: new.astype(old.dtype)
        average = jax.tree.map(same, average, state.average)
        return updates, Averaged(inner, state.steps + 1, average)

    return optax.GradientTransformation(init, update)  # pyrefly: ignore[bad-argument-type]


def averaged_weights(opt_state: Any) -> Any | None:
    """Returns the average in the state of an optimizer, None if it keeps none."""
    return opt_state.average if isinstance(opt_state, Averaged) else None


def is_weight(params: Any) -> Any:
    """Returns a tree of bools like `params`, false for every scale and bias."""

    def weight(path: tuple, _: Any) -> bool:
        return getattr(path[-1], "key", None) not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(weight, params)
