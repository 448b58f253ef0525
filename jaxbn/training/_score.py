"""Scores: how an arm does on the test split, with each kind of statistics."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxbn.core import merge_moments
from jaxbn.data import Dataset, eval_indices
from jaxbn.population import assert_replicas_agree
from jaxbn.population._install import install
from jaxbn.training._arms import Arm
from jaxbn.training._feed import Examples, pieces
from jaxbn.training._histograms import histograms_of
from jaxbn.training._metrics import averages
from jaxbn.training._optim import averaged_weights
from jaxbn.training._parallel import Parallel, fetch, put
from jaxbn.training._state import TrainState
from jaxbn.training._step import variables_of

PROBES = 256
"""Test examples whose activations are drawn."""


def population_of(arm: Arm, parallel: Parallel, state: TrainState) -> Any:
    """Returns the running statistics that serve on all devices.

    Those of devices apart are pooled; those that all share are checked to be the same.

    Raises:
        AssertionError: if they are not, naming the layer.
    """
    if not state.batch_stats:
        return {}
    if parallel.apart:
        return arm.pool(state.batch_stats)
    stacked = parallel.mode == "pmap"
    if not (stacked and jax.process_count() > 1):
        assert_replicas_agree(state.batch_stats, stacked=stacked)
    return state.batch_stats


def score_test(
    arm: Arm,
    parallel: Parallel,
    state: TrainState,
    train: Examples,
    train_rows: np.ndarray,
    test: Examples,
) -> dict[str, float | None]:
    """Returns loss and accuracy on the test split with each kind of statistics.

    And top-5 accuracy, 'test_top5', of sets with 20 classes or more.

    'test_loss' and 'test_accuracy' are with the running statistics, '..._precise' with
    those measured on `train_rows` of the training split, '..._batch' with those of each
    test batch; '..._averaged...' are those of averaged weights, where there are some.
    """
    population = population_of(arm, parallel, state)
    rows, mask = eval_indices(len(test.source.labels), train_rows.shape[1])
    tested = functools.partial(pieces, parallel, test, rows, mask)
    given = functools.partial(pieces, parallel, train, train_rows)
    found = _score(arm, parallel, state.params, population, tested, given, "")
    averaged = averaged_weights(state.opt_state)
    if averaged is not None:
        parts = averaged, population, tested, given, "_averaged"
        found |= _score(arm, parallel, *parts)
    return found


def _score(
    arm: Arm,
    parallel: Parallel,
    params: Any,
    population: Any,
    tested: Callable[[], Iterable[Any]],
    trained: Callable[[], Iterable[Any]],
    whose: str,
) -> dict[str, float | None]:
    """Returns the scores of one set of weights; `whose` is part of their names."""

    def score(program: Callable[..., Any], batch_stats: Any, suffix: str) -> dict:
        sums = [fetch(parallel, program(params, batch_stats, *p)) for p in tested()]
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *sums)
        values = averages(total.sums, arm.job.task, total.in_top5)
        return {f"test_{name}{whose}{suffix}": value for name, value in values.items()}

    found = score(arm.evaluate, population, "")
    if not population:
        return found
    measured = [
        fetch(parallel, arm.measure(params, population, *piece)) for piece in trained()
    ]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *measured)
    precise = install_merged(fetch(parallel, population), stacked)
    found |= score(arm.evaluate, put(parallel, precise), "_precise")
    return found | score(arm.evaluate_by_batch, population, "_batch")


@jax.jit
def install_merged(batch_stats: Any, stacked: dict[str, Any]) -> Any:
    """Returns statistics from the moments of several batches, by layer, [steps, C]."""
    merged = {path: merge_moments(layer) for path, layer in stacked.items()}
    return install(batch_stats, merged)


def histograms(
    arm: Arm, parallel: Parallel, state: TrainState, dataset: Dataset
) -> dict[str, Any]:
    """Returns histograms of the activations on a few test examples."""
    population = population_of(arm, parallel, state)
    variables = variables_of(*fetch(parallel, (state.params, population)))
    return histograms_of(arm.probe(variables, dataset.test.inputs[:PROBES]))
