"""What a step changes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxbn.base import Array


class TrainState(NamedTuple):
    """Everything that a training step reads and returns.

    Attributes:
        step: [] int32, how many steps were taken.
        params: of the model.
        batch_stats: running statistics of the model, {} without a norm.
        opt_state: of the optimizer.
        key: [2] uint32, the data of the random key; it does not change, a step folds
            its number into it.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: Array


def run_once() -> dict[str, Any] | None:
    """Returns compiler options for a program that is run once.

    On a CPU, drawing the weights of a small net is compiled in 3 s without them, in 1 s
    with them (2026-11-30, jax 0.10.2). Other platforms do not know all of these.
    """
    if jax.default_backend() != "cpu":
        return None
    return {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    x: Array,
    seed: int,
    start: Callable[[Any, Any], tuple[Any, Any]] = lambda *fresh: fresh,
) -> TrainState:
    """Returns the state before the first step.

    The same seed gives the same weights to the model with and without a norm.

    Args:
        model: called as `model(x, train)`.
        optimizer: an Optax chain.
        x: [N, ...] inputs of the right shape; their values do not matter.
        seed: of the weights and of what happens at random in training.
        start: `(params, batch_stats)` to those of the first step.
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    init = jax.jit(model.init, static_argnums=2, compiler_options=run_once())
    variables = init(init_key, x, False)
    params, batch_stats = start(variables["params"], variables.get("batch_stats", {}))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(key),
    )


def own_copies(batch_stats: Any, replicas: Any | None, devices: int) -> Any:
    """Returns statistics for each device, [D, ...].

    Args:
        batch_stats: pooled ones, which all start from.
        replicas: those of as many devices, to go on with, or of another number, which
            only their pool is a match for; or None.
        devices: D.
    """
    leaves = jax.tree.leaves(replicas)
    if leaves and leaves[0].shape[0] == devices:
        return replicas
    return jax.tree.map(lambda x: np.stack([np.asarray(x)] * devices), batch_stats)
