"""Training on made data, of a model that brings no step of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

STEPS, RATE = 8, 0.01
Batches = list[tuple[np.ndarray, np.ndarray]]
Tree = Any


class Curve(NamedTuple):
    """What a training leaves: its losses, and the running statistics at the end."""

    losses: np.ndarray
    statistics: Tree


def draw(
    shape: tuple[int, ...], classes: int = 0, target: tuple = (), seed: int = 0
) -> Batches:
    """Returns standardized data, and classes or else numbers, a batch for each step."""
    rng, batches = np.random.default_rng(seed), []
    for _ in range(STEPS):
        x, size = rng.normal(size=shape), (shape[0], *target)
        y = rng.integers(0, classes, size) if classes else rng.normal(size=size)
        batches.append((x.astype(np.float32), y if classes else y.astype(np.float32)))
    return batches


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean over all that is classified."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def squares(y: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean squared difference."""
    return jnp.mean((y - target) ** 2)


def fit_linen(
    model: linen.Module,
    batches: Batches,
    loss: Callable = cross_entropy,
    flag: str | None = "train",
) -> Curve:
    """Trains by gradient descent with momentum; `flag` tells the model to train."""
    training, evaluation = ({flag: True}, {flag: False}) if flag else ({}, {})
    optimizer = optax.sgd(RATE, momentum=0.9)

    @jax.jit
    def step(params, statistics, memory, x, y):
        def objective(params):
            variables = {"params": params, "batch_stats": statistics}
            out, new = model.apply(variables, x, **training, mutable=["batch_stats"])
            return loss(out, y), new["batch_stats"]

        derive = jax.value_and_grad(objective, has_aux=True)
        (value, statistics), gradient = derive(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), statistics, memory, value

    @jax.jit
    def evaluate(params, statistics, x, y):
        variables = {"params": params, "batch_stats": statistics}
        return loss(model.apply(variables, x, **evaluation), y)

    variables = model.init(jax.random.key(0), batches[0][0], **training)
    params, statistics = variables["params"], variables["batch_stats"]
    memory, losses = optimizer.init(params), []
    for x, y in batches:
        params, statistics, memory, value = step(params, statistics, memory, x, y)
        losses.append(value)
    losses.append(evaluate(params, statistics, *batches[0]))
    return Curve(np.asarray(losses, np.float64), statistics)


def fit_nnx(
    model: nnx.Module,
    batches: Batches,
    loss: Callable = cross_entropy,
    flag: str | None = None,
) -> Curve:
    """The same for an nnx model."""
    training, evaluation = ({flag: True}, {flag: False}) if flag else ({}, {})
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        derive = nnx.value_and_grad(lambda model: loss(model(x, **training), y))
        value, gradient = derive(model)
        optimizer.update(model, gradient)
        return value

    model.train()
    losses = [step(model, optimizer, x, y) for x, y in batches]
    model.eval()
    evaluate = nnx.jit(lambda model, x, y: loss(model(x, **evaluation), y))
    losses.append(evaluate(model, *batches[0]))
    return Curve(np.asarray(losses, np.float64), statistics_of(model))


def statistics_of(model: nnx.Module) -> Tree:
    """Returns the running statistics of an nnx model, as plain arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
