"""Steps: pure functions of a state, the data and rows of indices into it.

Each runs on one device with its share of every batch. Where devices share a batch,
`axis_name` says along which axis; sums over them are all that crosses it, besides the
statistics of the norm. None of the functions knows how it is mapped.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from jaxbn.base import Array, AxisName
from jaxbn.core import merge_moments
from jaxbn.data import augment_crop_flip, gather, to_float
from jaxbn.population import Collected, collect_moments, pool_collected
from jaxbn.surgery import freeze
from jaxbn.training._metrics import (
    Metrics,
    Scores,
    add_metrics,
    count_top5,
    measure,
    no_metrics,
)
from jaxbn.training._state import TrainState


class Job(NamedTuple):
    """What a step needs besides its arguments; fixed for a run.

    Attributes:
        model: called as `model(x, train, mask)`, with `domain=` if it has domains.
        optimizer: an Optax chain.
        task: 'classification' or 'regression'.
        mean: [C] of the training inputs.
        std: [C] of the training inputs.
        label_smoothing: of the training loss.
        augment: whether steps crop and flip training images at random; pictures are
            when they are read.
        axis_name: the axis of the devices that share a batch, or None.
        apart: whether devices keep running statistics of their own.
        num_domains: of the data set, whose labels say of which an example is.
        by_domain: whether the model is told.
        on_nonfinite: what a step does that is not finite: 'warn', it is taken; 'skip',
            nothing moves but the number of the step; 'stop', nothing moves any more.
        frozen: whether norms normalize by running statistics in training too.
        top5: whether `evaluate` counts top-5 accuracy.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    task: str
    mean: np.ndarray
    std: np.ndarray
    label_smoothing: float
    augment: bool
    axis_name: AxisName | None
    apart: bool = False
    num_domains: int = 1
    by_domain: bool = False
    on_nonfinite: str = "warn"
    frozen: bool = False
    top5: bool = False


def train_steps(
    job: Job,
    state: TrainState,
    metrics: Metrics,
    data: Any,
    rows: Array | None,
    start: Array,
    stop: Array,
) -> tuple[TrainState, Metrics]:
    """Returns state and metrics after the batches `start` to `stop` of an epoch.

    One program for any part of an epoch: its ends are values, not shapes.

    Args:
        job: what is fixed.
        state: before the first of the steps.
        metrics: sums so far, to which those of the steps are added.
        data: the `Split` of all training examples, on the device.
        rows: [steps, B] which examples each batch of the epoch has; None where `data`
            is one batch.
        start: [] the first batch.
        stop: [] the one after the last.
    """

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        return train_at(job, *carry, data, rows, i)

    return lax.fori_loop(start, stop, body, (state, metrics))


def train_at(
    job: Job,
    state: TrainState,
    metrics: Metrics,
    data: Any,
    rows: Array | None,
    at: Array,
) -> tuple[TrainState, Metrics]:
    """Returns state and metrics after the batch `at` of an epoch; see `train_steps`."""
    batch = data if rows is None else gather(data, rows[at])
    new, sums = train_step(job, state, batch)
    if job.on_nonfinite == "warn":
        return new, add_metrics(metrics, sums)
    going = (metrics.bad == 0) | (job.on_nonfinite == "skip")
    taken = going & (sums.bad == 0)
    old = state._replace(step=new.step) if job.on_nonfinite == "skip" else state
    nothing = no_metrics()._replace(bad=jnp.where(going, sums.bad, 0))
    new, sums = keep_where(taken, (new, sums), (old, nothing))
    return new, add_metrics(metrics, sums)


def train_step(job: Job, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    """Returns the state after one step, and the sums over its batch.

    `batch` is inputs and labels. The loss is the mean over the batch of all devices. A
    device differentiates its own examples' share of it; the norm's collectives carry
    the rest across.
    """
    x, labels, told = prepare_step(job, state, batch)
    everyone = jnp.ones(x.shape[0], bool)
    num = x.shape[0] * (lax.psum(1, job.axis_name) if job.axis_name else 1)
    run = freeze(job.model) if job.frozen else functools.partial(run_and_absorb, job)

    def share(params: Any) -> tuple[Array, tuple[Metrics, Any]]:
        variables = variables_of(params, state.batch_stats)
        outputs, batch_stats = run(variables, x, True, **told)
        sums = measure(outputs, labels, everyone, job.task, job.label_smoothing)
        return sums.loss / num, (sums, batch_stats)

    grads, (sums, batch_stats) = jax.grad(share, has_aux=True)(state.params)
    grads, sums = sum_over_devices(job, (grads, sums))
    updates, opt_state = job.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, state.key)
    # A gradient that is not finite is in the state of the optimizer, or the parameters.
    fine = is_finite(job, (sums.loss, new))
    return new, sums._replace(bad=1 - fine.astype(jnp.float32))


def run_and_absorb(job: Job, *args: Any, **told: Any) -> tuple[Array, Any]:
    """Returns the outputs of the model, and its statistics after them."""
    outputs, updates = job.model.apply(*args, mutable=["batch_stats"], **told)
    return outputs, updates.get("batch_stats", {})


