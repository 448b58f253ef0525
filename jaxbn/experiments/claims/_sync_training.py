"""Training over devices that normalize what they are told: an arm of an experiment.

Batches are dealt out by `deal`, equally or not; the steps of an epoch are one program.
Not `_runs.fit`: shares are unequal and masked, and devices keep their own statistics.
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
from jaxbn.data import Dataset, Split, epoch_indices, gather, to_float
from jaxbn.experiments._measure import errors
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
from jaxbn.training._state import own_copies, run_once

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


def deal(rows: np.ndarray, shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows [steps, B] as devices get them, and what of it counts.

    Args:
        rows: of each batch.
        shares: of each device; they sum to B.

    Returns:
        Two arrays [steps, devices * most]; a share shorter than the longest is filled
        with its batch's first row and masked.
    """
    most, ends = max(shares), np.cumsum(shares)
    parts, masks = [], []
    for end, share in zip(ends, shares, strict=True):
        part = np.repeat(rows[:, :1], most, axis=1)
        part[:, :share] = rows[:, end - share : end]
        parts.append(part)
        masks.append(np.broadcast_to(np.arange(most) < share, part.shape))
    return np.concatenate(parts, 1), np.concatenate(masks, 1)


def run_arm(
    arm: Arm, size: Size, parallel: Parallel, dataset: Dataset, seeds: Sequence[int]
) -> dict[str, Any]:
    """Returns the numbers of an arm, the seeds first."""
    norm = batch_norm(momentum=0.9, axis_name=parallel.norm_axis, **arm.options)
    model = create_model(size.model, dataset.num_classes, norm, **size.options)
    batch = sum(arm.shares)
    num = len(dataset.train.labels)
    schedule = optax.cosine_decay_schedule(
        size.learning_rate, size.epochs * (num // batch)
    )
    optimizer = optax.sgd(schedule, momentum=0.9, nesterov=True)
    kinds = REPLICATED, OWN, REPLICATED
    epoch = distribute(
        parallel,
        functools.partial(train_epoch, model, optimizer, dataset, parallel, batch),
        (*kinds, REPLICATED, SPLIT, SPLIT),
        (*kinds, REPLICATED),
    )
    data = put(parallel, dataset.train)
    few = to_float(dataset.train.inputs[:2], dataset.mean, dataset.std)
    begin = jax.jit(
        functools.partial(model.init, x=few, train=False), compiler_options=run_once()
    )
    keys = ("loss", "early", "curve", "pooled", "first", "own")
    found: dict[str, list[Any]] = {key: [] for key in keys}
    window = max(size.epochs * (num // batch) // POINTS, 1)
    for seed in seeds:
        variables = begin(jax.random.key(seed))
        params = variables["params"]
        stats = own_copies(variables["batch_stats"], None, len(parallel.devices))
        state = (params, stats, optimizer.init(params))
        state = put(parallel, state, kinds)
        losses = []
        for i in range(size.epochs):
            chosen = epoch_indices(seed, num, batch, i)
            if arm.by_class:
                order = np.argsort(dataset.train.labels[chosen], 1, kind="stable")
                chosen = np.take_along_axis(chosen, order, 1)
            dealt = deal(chosen, arm.shares)
            *state, loss = epoch(*state, data, *put(parallel, dealt, SPLIT))
            losses += fetch(parallel, loss).tolist()
        params, stats = fetch(parallel, tuple(state[:2]), (REPLICATED, OWN))
        pooled = merge_batch_stats(stats, np.array(arm.shares))
        many = range(len(arm.shares))
        every = [jax.tree.map(lambda a, i=i: a[i], stats) for i in many]
        own = [error(model, params, one, dataset) for one in every]
        whole = len(losses) // window * window
        found["loss"].append(float(np.mean(losses[-(num // batch) :])))
        found["early"].append(losses[:EARLY])
        found["curve"].append(np.reshape(losses[:whole], (-1, window)).mean(1))
        found["pooled"].append(error(model, params, pooled, dataset))
        found["first"].append(own[0])
        found["own"].append(float(np.mean(own)))
    stacked = {key: np.array(values) for key, values in found.items()}
    return {"examples": arm.size, "window": window, **stacked}


def train_epoch(
    model: Any,
    optimizer: optax.GradientTransformation,
    dataset: Dataset,
    parallel: Parallel,
    batch: int,
    params: Any,
    stats: Any,
    opt_state: Any,
    data: Any,
    rows: jax.Array,
    mask: jax.Array,
) -> tuple[Any, Any, Any, jax.Array]:
    """Returns the state after an epoch, and the loss of each of its steps."""
    axis = parallel.axis_name

    def step(state: tuple, row: tuple) -> tuple[tuple, jax.Array]:
        params, stats, opt_state = state
        rows, mask = row
        inputs, labels = gather(data, rows)
        x = to_float(inputs, dataset.mean, dataset.std)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            logits, new = model.apply(variables, x, True, mask, mutable=["batch_stats"])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(jnp.where(mask, each, 0)) / batch, new["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        if axis is not None:
            value, grads = lax.psum((value, grads), axis)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), value

    state, losses = lax.scan(step, (params, stats, opt_state), (rows, mask))
    return *state, losses


def error(model: Any, params: Any, stats: Any, dataset: Dataset) -> float:
    """Returns the test error of one net in percent."""
    inputs = np.asarray(to_float(dataset.test.inputs[:], dataset.mean, dataset.std))
    test = Split(inputs, np.asarray(dataset.test.labels[:]))
    params, stats = jax.tree.map(lambda a: jnp.asarray(a)[None], (params, stats))
    return float(errors(model, params, stats, test)[0])
