"""Runs: training side by side, all seeds (and rates) of an arm in one program.

    runs = start(model, images.train.inputs[:2], seeds, optimizer)
    runs, losses = fit(
        classification(model), runs, images.train, at_random(seeds, n, 256), range(15),
        optimizer=optimizer)

R runs lie along the first axis of everything; a step is a `vmap` over them, an epoch a
`scan`. Where several devices share a batch, each run's batch is cut into as many equal
parts, and a norm with `axis_name=axis_of(parallel)` pools over them.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from jaxbn.base import Array
from jaxbn.data import Split, gather
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._samplers import Sampler
from jaxbn.population import merge_batch_stats
from jaxbn.training import ConfigError, TrainConfig
from jaxbn.training._parallel import (
    REPLICATED,
    SPLIT,
    Parallel,
    distribute,
    fetch,
    put,
    start_parallel,
)
from jaxbn.training._processes import start_processes
from jaxbn.training._state import run_once

Loss = Callable[[Any, Any, Any, Array], tuple[Array, Any]]
"""`loss(params, batch_stats, batch, key) -> (value, batch_stats)` of one run."""


class Runs(NamedTuple):
    """Networks that are trained side by side; all arrays [R, ...].

    Attributes:
        params: of the model.
        batch_stats: its running statistics; {} where it has none.
        opt_state: of the optimizer, which holds the place in the schedule.
        seed: [R] of the random numbers a loss is given.
        step: [R] how many were taken.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    seed: Array
    step: Array


