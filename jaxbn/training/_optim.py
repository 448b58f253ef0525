"""The optimizer: a schedule, a chain, and a decay that knows what a weight is."""

from typing import Any

import jax
import optax

from jaxbn.training._config import TrainConfig


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
    penalty) for the others; scales and biases are left alone by all.
    """
    rate = create_schedule(config, steps_per_epoch)
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


def is_weight(params: Any) -> Any:
    """Returns a tree of bools like `params`, false for every scale and bias."""

    def weight(path: tuple, _: Any) -> bool:
        return getattr(path[-1], "key", None) not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(weight, params)
