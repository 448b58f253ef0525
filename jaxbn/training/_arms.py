"""Arms: the same network, once with each normalization, and its compiled programs."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn.data import Column, Dataset, Split, eval_indices, stream, to_float
from jaxbn.models import create_model
from jaxbn.population import merge_batch_stats
from jaxbn.training._config import TrainConfig
from jaxbn.training._histograms import activations
from jaxbn.training._metrics import averages
from jaxbn.training._norms import create_norm
from jaxbn.training._optim import create_optimizer
from jaxbn.training._parallel import (
    NUMBER,
    REPLICATED,
    SPLIT,
    Parallel,
    distribute,
    fetch,
    replicate,
    split,
)
from jaxbn.training._state import TrainState, create_state
from jaxbn.training._step import (
    Job,
    evaluate,
    measure_population,
    train_at,
    train_steps,
)


class Arm(NamedTuple):
    """A network with one normalization.

    Attributes:
        norm: its name.
        job: what its steps need.
        train: `train_steps`, distributed.
        evaluate: `evaluate` by running statistics, distributed.
        evaluate_by_batch: `evaluate` by those of each batch, distributed.
        measure: `measure_population`, distributed.
        probe: `(variables, x)` to the activations of each layer, on one device.
    """

    norm: str
    job: Job
    train: Callable[..., Any]
    evaluate: Callable[..., Any]
    evaluate_by_batch: Callable[..., Any]
    measure: Callable[..., Any]
    probe: Callable[..., Any]


def create_arm(
    config: TrainConfig, parallel: Parallel, dataset: Dataset, name: str, steps: int
) -> tuple[Arm, TrainState]:
    """Returns the arm with the norm called `name`, and its state before the first step.

    Args:
        config: of the run.
        parallel: how it is spread.
        dataset: what is learned.
        name: of the norm.
        steps: in an epoch.
    """

    def model(bn_momentum: float) -> Any:
        norm = create_norm(
            name,
            momentum=bn_momentum,
            epsilon=config.bn_epsilon,
            axis_name=parallel.axis_name,
        )
        outputs, dtype = max(dataset.num_classes, 1), jnp.dtype(config.dtype)
        return create_model(config.model, outputs, norm, dtype=dtype)

    job = Job(
        model=model(config.bn_momentum),
        meter=model(0.0),
        optimizer=create_optimizer(config, steps),
        task=dataset.task,
        mean=dataset.mean,
        std=dataset.std,
        label_smoothing=config.label_smoothing,
        augment=config.augment,
        axis_name=parallel.axis_name,
    )
    few = to_float(dataset.train.inputs[:2], dataset.mean, dataset.std)
    state = create_state(job.model, job.optimizer, few, config.seed)
    whole, batch = (REPLICATED,) * 3, (SPLIT, SPLIT)
    spread = functools.partial(distribute, parallel)
    of_job = functools.partial
    if step_by_step(config, parallel):
        kinds = (*whole, SPLIT, NUMBER)
        step = spread(of_job(train_at, job), kinds, donate=(0, 1))
        train = functools.partial(train_one_by_one, step)
    else:
        kinds = (*whole, SPLIT, NUMBER, NUMBER)
        train = spread(of_job(train_steps, job), kinds, donate=(0, 1))
    arm = Arm(
        norm=name,
        job=job,
        train=train,
        evaluate=spread(of_job(evaluate, job, False), (*whole, *batch)),
        evaluate_by_batch=spread(of_job(evaluate, job, True), (*whole, *batch)),
        measure=spread(of_job(measure_population, job), (*whole, SPLIT)),
        probe=jax.jit(of_job(activations, job.meter)),
    )
    return arm, state


def step_by_step(config: TrainConfig, parallel: Parallel) -> bool:
    """Returns whether each batch should be a program of its own.

    On a CPU, XLA runs convolutions within a loop on one core, and slowly: a small
    ConvNet took seven times as long on two. Everywhere else a loop saves the calls.
    """
    convolves = config.model not in ("mlp", "narrow")
    return convolves and parallel.devices[0].platform == "cpu"


def train_one_by_one(
    step: Callable[..., Any],
    state: Any,
    metrics: Any,
    data: Any,
    rows: Any,
    start: np.ndarray,
    stop: np.ndarray,
) -> Any:
    """Does what `train_steps` does by calls of `step`; only compiles it for no step."""
    if start == stop:
        step(*jax.tree.map(jnp.copy, (state, metrics)), data, rows, start)
    for i in range(int(start), int(stop)):
        state, metrics = step(state, metrics, data, rows, np.int32(i))
    return state, metrics


class Examples(NamedTuple):
    """A split as programs take it: on the device, or streamed if it is too large.

    Attributes:
        source: the split.
        placed: the same with a copy on each device; None if it is streamed.
        by_batch: whether programs get one batch at a time.
    """

    source: Split
    placed: Split | None
    by_batch: bool


def place(parallel: Parallel, source: Split, by_batch: bool = False) -> Examples:
    """Returns `source` on the devices, unless it is of those that stay on disk."""
    if isinstance(source.inputs, Column):
        return Examples(source, None, True)
    return Examples(source, replicate(parallel, source), by_batch)


def pieces(
    parallel: Parallel, examples: Examples, rows: np.ndarray, *others: np.ndarray
) -> Iterator[tuple[Any, ...]]:
    """Yields `(data, rows, *others)` for programs: all at once, or batch by batch.

    A streamed batch is a data set of its own, whose rows are 0, 1, 2 ...
    """
    if examples.placed is not None:
        every = len(rows) if not examples.by_batch else 1
        for i in range(0, len(rows), every):
            parts = (split(parallel, part[i : i + every]) for part in (rows, *others))
            yield examples.placed, *parts
        return
    own = np.arange(rows.shape[1], dtype=np.int32)[None]
    for i, batch in enumerate(stream(examples.source, rows)):
        rest = (split(parallel, other[i : i + 1]) for other in others)
        yield replicate(parallel, batch), split(parallel, own), *rest


def score_test(
    arm: Arm,
    parallel: Parallel,
    state: TrainState,
    train: Examples,
    train_rows: np.ndarray,
    test: Examples,
) -> dict[str, float | None]:
    """Returns loss and accuracy on the test split with each kind of statistics.

    'test_loss' and 'test_accuracy' are with the running statistics, '..._precise' with
    those measured on `train_rows` of the training split, '..._batch' with those of each
    test batch.
    """
    batch_size = train_rows.shape[1]
    rows, mask = eval_indices(len(test.source.labels), batch_size)

    def score(program: Callable[..., Any], batch_stats: Any, suffix: str) -> dict:
        sums = [
            fetch(parallel, program(state.params, batch_stats, *piece))
            for piece in pieces(parallel, test, rows, mask)
        ]
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *sums)
        values = averages(total, arm.job.task)
        return {f"test_{name}{suffix}": value for name, value in values.items()}

    found = score(arm.evaluate, state.batch_stats, "")
    if not state.batch_stats:
        return found
    measured = [
        arm.measure(state.params, state.batch_stats, *piece)
        for piece in pieces(parallel, train, train_rows)
    ]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *measured)
    precise = merge_batch_stats(stacked, jnp.ones(len(measured)))
    found |= score(arm.evaluate, precise, "_precise")
    return found | score(arm.evaluate_by_batch, state.batch_stats, "_batch")