def sgd(
    learning_rate: float,
    steps: int | None = None,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Returns SGD; with `steps` the rate follows a cosine to 0, else it is constant.

    `weight_decay` is L2: added to the gradient before the momentum, of all parameters.
    """
    rate = optax.cosine_decay_schedule(learning_rate, steps) if steps else learning_rate
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(rate, momentum=momentum or None))


def start(
    model: Any,
    example: np.ndarray,
    seeds: ArrayLike,
    optimizer: optax.GradientTransformation,
) -> Runs:
    """Returns R new runs of a linen model called as `model(x, train)`.

    Args:
        model: without variables.
        example: [N, ...] any input of the right shape.
        seeds: [R] of the weights; the same seed gives layers of one name and shape the
            same weights in every model.
        optimizer: whose state is made.
    """

    @functools.partial(jax.jit, compiler_options=run_once())
    @jax.vmap
    def one(seed: Array) -> Runs:
        variables = model.init(jax.random.key(seed), example, False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        return Runs(params, stats, optimizer.init(params), seed, jnp.zeros((), int))

    return one(jnp.asarray(seeds, jnp.uint32))


def classification(model: Any) -> Loss:
    """Returns the mean cross entropy of a model called as `model(x, train)`."""

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        del key
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(
            variables, batch.inputs, True, mutable=["batch_stats"]
        )
        labels = jnp.asarray(batch.labels)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), new.get("batch_stats", stats)

    return loss


def fit(
    loss: Loss,
    runs: Runs,
    data: Any,
    rows: Sampler,
    epochs: Iterable[int],
    *,
    optimizer: optax.GradientTransformation,
    rates: ArrayLike | None = None,
    parallel: Parallel | None = None,
    observe: Callable[[int, Runs], Any] | None = None,
) -> tuple[Runs, Array]:
    """Returns the runs after some epochs, and the loss of every step.

    On one device the call does not wait for them, so that the programs of the next arm
    are compiled while this one trains: train all arms, then measure them.

    Args:
        loss: of one run's batch, or of a device's part of it: a mean over examples.
        runs: to go on from.
        data: a tree of arrays [N, ...] that all runs draw from.
        rows: of each epoch, [R, steps, B].
        epochs: which ones; go on with `range(12, 15)` after `range(12)`.
        optimizer: that `runs` were started with.
        rates: [R] factors of each run's updates; None for 1.
        parallel: the devices that share a batch, from `devices_of`; None for one.
        observe: called as `observe(epoch, runs)` after each.

    Returns:
        Runs, and losses [R, steps].
    """
    count = len(runs.seed)
    factors = np.asarray(np.ones(count) if rates is None else rates, np.float32)
    epoch = _make_epoch(loss, optimizer, parallel)
    if parallel is None:
        data, factors = jax.device_put((data, factors))
        place, bring = jnp.asarray, lambda tree: tree
    else:
        runs, data, factors = put(parallel, (runs, data, factors))
        place = functools.partial(put, parallel, kind=SPLIT)
        bring = functools.partial(fetch, parallel)
    losses = []
    for i in epochs:
        batches = np.moveaxis(np.asarray(rows(i), np.int32), 0, -1)
        runs, lost = epoch(runs, data, factors, place(batches))
        losses.append(bring(lost))
        if observe is not None:
            observe(i, jax.tree.map(jnp.asarray, bring(runs)))
    return jax.tree.map(jnp.asarray, bring(runs)), jnp.concatenate(losses).T


def last_epoch(losses: ArrayLike, examples: int, batch_size: int) -> np.ndarray:
    """Returns the mean loss of the last epoch, [R].

    Args:
        losses: of every step, [R, steps].
        examples: of an epoch.
        batch_size: of which there are only whole ones.
    """
    return np.asarray(losses)[:, -(examples // batch_size) :].mean(1)


def _make_epoch(
    loss: Loss, optimizer: optax.GradientTransformation, parallel: Parallel | None
) -> Callable[..., tuple[Runs, Array]]:
    """Returns the program of an epoch: its rows are [steps, B, R]."""
    axis = None if parallel is None else parallel.axis_name

    def one(runs: Runs, rows: Array, factor: Array, data: Any) -> tuple[Runs, Array]:
        key = jax.random.fold_in(jax.random.key(runs.seed), runs.step)
        find = jax.value_and_grad(loss, has_aux=True)
        found = find(runs.params, runs.batch_stats, gather(data, rows), key)
        (value, stats), grads = found
        if axis is not None:
            value, grads = lax.pmean((value, grads), axis)
        updates, opt_state = optimizer.update(grads, runs.opt_state, runs.params)
        updates = jax.tree.map(lambda update: factor * update, updates)
        params = optax.apply_updates(runs.params, updates)
        return Runs(params, stats, opt_state, runs.seed, runs.step + 1), value

    def epoch(runs: Runs, data: Any, factors: Array, rows: Array) -> tuple[Runs, Array]:
        def step(runs: Runs, rows: Array) -> tuple[Runs, Array]:
            return jax.vmap(one, (0, -1, 0, None))(runs, rows, factors, data)

        runs, losses = lax.scan(step, runs, rows)
        if axis is not None:  # Devices may have kept statistics of their own.
            pooled = merge_batch_stats(runs.batch_stats, axis_name=axis)
            runs = runs._replace(batch_stats=pooled)
        return runs, losses

    if parallel is None:
        return jax.jit(epoch)
    kinds = (REPLICATED, REPLICATED, REPLICATED, SPLIT)
    return distribute(parallel, epoch, kinds, REPLICATED)


def devices_of(settings: Settings, batch_size: int) -> Parallel | None:
    """Returns the devices that share a batch; None unless several are asked for.

    Raises:
        ConfigError: (a ValueError) if there are not as many, they do not divide the
            batch, or they are to share it under jit.
    """
    many = settings.num_devices
    if many is None or many == 1:
        return None
    if settings.parallel == "jit":
        raise ConfigError(
            "parallel is 'jit', expected 'pmap' or 'shard_map' for an experiment that "
            "trains several seeds in one program"
        )
    start_processes(TrainConfig(num_devices=many))
    config = TrainConfig(
        num_devices=many, batch_size=batch_size, parallel=settings.parallel
    )
    return start_parallel(config)


def axis_of(parallel: Parallel | None) -> str | None:
    """Returns the `axis_name` of a norm that pools over the devices."""
    return None if parallel is None else parallel.norm_axis
