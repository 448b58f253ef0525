"""Scores: how an arm does on the test split, with each kind of statistics."""

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
    weights = {"": state.params}
    averaged = averaged_weights(state.opt_state)
    if averaged is not None:
        weights["_averaged"] = averaged
    precise = {}
    if population:
        measured = measure_moments(
            arm, parallel, weights, population, train, train_rows
        )
        held = fetch(parallel, population)
        for whose, moments in measured.items():
            precise[whose] = put(parallel, install_merged(held, moments))
    runs = {}
    for whose, params in weights.items():
        runs[whose] = arm.evaluate, params, population
        if population:
            runs[f"{whose}_precise"] = arm.evaluate, params, precise[whose]
            runs[f"{whose}_batch"] = arm.evaluate_by_batch, params, population
    rows, mask = eval_indices(len(test.source.labels), train_rows.shape[1])
    sums: dict[str, list[Any]] = {suffix: [] for suffix in runs}
    for piece in pieces(parallel, test, rows, mask):  # Each is read once for all.
        for suffix, (program, params, stats) in runs.items():
            sums[suffix].append(fetch(parallel, program(params, stats, *piece)))
    found = {}
    for suffix, parts in sums.items():
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *parts)
        values = averages(total.sums, arm.job.task, total.in_top5)
        found |= {f"test_{name}{suffix}": value for name, value in values.items()}
    return found


def measure_moments(
    arm: Arm,
    parallel: Parallel,
    weights: dict[str, Any],
    population: Any,
    train: Examples,
    rows: np.ndarray,
) -> dict[str, Any]:
    """Returns the moments of training batches by layer, stacked, for each weights."""
    found: dict[str, list[Any]] = {whose: [] for whose in weights}
    for piece in pieces(parallel, train, rows):
        for whose, params in weights.items():
            moments = fetch(parallel, arm.measure(params, population, *piece))
            found[whose].append(moments)
    stack = lambda *parts: np.stack(parts)
    return {whose: jax.tree.map(stack, *parts) for whose, parts in found.items()}


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
