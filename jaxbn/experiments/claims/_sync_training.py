"""Training over devices, for any choice of what is normalized together.

Batches are dealt out by `deal`, equally or not; the steps of an epoch, of all seeds,
are one program. Not `_runs.fit`: shares are unequal and masked, and devices keep their
own statistics.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxbn.core import batch_norm
from jaxbn.data import Dataset, Split, gather, to_float
from jaxbn.experiments._measure import errors
from jaxbn.experiments._runs import start
from jaxbn.experiments._samplers import at_random
from jaxbn.models import create_model
from jaxbn.population import merge_batch_stats
from jaxbn.training._parallel import (
    OWN,
    REPLICATED,
    SPLIT,
    Parallel,
    distribute,
    fetch,
    put,
)
from jaxbn.training._state import own_copies

PLAIN = batch_norm()
"""Starts and evaluates the runs of all arms: one program each."""
EARLY = 20
"""Steps whose losses are compared one by one."""
POINTS = 60
"""Of a curve of losses, each the mean of a stretch."""


class Size(NamedTuple):
    """How much is run.

    Attributes:
        train: examples to train on.
        test: examples to test on.
        epochs: passes over them.
        model: its name.
        options: of the model.
        learning_rate: the peak of the cosine.
    """

    train: int | None
    test: int | None
    epochs: int
    model: str
    options: dict[str, Any]
    learning_rate: float


class Arm(NamedTuple):
    """A choice of what is normalized together.

    Attributes:
        name: in words.
        size: examples normalized together.
        options: of the norm.
        shares: examples a device.
        by_class: whether a batch is sorted by class before it is dealt.
    """

    name: str
    size: int
    options: dict[str, Any]
    shares: tuple[int, ...]
    by_class: bool = False


class Task(NamedTuple):
    """What all arms have in common.

    Attributes:
        size: of it.
        parallel: the devices.
        dataset: to learn.
        seeds: S of them, trained side by side.
        batch: of SGD, in examples.
    """

    size: Size
    parallel: Parallel
    dataset: Dataset
    seeds: Sequence[int]
    batch: int

    def model(self, norm: Any) -> Any:
        """Returns the network with `norm` in its layers."""
        size = self.size
        return create_model(size.model, self.dataset.num_classes, norm, **size.options)

    def floats(self, inputs: Any) -> jax.Array:
        """Returns standardized inputs."""
        return to_float(inputs, self.dataset.mean, self.dataset.std)

    def recipe(self) -> optax.GradientTransformation:
        """Returns SGD with Nesterov momentum 0.9, its rate along a cosine."""
        steps = self.size.epochs * (len(self.dataset.train.labels) // self.batch)
        rate = optax.cosine_decay_schedule(self.size.learning_rate, steps)
        return optax.sgd(rate, momentum=0.9, nesterov=True)


def deal(rows: np.ndarray, shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows [..., B] as devices get them, and what of it counts.

    Args:
        rows: of each batch.
        shares: of each device; they sum to B.

    Returns:
        Two arrays [..., devices * most]; a share shorter than the longest is filled
        with its batch's first row and masked.
    """
    most, ends = max(shares), np.cumsum(shares)
    parts, masks = [], []
    for end, share in zip(ends, shares, strict=True):
        part = np.repeat(rows[..., :1], most, axis=-1)
        part[..., :share] = rows[..., end - share : end]
        parts.append(part)
        masks.append(np.broadcast_to(np.arange(most) < share, part.shape))
    return np.concatenate(parts, -1), np.concatenate(masks, -1)