def is_finite(job: Job, tree: Any) -> Array:
    """Returns whether all numbers are finite, on all devices that share a batch."""
    fine = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
    if job.axis_name and job.apart:
        return lax.pmin(fine.astype(jnp.int32), job.axis_name) > 0
    return fine


def keep_where(taken: Array, new: Any, old: Any) -> Any:
    """Returns the new values where a step is taken, else the old ones."""
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)


def prepare_step(
    job: Job, state: TrainState, batch: Any
) -> tuple[Array, Array, dict[str, Any]]:
    """Returns the inputs of a step, its classes, and what the model is told."""
    inputs, labels = batch
    labels, told = read_labels(job, labels)
    key = jax.random.fold_in(random_key(state), state.step)
    return prepare(job, inputs, key), labels, told


def loss_of(job: Job, outputs: Array, labels: Array) -> Array:
    """Returns the mean loss over a batch on one device."""
    everyone = jnp.ones(outputs.shape[0], bool)
    sums = measure(outputs, labels, everyone, job.task, job.label_smoothing)
    return sums.loss / outputs.shape[0]


def evaluate(
    job: Job,
    by_batch: bool,
    params: Any,
    batch_stats: Any,
    data: Any,
    rows: Array | None,
    mask: Array,
) -> Scores:
    """Returns the sums over the examples that `mask` counts.

    Args:
        job: what is fixed.
        by_batch: whether each batch is normalized by its own statistics instead of by
            `batch_stats`.
        params: of the model.
        batch_stats: that normalize.
        data: the set to evaluate, on the device.
        rows: [steps, B], or None where `data` is one batch.
        mask: [steps, B] bool, false for padding.
    """
    variables = variables_of(params, batch_stats)

    def body(scores: Scores, batch: tuple[Any, Array]) -> tuple[Scores, None]:
        rows, mask = batch
        inputs, labels = data if rows is None else gather(data, rows)
        labels, told = read_labels(job, labels)
        x = prepare(job, inputs, None)
        outputs, _ = job.model.apply(
            variables, x, by_batch, mask, mutable=["batch_stats"], **told
        )
        sums = measure(outputs, labels, mask, job.task)
        top5 = count_top5(outputs, labels, mask) if job.top5 else None
        return jax.tree.map(jnp.add, scores, Scores(sums, top5)), None

    nothing = Scores(no_metrics(), jnp.zeros(()) if job.top5 else None)
    scores, _ = lax.scan(body, nothing, (rows, mask))
    return sum_over_devices(job, scores)


def measure_population(
    job: Job, params: Any, batch_stats: Any, data: Any, rows: Array | None
) -> Collected:
    """Returns the moments that a fixed model meets in the batches `rows`, by layer.

    Each batch is normalized by itself, as in training; the moments of all, over devices
    too, are those of the precise statistics. The inputs are those of training,
    augmented if those were.

    Args:
        job: what is fixed.
        params: of the model.
        batch_stats: of the model; their values do not matter.
        data: the training set, on the device.
        rows: [steps, B], or None where `data` is one batch.
    """
    run = collect_moments(job.model)
    variables = variables_of(params, batch_stats)

    def body(step: Array, rows: Array | None) -> tuple[Array, Collected]:
        key = jax.random.fold_in(jax.random.key(0), step) if job.augment else None
        inputs, labels = data if rows is None else gather(data, rows)
        _, told = read_labels(job, labels)
        return step + 1, run(variables, prepare(job, inputs, key), True, **told)[1]

    steps = 1 if rows is None else rows.shape[0]
    _, stacked = lax.scan(body, jnp.zeros((), jnp.int32), rows, length=steps)
    moments = {path: merge_moments(layer) for path, layer in stacked.items()}
    return pool_collected(moments, job.axis_name) if job.axis_name else moments


def read_labels(job: Job, labels: Array) -> tuple[Array, dict[str, Any]]:
    """Returns the classes, and what the model is told of domains, if anything."""
    domain = jnp.zeros(len(labels), jnp.int32)
    if job.num_domains > 1:
        num_classes = job.model.num_outputs
        domain, labels = labels // num_classes, labels % num_classes
    return labels, {"domain": domain} if job.by_domain else {}


def prepare(job: Job, inputs: Array, key: Array | None) -> Array:
    """Returns the inputs standardized, and augmented if there is a `key` for it."""
    x = to_float(inputs, job.mean, job.std)
    if not job.augment or key is None:
        return x
    device = lax.axis_index(job.axis_name) if job.axis_name else 0
    return augment_crop_flip(key, x, first=device * x.shape[0])


def random_key(state: TrainState) -> Array:
    """Returns the random key of the run."""
    return jax.random.wrap_key_data(state.key)


def sum_over_devices(job: Job, tree: Any) -> Any:
    """Returns the sum of `tree` over the devices that share a batch."""
    return lax.psum(tree, job.axis_name) if job.axis_name else tree


def variables_of(params: Any, batch_stats: Any) -> dict[str, Any]:
    """Returns the variables of a model, with or without statistics."""
    return {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
