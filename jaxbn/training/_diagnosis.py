"""The diagnosis that `--diagnose` asks for: drift, dead channels, leakage by layer."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn.data import Dataset, read_rows, to_float
from jaxbn.diagnostics import (
    drift_table,
    find_dead,
    find_stale,
    leakage_table,
    measure_drift,
    plot_drift,
    probe_leakage,
)
from jaxbn.training._arms import Arm
from jaxbn.training._files import write_text, write_whole
from jaxbn.training._parallel import Parallel, fetch
from jaxbn.training._score import population_of
from jaxbn.training._state import TrainState
from jaxbn.training._step import read_labels, variables_of

EXAMPLES = 256
"""Test examples that are looked at, evenly spaced; the leakage probe takes some 64."""


def diagnose(
    arm: Arm,
    parallel: Parallel,
    state: TrainState,
    dataset: Dataset,
    workdir: Path | None,
    epoch: int,
    momentum: float,
) -> str:
    """Returns a line on an arm's layers, '' without statistics; writes what it is of.

    `diagnosis-NORM.txt` and `.png` in the workdir are of the last evaluation. Leakage
    is measured where one device normalizes by itself: elsewhere the mates are spread.
    `momentum` is that of the running statistics.
    """
    population = population_of(arm, parallel, state)
    if not population:
        return ""
    variables = variables_of(*fetch(parallel, (state.params, population)))
    num = len(dataset.test.labels)
    rows = np.linspace(0, num - 1, min(EXAMPLES, num)).astype(int)
    inputs, labels = read_rows(dataset.test, rows)
    x = to_float(np.asarray(inputs), arm.job.mean, arm.job.std)
    _, told = read_labels(arm.job, jnp.asarray(labels))
    drifts = measure_drift(arm.job.model, variables, x, False, **told)
    texts = [f"epoch {epoch}, running statistics against {len(x)} test examples"]
    texts += [drift_table(drifts, momentum=momentum)]
    few, of_few = jax.tree.map(lambda a: a[:: max(len(x) // 64, 1)][:64], (x, told))
    if parallel.norm_axis is None and len(few) > 1:
        try:
            found = probe_leakage(arm.job.model, variables, few, True, **of_few)
        except ValueError as error:  # A report is no reason to end a run.
            texts += [f"leakage was not probed: {error}"]
        else:
            texts += [f"one of {len(few)} examples, its mates exchanged, in training"]
            texts += [leakage_table(found)]
    if workdir is not None:
        name = workdir / f"diagnosis-{arm.norm}"
        write_text(name.with_suffix(".txt"), "\n\n".join(texts) + "\n")
        figure: Any = plot_drift(drifts)
        write_whole(name.with_suffix(".png"), figure.savefig)
    stale, dead = find_stale(drifts, momentum=momentum), find_dead(drifts)
    said = f"stale: {', '.join(stale) or 'none'}; dead channels: "
    return said + (", ".join(f"{p} {len(c)}" for p, c in dead.items()) or "none")