def run_arms(task: Task, arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Returns the numbers of each arm by name; all begin with the same weights."""
    optimizer, dataset = task.recipe(), task.dataset
    few = np.asarray(task.floats(dataset.train.inputs[:2]))
    runs = start(task.model(PLAIN), few, np.asarray(task.seeds), optimizer)
    stats = own_copies(runs.batch_stats, None, len(task.parallel.devices))
    begin = runs.params, stats, runs.opt_state
    inputs = np.asarray(task.floats(dataset.test.inputs[:]))
    test = Split(inputs, np.asarray(dataset.test.labels[:]))
    found = {}
    for arm in arms:
        losses, params, stats = train(task, arm, optimizer, begin)
        found[arm.name] = {
            "examples": arm.size,
            **summary(losses, task),
            **error_rates(task, arm, params, stats, test),
        }
    return found


def train(
    task: Task, arm: Arm, optimizer: optax.GradientTransformation, begin: Any
) -> tuple[np.ndarray, Any, Any]:
    """Returns losses [S, steps], parameters [S, ...] and statistics [D, S, ...].

    Args:
        task: to learn.
        arm: what is normalized together.
        optimizer: of the task.
        begin: parameters, statistics and state of the optimizer to begin with.
    """
    parallel, dataset = task.parallel, task.dataset
    norm = batch_norm(momentum=0.9, axis_name=parallel.norm_axis, **arm.options)
    kinds = REPLICATED, OWN, REPLICATED
    epoch = distribute(
        parallel,
        functools.partial(train_epoch, task, task.model(norm), optimizer),
        (*kinds, REPLICATED, SPLIT, SPLIT),
        (*kinds, REPLICATED),
    )
    data, state = put(parallel, dataset.train), put(parallel, begin, kinds)
    labels = np.asarray(dataset.train.labels[:])
    rows = at_random(task.seeds, len(labels), task.batch)
    losses = []
    for i in range(task.size.epochs):
        chosen = rows(i)
        if arm.by_class:
            order = np.argsort(labels[chosen], -1, kind="stable")
            chosen = np.take_along_axis(chosen, order, -1)
        dealt = deal(chosen, arm.shares)
        dealt = tuple(np.moveaxis(each, 0, -1) for each in dealt)
        *state, loss = epoch(*state, data, *put(parallel, dealt, SPLIT))
        losses.append(fetch(parallel, loss))
    params, stats = fetch(parallel, tuple(state[:2]), (REPLICATED, OWN))
    return np.concatenate(losses).T, params, stats


def train_epoch(
    task: Task,
    model: Any,
    optimizer: optax.GradientTransformation,
    params: Any,
    stats: Any,
    opt_state: Any,
    data: Any,
    rows: jax.Array,
    mask: jax.Array,
) -> tuple[Any, Any, Any, jax.Array]:
    """Returns the state after an epoch, and the losses [steps, S] of its steps.

    Rows and mask are [steps, B, S]; a device sees its share of them, and statistics of
    its own, [S, ...].
    """
    axis = task.parallel.axis_name

    def one(params: Any, stats: Any, opt_state: Any, rows: Any, mask: Any) -> Any:
        inputs, labels = gather(data, rows)
        x = task.floats(inputs)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            logits, new = model.apply(variables, x, True, mask, mutable=["batch_stats"])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            total = jnp.sum(jnp.where(mask, each, 0))
            return total / task.batch, new["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        if axis is not None:
            value, grads = lax.psum((value, grads), axis)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state, value

    own = 0 if axis is not None else 1  # Under jit all devices' are there, [D, S, ...].
    every = jax.vmap(one, (0, own, 0, -1, -1), (0, own, 0, 0))

    def step(state: tuple, row: tuple) -> tuple[tuple, jax.Array]:
        found = every(*state, *row)
        return found[:-1], found[-1]

    state, losses = lax.scan(step, (params, stats, opt_state), (rows, mask))
    return *state, losses


def summary(losses: np.ndarray, task: Task) -> dict[str, Any]:
    """Returns what is kept of losses [S, steps]."""
    seeds, steps = losses.shape
    window = max(steps // POINTS, 1)
    whole = losses[:, : steps // window * window]
    return {
        "window": window,
        "loss": losses[:, -(steps // task.size.epochs) :].mean(1),
        "early": losses[:, :EARLY],
        "curve": whole.reshape(seeds, -1, window).mean(2),
    }


def error_rates(
    task: Task, arm: Arm, params: Any, stats: Any, test: Split
) -> dict[str, np.ndarray]:
    """Returns test errors [S], with statistics pooled, of one device, of each."""
    model = task.model(PLAIN)

    def error(stats: Any) -> np.ndarray:
        return errors(model, params, stats, test)

    own = [
        error(jax.tree.map(lambda a, i=i: a[i], stats)) for i in range(len(arm.shares))
    ]
    pooled = error(merge_batch_stats(stats, np.array(arm.shares)))
    return {"pooled": pooled, "first": own[0], "own": np.mean(own, 0)}
