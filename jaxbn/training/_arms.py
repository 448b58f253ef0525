"""Arms: the same network, once with each normalization, and its compiled programs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn.data import Dataset
from jaxbn.data._pictures import holds_pictures
from jaxbn.population import merge_batch_stats
from jaxbn.training._config import TrainConfig
from jaxbn.training._feed import kinds_of_data
from jaxbn.training._finetune import holds_statistics, start_from
from jaxbn.training._histograms import activations
from jaxbn.training._norms import create_network
from jaxbn.training._optim import create_optimizer
from jaxbn.training._parallel import (
    AXIS,
    NUMBER,
    OWN,
    REPLICATED,
    SPLIT,
    Parallel,
    distribute,
)
from jaxbn.training._state import TrainState, create_state
from jaxbn.training._step import (
    Job,
    evaluate,
    measure_population,
    train_at,
    train_steps,
)

TOP5_FROM = 20
"""Classes from which on top-5 accuracy says something."""


class Arm(NamedTuple):
    """A network with one normalization.

    Attributes:
        norm: its name.
        job: what its steps need.
        train: `train_steps`, distributed.
        evaluate: `evaluate` by running statistics, distributed.
        evaluate_by_batch: `evaluate` by those of each batch, distributed.
        measure: `measure_population`, distributed.
        pool: running statistics of devices apart to those of all.
        kinds: what each part of the training state is to `put` and `fetch`.
        probe: `(variables, inputs)` to the activations of each layer, on one device.
    """

    norm: str
    job: Job
    train: Callable[..., Any]
    evaluate: Callable[..., Any]
    evaluate_by_batch: Callable[..., Any]
    measure: Callable[..., Any]
    pool: Callable[..., Any]
    kinds: Any
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

    job = Job(
        model=create_network(
            config,
            name,
            num_classes=dataset.num_classes,
            num_domains=dataset.num_domains,
            axis_name=parallel.norm_axis,
            normalization_batch_size=config.normalization_batch_size,
        ),
        optimizer=create_optimizer(config, steps),
        task=dataset.task,
        mean=dataset.mean,
        std=dataset.std,
        label_smoothing=config.label_smoothing,
        augment=config.augment and not holds_pictures(dataset.train),
        axis_name=parallel.axis_name,
        apart=parallel.apart,
        num_domains=dataset.num_domains,
        by_domain=name == "domain",
        on_nonfinite=config.on_nonfinite,
        top5=dataset.num_classes >= TOP5_FROM,
    )
    few = jnp.zeros((2, *dataset.train.inputs.shape[1:]), jnp.float32)
    start = functools.partial(start_from, config, name)
    state = create_state(job.model, job.optimizer, few, config.seed, start)
    job = job._replace(frozen=holds_statistics(config, name, state.batch_stats))
    kinds = state_kinds(parallel)
    whole = REPLICATED, REPLICATED
    train_data, test_data = map(kinds_of_data, (dataset.train, dataset.test))
    spread = functools.partial(distribute, parallel)
    of_job = functools.partial
    taken, given = (kinds, REPLICATED, *train_data), (kinds, REPLICATED)
    if step_by_step(config, parallel):
        one = of_job(train_at, job)
        step = spread(one, (*taken, NUMBER), given, donate=(0, 1))
        train = functools.partial(train_one_by_one, step)
    else:
        steps_ = of_job(train_steps, job)
        train = spread(steps_, (*taken, NUMBER, NUMBER), given, donate=(0, 1))
    scored = (*whole, *test_data, SPLIT)
    arm = Arm(
        norm=name,
        job=job,
        train=train,
        evaluate=spread(of_job(evaluate, job, False), scored),
        evaluate_by_batch=spread(of_job(evaluate, job, True), scored),
        measure=spread(of_job(measure_population, job), (*whole, *train_data)),
        pool=spread(of_job(merge_batch_stats, axis_name=AXIS), (OWN,)),
        kinds=kinds,
        probe=jax.jit(of_job(activations, job)),
    )
    return arm, state


def state_kinds(parallel: Parallel) -> Any:
    """Returns what each part of a `TrainState` is to `put` and `fetch`."""
    kinds: Any = TrainState._make([REPLICATED] * len(TrainState._fields))
    return kinds._replace(batch_stats=parallel.statistics)


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
    if start == stop and jax.process_count() == 1:
        step(*jax.tree.map(jnp.copy, (state, metrics)), data, rows, start)
    for i in range(int(start), int(stop)):
        state, metrics = step(state, metrics, data, rows, np.int32(i))
    return state, metrics
